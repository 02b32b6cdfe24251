//! The changes of a file: as a set to watch for, and as reported.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use rustix::fs::inotify::{ReadFlags, WatchFlags};

/// The changes that a watch reports. Sets combine with `|`.
///
/// [`Overflow`](FileChange::Overflow), [`WatchRemoved`](FileChange::WatchRemoved) and
/// [`Unmounted`](FileChange::Unmounted) are always reported.
///
/// ```
/// use reveille::fs::FileChanges;
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
    /// Both sides of a move.
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
    /// All changes of a directory's entries, of the file that an entry refers to, or of a file's
    /// content: everything except opening, reading and closing.
    pub const WRITES: FileChanges = FileChanges(
        FileChanges::CREATED.0
            | FileChanges::DELETED.0
            | FileChanges::MODIFIED.0
            | FileChanges::ATTRIBUTES.0
            | FileChanges::MOVED.0
            | FileChanges::SELF_DELETED.0
            | FileChanges::SELF_MOVED.0,
    );
    /// All changes.
    pub const ALL: FileChanges = FileChanges(WatchFlags::ALL_EVENTS.bits());

    /// Whether this set contains all of `other`.
    pub const fn contains(self, other: FileChanges) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set contains the kernel's event.
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

/// A change of a file, or of a watch.
///
/// The first ten refer to a watched file or, with a [name](super::FileEvent::name), to an entry of
/// a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileChange {
    /// A file, directory or link was created in the directory, other than by a move.
    Created,
    /// An entry was removed from the directory, other than by a move.
    Deleted,
    /// A file was written to or truncated.
    Modified,
    /// The file's owner, mode, times, extended attributes or link count have changed.
    Attributes,
    /// An entry was moved out of the directory.
    MovedFrom {
        /// Equal for both sides of one move, and different from that of any other recent move. The
        /// other side is reported only if it lies in a watched directory; then it follows directly,
        /// except that events of other files can come in between.
        cookie: u32,
    },
    /// An entry was moved into the directory. It may have replaced another entry.
    MovedTo {
        /// Same as in [`MovedFrom`](FileChange::MovedFrom).
        cookie: u32,
    },
    /// The file was opened.
    Opened,
    /// The file was read.
    Accessed,
    /// A descriptor open for writing was closed.
    ClosedWritten,
    /// A descriptor not open for writing was closed.
    ClosedUnwritten,
    /// The watched file or directory itself was deleted: its last link was removed and it is no
    /// longer open. [`WatchRemoved`](FileChange::WatchRemoved) follows.
    SelfDeleted,
    /// The watched file or directory itself was moved. The watch follows it, and its events keep
    /// the old path.
    SelfMoved,
    /// The file system of the watched file was unmounted.
    /// [`WatchRemoved`](FileChange::WatchRemoved) follows.
    Unmounted,
    /// The kernel has removed the watch, since its file no longer exists. Not reported after
    /// [`unwatch`](super::Watcher::unwatch).
    WatchRemoved,
    /// Events were lost: the kernel's queue (`fs.inotify.max_queued_events`) was full before the
    /// loop read it. It belongs to no watch; all watched files must be checked again.
    Overflow,
}

impl FileChange {
    /// Whether every watch reports it, regardless of its set.
    pub(super) fn is_always_reported(self) -> bool {
        matches!(self, FileChange::Unmounted | FileChange::WatchRemoved | FileChange::Overflow)
    }

    /// Whether the kernel reliably reports whether a directory was affected.
    pub(super) fn has_directory_flag(self) -> bool {
        let of_the_watch_itself = matches!(self, FileChange::SelfDeleted | FileChange::SelfMoved);
        !of_the_watch_itself && !self.is_always_reported()
    }

    /// Decodes the kernel's event bit. Returns `None` for an unknown one.
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
