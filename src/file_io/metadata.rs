//! Metadata of a file.

use std::fmt;

use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, named or anonymous.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: a terminal, /dev/null.
    CharacterDevice,
    /// A block device: a disk.
    BlockDevice,
    /// Another type.
    Other,
}

/// A timestamp of a file system, relative to the beginning of 1970, UTC.
///
/// From 1970 on, the two fields are the arguments of [`Duration::new`](std::time::Duration::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds to add to the seconds, less than a thousand million.
    pub nanoseconds: u32,
}

/// The metadata of a file (statx(2)), from [`FileIo::metadata`](crate::fs::FileIo::metadata) and
/// [`FileIo::metadata_at`](crate::fs::FileIo::metadata_at).
#[derive(Clone, Copy)]
pub struct Metadata {
    statx: Statx,
}

impl Metadata {
    /// The fields to request for a [`Metadata`].
    pub(super) const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

    /// Returns the type of the file.
    pub fn kind(&self) -> FileKind {
        match FileType::from_raw_mode(self.statx.stx_mode.into()) {
            FileType::RegularFile => FileKind::Regular,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::CharacterDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            _ => FileKind::Other,
        }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileKind::Regular
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// Returns the size in bytes. 0 for most files that are not regular, and for files of /proc.
    pub fn size(&self) -> u64 {
        self.statx.stx_size
    }

    /// Returns the permissions: the lower twelve bits of the mode (chmod(2)).
    pub fn mode(&self) -> u32 {
        u32::from(self.statx.stx_mode) & 0o7777
    }

    /// Returns the id of the owner.
    pub fn user_id(&self) -> u32 {
        self.statx.stx_uid
    }

    /// Returns the id of the group.
    pub fn group_id(&self) -> u32 {
        self.statx.stx_gid
    }

    /// Returns the number of hard links.
    pub fn links(&self) -> u32 {
        self.statx.stx_nlink
    }

    /// Returns the inode number. Two files are the same if both this and the
    /// [device](Metadata::device) are equal.
    pub fn inode(&self) -> u64 {
        self.statx.stx_ino
    }

    /// Returns the device of its file system: major and minor number.
    pub fn device(&self) -> (u32, u32) {
        (self.statx.stx_dev_major, self.statx.stx_dev_minor)
    }

    /// Returns the number of allocated blocks of 512 bytes. Less than the size suggests if the file
    /// has holes.
    pub fn blocks(&self) -> u64 {
        self.statx.stx_blocks
    }

    /// Returns the time of the last write.
    pub fn modified(&self) -> FileTime {
        time(&self.statx.stx_mtime)
    }

    /// Returns the time of the last read, as far as the file system records it.
    pub fn accessed(&self) -> FileTime {
        time(&self.statx.stx_atime)
    }

    /// Returns the time of the last change of contents, permissions, owner or links.
    pub fn changed(&self) -> FileTime {
        time(&self.statx.stx_ctime)
    }

    /// Returns the time of creation, if the file system records it.
    pub fn created(&self) -> Option<FileTime> {
        let is_known = self.statx.stx_mask & StatxFlags::BTIME.bits() != 0;
        is_known.then(|| time(&self.statx.stx_btime))
    }
}

impl From<Statx> for Metadata {
    fn from(statx: Statx) -> Metadata {
        Metadata { statx }
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStatus")
            .field("kind", &self.kind())
            .field("size", &self.size())
            .field("mode", &format_args!("{:#o}", self.mode()))
            .field("modified", &self.modified())
            .finish_non_exhaustive()
    }
}

fn time(time: &StatxTimestamp) -> FileTime {
    FileTime { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}
