//! What can happen to a file, as it is asked for and as it is told.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use rustix::fs::inotify::{ReadFlags, WatchFlags};

/// What a watch asks for. Sets combine with `|`.
///
/// [`Overflow`](FileChange::Overflow), [`WatchRemoved`](FileChange::WatchRemoved) and [`Unmounted`](FileChange::Unmounted) are told
/// without being asked for.
///
/// ```
/// use reveille::FileChanges;
///
/// let contents = FileChanges::CREATED | FileChanges::DELETED | FileChanges::MOVED;
/// assert!(contents.contains(FileChanges::MOVED_TO));
/// assert!(!contents.contains(FileChanges::MODIFIED));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileChanges(u32);

const NAMES: [(FileChanges, &str); 12] = [
    (FileChanges::CREATED, "CREATED"),
    (FileChanges::DELETED, "DELETED"),
    (FileChanges::MODIFIED, "MODIFIED"),
    (FileChanges::ATTRIBUTES, "ATTRIBUTES"),
    (FileChanges::MOVED_FROM, "MOVED_FROM"),
    (FileChanges::MOVED_TO, "MOVED_TO"),
    (FileChanges::OPENED, "OPENED"),
    (FileChanges::ACCESSED, "ACCESSED"),
    (FileChanges::CLOSED_WRITTEN, "CLOSED_WRITTEN"),
    (FileChanges::CLOSED_UNWRITTEN, "CLOSED_UNWRITTEN"),
    (FileChanges::SELF_DELETED, "SELF_DELETED"),
    (FileChanges::SELF_MOVED, "SELF_MOVED"),
];

impl FileChanges {
    /// [`FileChange::Created`].
    pub const CREATED: FileChanges = FileChanges(WatchFlags::CREATE.bits());
    /// [`FileChange::Deleted`].
    pub const DELETED: FileChanges = FileChanges(WatchFlags::DELETE.bits());
    /// [`FileChange::Modified`].
    pub const MODIFIED: FileChanges = FileChanges(WatchFlags::MODIFY.bits());
    /// [`FileChange::Attributes`].
    pub const ATTRIBUTES: FileChanges = FileChanges(WatchFlags::ATTRIB.bits());
    /// [`FileChange::MovedFrom`].
    pub const MOVED_FROM: FileChanges = FileChanges(WatchFlags::MOVED_FROM.bits());
    /// [`FileChange::MovedTo`].
    pub const MOVED_TO: FileChanges = FileChanges(WatchFlags::MOVED_TO.bits());
    /// Both ends of a move.
    pub const MOVED: FileChanges = FileChanges(WatchFlags::MOVE.bits());
    /// [`FileChange::Opened`].
    pub const OPENED: FileChanges = FileChanges(WatchFlags::OPEN.bits());
    /// [`FileChange::Accessed`].
    pub const ACCESSED: FileChanges = FileChanges(WatchFlags::ACCESS.bits());
    /// [`FileChange::ClosedWritten`].
    pub const CLOSED_WRITTEN: FileChanges = FileChanges(WatchFlags::CLOSE_WRITE.bits());
    /// [`FileChange::ClosedUnwritten`].
    pub const CLOSED_UNWRITTEN: FileChanges = FileChanges(WatchFlags::CLOSE_NOWRITE.bits());
    /// [`FileChange::SelfDeleted`].
    pub const SELF_DELETED: FileChanges = FileChanges(WatchFlags::DELETE_SELF.bits());
    /// [`FileChange::SelfMoved`].
    pub const SELF_MOVED: FileChanges = FileChanges(WatchFlags::MOVE_SELF.bits());
    /// Everything that changes a directory's list of names, or what a name stands for, or a file's content: all but opening,
    /// reading and closing.
    pub const WRITES: FileChanges = FileChanges(
        FileChanges::CREATED.0
            | FileChanges::DELETED.0
            | FileChanges::MODIFIED.0
            | FileChanges::ATTRIBUTES.0
            | FileChanges::MOVED.0
            | FileChanges::SELF_DELETED.0
            | FileChanges::SELF_MOVED.0,
    );
    /// Everything there is.
    pub const ALL: FileChanges = FileChanges(WatchFlags::ALL_EVENTS.bits());

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: FileChanges) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the kernel's event is one of these.
    pub(super) fn has(self, event: ReadFlags) -> bool {
        self.0 & event.bits() & FileChanges::ALL.0 != 0
    }

    pub(super) fn to_flags(self) -> WatchFlags {
        WatchFlags::from_bits_retain(self.0)
    }
}

impl BitOr for FileChanges {
    type Output = FileChanges;

    fn bitor(self, other: FileChanges) -> FileChanges {
        FileChanges(self.0 | other.0)
    }
}

impl BitOrAssign for FileChanges {
    fn bitor_assign(&mut self, other: FileChanges) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for FileChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (_, name) in NAMES.iter().filter(|(change, _)| self.contains(*change)) {
            write!(f, "{separator}{name}")?;
            separator = " | ";
        }
        Ok(())
    }
}

/// What has happened to a file, or to a watch.
///
/// The first ten are of a watched file, or, with a [name](super::FileEvent::name), of one in a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileChange {
    /// A file, directory or link has come to be in the directory, by other means than a move.
    Created,
    /// A name has gone from the directory, by other means than a move.
    Deleted,
    /// A file was written to or truncated.
    Modified,
    /// Its owner, mode, times or extended attributes have changed, or the number of its links.
    Attributes,
    /// A name has gone from the directory by a move.
    MovedFrom {
        /// The same for both ends of one move, and for no other in sight. The other end is told only where it lies in a watched
        /// directory too; then it comes next, save for events of others that fall in between.
        cookie: u32,
    },
    /// A name has come into the directory by a move, perhaps in place of one that was there.
    MovedTo {
        /// As for [`MovedFrom`](FileChange::MovedFrom).
        cookie: u32,
    },
    /// Somebody has opened it.
    Opened,
    /// Somebody has read from it.
    Accessed,
    /// Somebody who could have written has closed it.
    ClosedWritten,
    /// Somebody who could not have written has closed it.
    ClosedUnwritten,
    /// The watched file or directory itself was deleted: its last link is gone and nobody has it open.
    /// [`WatchRemoved`](FileChange::WatchRemoved) follows.
    SelfDeleted,
    /// The watched file or directory itself was moved. The watch goes with it, and its events still have the old path.
    SelfMoved,
    /// The file system of the watched file was unmounted. [`WatchRemoved`](FileChange::WatchRemoved) follows.
    Unmounted,
    /// The kernel has ended the watch, since there is nothing left to watch. Not told after
    /// [`unwatch`](super::Watcher::unwatch).
    WatchRemoved,
    /// Events have been lost: more had come than the kernel keeps (`fs.inotify.max_queued_events`) before the loop read them. It
    /// belongs to no watch, and what is watched has to be looked at anew.
    Overflow,
}

impl FileChange {
    /// Whether every watch has it, whatever that asks for.
    pub(super) fn is_always_reported(self) -> bool {
        matches!(self, FileChange::Unmounted | FileChange::WatchRemoved | FileChange::Overflow)
    }

    /// Whether the kernel says reliably that it has happened to a directory.
    pub(super) fn says_of_what(self) -> bool {
        let of_the_watch_itself = matches!(self, FileChange::SelfDeleted | FileChange::SelfMoved);
        !of_the_watch_itself && !self.is_always_reported()
    }

    /// What the kernel's one bit says. `None` if it is one that this crate has not heard of.
    pub(super) fn from_flags(flags: ReadFlags, cookie: u32) -> Option<FileChange> {
        let known = [
            (ReadFlags::CREATE, FileChange::Created),
            (ReadFlags::DELETE, FileChange::Deleted),
            (ReadFlags::MODIFY, FileChange::Modified),
            (ReadFlags::ATTRIB, FileChange::Attributes),
            (ReadFlags::MOVED_FROM, FileChange::MovedFrom { cookie }),
            (ReadFlags::MOVED_TO, FileChange::MovedTo { cookie }),
            (ReadFlags::OPEN, FileChange::Opened),
            (ReadFlags::ACCESS, FileChange::Accessed),
            (ReadFlags::CLOSE_WRITE, FileChange::ClosedWritten),
            (ReadFlags::CLOSE_NOWRITE, FileChange::ClosedUnwritten),
            (ReadFlags::DELETE_SELF, FileChange::SelfDeleted),
            (ReadFlags::MOVE_SELF, FileChange::SelfMoved),
            (ReadFlags::UNMOUNT, FileChange::Unmounted),
            (ReadFlags::IGNORED, FileChange::WatchRemoved),
            (ReadFlags::QUEUE_OVERFLOW, FileChange::Overflow),
        ];
        known.into_iter().find(|(flag, _)| flags.contains(*flag)).map(|(_, change)| change)
    }
}
