//! A file that operations share.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// An open file, for the operations of [`FileIo`](crate::fs::FileIo).
///
/// From [`FileIo::open`](crate::fs::FileIo::open), or from any other descriptor of the program: a
/// [`std::fs::File`], the end of a pipe, a terminal.
///
/// Operations in progress keep the descriptor open, even after this value is dropped, so its number
/// is not reused for another file meanwhile. Dropping the last owner closes the descriptor, on the
/// dropping thread and ignoring errors. [`FileIo::close`](crate::fs::FileIo::close) closes it
/// elsewhere.
///
/// Can be sent to other threads. To share one, put it into an [`Arc`] or [`Rc`](std::rc::Rc).
///
/// ```
/// use reveille::fs::File;
///
/// # fn main() -> std::io::Result<()> {
/// let file = File::from(std::fs::File::open("/etc/passwd")?);
/// # drop(file);
/// # Ok(())
/// # }
/// ```
pub struct File {
    descriptor: Arc<OwnedFd>,
}

impl File {
    /// Another owner of the same descriptor.
    pub(super) fn share(&self) -> File {
        File { descriptor: Arc::clone(&self.descriptor) }
    }

    /// Returns the descriptor.
    ///
    /// # Errors
    /// Returns the file if operations on it are in progress.
    pub fn into_descriptor(self) -> Result<OwnedFd, File> {
        Arc::try_unwrap(self.descriptor).map_err(|descriptor| File { descriptor })
    }
}

impl From<OwnedFd> for File {
    fn from(descriptor: OwnedFd) -> File {
        File { descriptor: Arc::new(descriptor) }
    }
}

impl From<fs::File> for File {
    fn from(file: fs::File) -> File {
        File::from(OwnedFd::from(file))
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("fd", &self.as_raw_fd()).finish()
    }
}
