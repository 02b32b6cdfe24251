//! Options for opening a file.

use std::io;

use rustix::fs::{Mode, OFlags};

/// Options of [`FileIo::open`](crate::fs::FileIo::open), modelled on [`std::fs::OpenOptions`].
///
/// The descriptor is always close-on-exec.
///
/// ```
/// use reveille::fs::OpenOptions;
///
/// let to_read = OpenOptions::reading();
/// let log = OpenOptions::appending().create().mode(0o640);
/// let of_our_own = OpenOptions::reading_and_writing().create_new();
/// # let _ = (to_read, log, of_our_own);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "options do nothing until a file is opened with them"]
pub struct OpenOptions {
    flags: OFlags,
    mode: u32,
}

impl OpenOptions {
    const fn new(access: OFlags) -> OpenOptions {
        OpenOptions { flags: access, mode: 0o666 }
    }

    /// Opens an existing file for reading.
    pub const fn reading() -> OpenOptions {
        OpenOptions::new(OFlags::RDONLY)
    }

    /// Opens an existing file for writing.
    pub const fn writing() -> OpenOptions {
        OpenOptions::new(OFlags::WRONLY)
    }

    /// Opens an existing file for reading and writing.
    pub const fn reading_and_writing() -> OpenOptions {
        OpenOptions::new(OFlags::RDWR)
    }

    /// Opens an existing file for appending: each write goes to the end of the file at that time.
    /// The kernel then ignores the offset of a write (pwrite(2), bugs).
    pub const fn appending() -> OpenOptions {
        OpenOptions::new(OFlags::WRONLY.union(OFlags::APPEND))
    }

    /// Creates the file if it does not exist.
    pub const fn create(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::CREATE);
        self
    }

    /// Creates the file. Fails with [`AlreadyExists`](io::ErrorKind::AlreadyExists) if it exists,
    /// even as a dangling symbolic link.
    pub const fn create_new(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::CREATE).union(OFlags::EXCL);
        self
    }

    /// Truncates the file if it exists.
    pub const fn truncate(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::TRUNC);
        self
    }

    /// Sets the permissions of a file that is created, reduced by the umask of the process.
    /// Default: 0o666.
    pub const fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// Fails with ELOOP if the last component of the path is a symbolic link.
    pub const fn no_follow(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::NOFOLLOW);
        self
    }

    /// Does not wait for the other end of a pipe: opening for reading succeeds without a writer,
    /// and opening for writing fails without a reader (ENXIO). The descriptor is in non-blocking
    /// mode, which has no effect on [`FileIo`](crate::fs::FileIo), with one exception: a ring opens
    /// such a file inline, whereas others go to a kernel thread first. So files known to be regular
    /// are opened faster.
    pub const fn nonblocking(mut self) -> OpenOptions {
        self.flags = self.flags.union(OFlags::NONBLOCK);
        self
    }

    /// Converts the options to flags and a mode for open(2).
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if a file that is opened only for reading
    /// would be created or truncated, or one that is opened for appending would be truncated, the
    /// same as with the standard library.
    pub(super) fn to_flags(self) -> io::Result<(OFlags, Mode)> {
        let is_to_be_written = self.flags.intersects(OFlags::WRONLY.union(OFlags::RDWR));
        if !is_to_be_written && self.flags.intersects(OFlags::CREATE.union(OFlags::TRUNC)) {
            return Err(invalid("a file opened only for reading cannot be created or truncated"));
        }
        if self.flags.contains(OFlags::APPEND.union(OFlags::TRUNC)) {
            return Err(invalid("a file opened for appending cannot be truncated"));
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
