//! What the kernel knows of a file.

use std::fmt;

use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// Bytes on a disk, or what passes for it.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, with a name or without.
    Fifo,
    /// A socket.
    Socket,
    /// A device of characters: a terminal, /dev/null.
    CharacterDevice,
    /// A device of blocks: a disk.
    BlockDevice,
    /// Something else.
    Other,
}

/// A time as a file system keeps it: since the beginning of 1970, UTC.
///
/// The two are what [`Duration::new`](std::time::Duration::new) takes, from 1970 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds; less than 0 before 1970.
    pub seconds: i64,
    /// Nanoseconds to be added to these, less than a thousand million.
    pub nanoseconds: u32,
}

/// What the kernel knows of a file (statx(2)), from [`FileIo::metadata`](crate::FileIo::metadata) and
/// [`FileIo::metadata_at`](crate::FileIo::metadata_at).
#[derive(Clone, Copy)]
pub struct Metadata {
    statx: Statx,
}

impl Metadata {
    /// What a [`Metadata`] is made of.
    pub(super) const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

    /// What kind of file it is.
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

    /// The size in bytes. 0 for most of what is no regular file, and for files of /proc.
    pub fn size(&self) -> u64 {
        self.statx.stx_size
    }

    /// The permissions: the lower twelve bits of the mode (chmod(2)).
    pub fn mode(&self) -> u32 {
        u32::from(self.statx.stx_mode) & 0o7777
    }

    /// The user it belongs to.
    pub fn user_id(&self) -> u32 {
        self.statx.stx_uid
    }

    /// The group it belongs to.
    pub fn group_id(&self) -> u32 {
        self.statx.stx_gid
    }

    /// How many names it has.
    pub fn links(&self) -> u32 {
        self.statx.stx_nlink
    }

    /// Its number on its file system. Two files are the same if this and the [device](Metadata::device) are.
    pub fn inode(&self) -> u64 {
        self.statx.stx_ino
    }

    /// The device that its file system is on: major and minor number.
    pub fn device(&self) -> (u32, u32) {
        (self.statx.stx_dev_major, self.statx.stx_dev_minor)
    }

    /// How many blocks of 512 bytes it takes; fewer than its size says if it has holes.
    pub fn blocks(&self) -> u64 {
        self.statx.stx_blocks
    }

    /// When it was last written.
    pub fn modified(&self) -> FileTime {
        time(&self.statx.stx_mtime)
    }

    /// When it was last read, as far as the file system keeps that.
    pub fn accessed(&self) -> FileTime {
        time(&self.statx.stx_atime)
    }

    /// When its status last changed: its contents, permissions, owner or names.
    pub fn changed(&self) -> FileTime {
        time(&self.statx.stx_ctime)
    }

    /// When it was made, if the file system keeps that.
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
