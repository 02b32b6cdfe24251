//! How a file is opened.

use std::io;

use rustix::fs::{Mode, OFlags};

/// How [`FileIo::open`](crate::FileIo::open) opens a file, after [`std::fs::OpenOptions`].
///
/// The descriptor is always closed on exec.
///
/// ```
/// use reveille::OpenOptions;
///
/// let to_read = OpenOptions::reading();
/// let log = OpenOptions::appending().create().mode(0o640);
/// let of_our_own = OpenOptions::reading_and_writing().create_new();
/// # let _ = (to_read, log, of_our_own);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a file is opened with it"]
pub struct OpenOptions {
    flags: OFlags,
    mode: u32,
}

impl OpenOptions {
    const fn new(access: OFlags) -> OpenOptions {
        OpenOptions { flags: access, mode: 0o666 }
    }

    /// A file that is there, to be read.
    pub const fn reading() -> OpenOptions {
        OpenOptions::new(OFlags::RDONLY)
    }

    /// A file that is there, to be written.
    pub const fn writing() -> OpenOptions {
        OpenOptions::new(OFlags::WRONLY)
    }

    /// A file that is there, to be read and written.
    pub const fn reading_and_writing() -> OpenOptions {
        OpenOptions::new(OFlags::RDWR)
    }

    /// A file that is there, to be written at its end, wherever that is at the moment of each write. The kernel then
    /// ignores the offset of a write (pwrite(2), bugs).
    pub const fn appending() -> OpenOptions {
        OpenOptions::new(OFlags::WRONLY.union(OFlags::APPEND))
    }

    /// Makes the file if it is not there.
    pub const fn create(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::CREATE);
        self
    }

    /// Makes the file, and fails with [`AlreadyExists`](io::ErrorKind::AlreadyExists) if it is there, be it a
    /// symbolic link that leads nowhere.
    pub const fn create_new(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::CREATE).union(OFlags::EXCL);
        self
    }

    /// Empties the file if it is there.
    pub const fn truncate(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::TRUNC);
        self
    }

    /// The permissions of a file that is made, less those that the process's umask takes away. Usually 0o666.
    pub const fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// Does not follow a symbolic link at the end of the path: that is ELOOP.
    pub const fn no_follow(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::NOFOLLOW);
        self
    }

    /// Does not wait for others to open it too: a pipe is opened to be read without a writer, and fails to be opened
    /// to be written without a reader (ENXIO). The descriptor is in non-blocking mode, which makes no difference to
    /// [`FileIo`](crate::FileIo) otherwise, but that a ring opens such a file at once, where another goes to a thread
    /// of the kernel's first: files known to be regular are opened faster.
    pub const fn nonblocking(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::NONBLOCK);
        self
    }

    /// What the kernel is told.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if a file that is only read would be made or emptied, or one
    /// that is appended to would be emptied, as with the standard library.
    pub(super) fn to_flags(self) -> io::Result<(OFlags, Mode)> {
        let is_to_be_written = self.flags.intersects(OFlags::WRONLY.union(OFlags::RDWR));
        if !is_to_be_written && self.flags.intersects(OFlags::CREATE.union(OFlags::TRUNC)) {
            return Err(invalid("a file that is opened only to be read is neither made nor emptied"));
        }
        if self.flags.contains(OFlags::APPEND.union(OFlags::TRUNC)) {
            return Err(invalid("a file that is opened to be appended to is not emptied"));
        }
        if self.mode & !0o7777 != 0 {
            return Err(invalid("the mode of a file has twelve bits"));
        }
        Ok((self.flags | OFlags::CLOEXEC, Mode::from_raw_mode(self.mode)))
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
