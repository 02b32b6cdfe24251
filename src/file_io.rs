//! File I/O on a loop: operations run elsewhere, and their results are callbacks on the loop.
//!
//! For epoll a regular file is always ready, yet a read of it can block in the kernel. So file
//! operations are passed to a backend, which runs them beside the loop and signals an eventfd that
//! the loop watches.
//!
//! There are two backends: io_uring and a pool of threads. Both take an operation with all its data
//! by value, and return its outcome. The callback stays with the loop, so a backend has no access
//! to data of the loop's thread.

mod backend;
mod builder;
mod core;
mod fault;
mod file;
mod futures;
mod metadata;
mod open_options;
mod operation;
mod slab;
mod write;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use self::backend::FileIoBackend;
pub use self::builder::FileIoBuilder;
pub use self::core::OperationId;
use self::core::{Callback, FileIoCore};
pub use self::file::File;
pub use self::metadata::{FileKind, FileTime, Metadata};
pub use self::open_options::OpenOptions;
use self::operation::{Operation, Outcome, Position, Sync, Target};
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Registration};

/// Asynchronous file I/O on a loop: each operation is started here, runs elsewhere, and completes
/// with a callback on the loop.
///
/// # Back ends
/// With the feature `uring`, and a kernel that supports it, operations use an io_uring
/// (io_uring(7)): those of a turn are submitted with one system call, and their results are read
/// without one. Otherwise a few threads run them. The two behave alike, with these exceptions;
/// [`backend`](FileIo::backend) returns which one is in use:
/// - A ring runs as many operations at a time as it has [entries](FileIoBuilder::entries),
///   including those that wait for a pipe. Each thread runs one.
/// - A ring copies data from the page cache on the loop's thread, since that is faster than passing
///   it to another thread.
/// - Only a ring reports errors of a [`close`](FileIo::close).
///
/// A ring needs Linux 5.6. It may be disabled (`kernel.io_uring_disabled`), as it is in many
/// containers, because their filters of system calls do not see operations of a ring.
/// [`FileIoBuilder::backend`] selects the backend.
///
/// # Order and number
/// Operations in progress are not ordered. If order matters, start one when the previous one has
/// completed. Thousands may be in progress: operations beyond the capacity of the backend wait
/// here, in order. [`pending`](FileIo::pending) returns their number.
///
/// # Buffers
/// An operation takes its buffer by value and returns it with the result, also with an error.
/// Nothing else can access the buffer meanwhile, and it is not copied.
///
/// # The callbacks
/// `then` is called once, on the loop, never before the call that starts the operation has
/// returned. It may do anything, such as start other operations or drop this value. A panic in it
/// is caught and affects no other operation. The returned id can be passed to
/// [`cancel`](FileIo::cancel), or ignored.
///
/// Operations go to the backend in phase 5 of the loop's turn, together with all others that were
/// started since phase 5 of the previous turn.
///
/// # Dropping
/// No callback runs after this value or the loop has been dropped. Operations that have not begun
/// are discarded. Operations in progress in a ring are cancelled, and the drop waits for them, as
/// long as the disk takes and at most two seconds: a buffer that the kernel still uses then is
/// never freed, and an error is logged. All other buffers, files and callbacks are dropped once
/// they are unused. A thread that is blocked by a pipe without data ends when data arrives.
///
/// An operation in progress, such as a write, may or may not have taken effect then. Wait for the
/// callbacks if that matters.
///
/// # Examples
/// Reading the first bytes of a file:
/// ```
/// use reveille::EventLoop;
/// use reveille::fs::{FileIo, OpenOptions};
/// use std::rc::Rc;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// // Shared, so that the callbacks can begin the next operation.
/// let files = Rc::new(FileIo::new(&event_loop)?);
/// let then_read = Rc::clone(&files);
/// files.open("/etc/passwd", OpenOptions::reading(), move |_, file| {
///     let file = file.expect("a file that everybody may read");
///     then_read.read_at(&file, 0, vec![0; 4096], |event_loop, read, buffer| {
///         let n = read.expect("a file that can be read");
///         println!("{}", String::from_utf8_lossy(&buffer[..n]));
///         event_loop.quit();
///     });
/// });
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
///
/// Bound to the loop's thread, like the loop:
/// ```compile_fail
/// fn must_be_send<T: Send>(_: T) {}
/// let event_loop = reveille::EventLoop::new().unwrap();
/// must_be_send(reveille::fs::FileIo::new(&event_loop).unwrap());
/// ```
///
/// A buffer cannot be accessed while it is read into:
/// ```compile_fail
/// # let event_loop = reveille::EventLoop::new().unwrap();
/// # let files = reveille::fs::FileIo::new(&event_loop).unwrap();
/// # let file = reveille::fs::File::from(std::fs::File::open("/etc/passwd").unwrap());
/// let mut buffer = vec![0; 4096];
/// files.read_at(&file, 0, buffer, |_, _, _| ());
/// buffer[0] = 1;
/// ```
#[must_use = "its operations are aborted when it is dropped"]
pub struct FileIo {
    core: Registration<FileIoCore>,
    backend: FileIoBackend,
}

impl FileIo {
    /// Creates file I/O with the default settings: a ring if available, otherwise threads.
    ///
    /// # Errors
    /// Same as [`FileIoBuilder::build`].
    pub fn new(event_loop: &EventLoop) -> io::Result<FileIo> {
        FileIo::builder().build(event_loop)
    }

    /// Returns a builder for the settings.
    pub fn builder() -> FileIoBuilder {
        FileIoBuilder::new()
    }

    /// Returns the backend in use.
    pub fn backend(&self) -> FileIoBackend {
        self.backend
    }

    /// Returns the number of operations that were started and whose callback has not been called.
    pub fn pending(&self) -> usize {
        self.core.source().map_or(0, |core| core.pending())
    }

    /// Opens the file at `path`. A relative path is resolved against the working directory of the
    /// process at the time of the operation.
    ///
    /// # Errors
    /// `then` receives the error of open(2), such as [`NotFound`](io::ErrorKind::NotFound), without
    /// the path; [`InvalidInput`](io::ErrorKind::InvalidInput) if the path contains a NUL byte, or
    /// the options contradict each other.
    pub fn open(
        &self,
        path: impl AsRef<Path>,
        options: OpenOptions,
        then: impl FnOnce(&EventLoop, io::Result<File>) + 'static,
    ) -> OperationId {
        let operation = c_path(path.as_ref()).and_then(|path| {
            let (flags, mode) = options.to_flags()?;
            Ok(Operation::Open { path, flags, mode })
        });
        let operation = operation.map_err(|error| Outcome::Opened(Err(error)));
        self.start(operation, |event_loop, outcome| {
            then(event_loop, outcome.into_opened().map(File::from));
        })
    }

    /// Reads up to `buffer.len()` bytes at `offset`. Does not change the file position.
    ///
    /// `then` receives the number of bytes and the buffer, which has these bytes at its beginning
    /// and is otherwise unchanged. 0 means the end of the file. A smaller number than requested
    /// does not. A file without positions, such as a pipe, is read as by [`read`](FileIo::read).
    ///
    /// # Errors
    /// `then` receives the error of pread(2); [`InvalidInput`](io::ErrorKind::InvalidInput) if the
    /// buffer is empty, since the result would look like the end of the file, or if the offset
    /// exceeds `i64::MAX`.
    pub fn read_at(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.read_from(file, Position::At(offset), buffer, then)
    }

    /// Same as [`read_at`](FileIo::read_at), but reads at the file position and advances it: for
    /// pipes, terminals, and sequential reads of files. Waits for data also if the descriptor is in
    /// non-blocking mode.
    ///
    /// Start it when the previous read has completed: two reads at a time are not ordered, and may
    /// return the same bytes.
    ///
    /// # Errors
    /// Same as [`read_at`](FileIo::read_at).
    pub fn read(
        &self,
        file: &File,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.read_from(file, Position::Current, buffer, then)
    }

    fn read_from(
        &self,
        file: &File,
        from: Position,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        let operation = if buffer.is_empty() {
            Err(Outcome::Transferred(Err(invalid("cannot read into an empty buffer")), buffer))
        } else {
            match from.check() {
                Ok(()) => Ok(Operation::Read { file: file.share(), from, buffer }),
                Err(error) => Err(Outcome::Transferred(Err(error), buffer)),
            }
        };
        self.start(operation, |event_loop, outcome| {
            let (read, buffer) = outcome.into_transferred();
            then(event_loop, read, buffer);
        })
    }

    /// Flushes the data and the metadata of the file to the disk (fsync(2)).
    ///
    /// Covers writes that had completed when this was started. The name of a new file belongs to
    /// its directory, which has to be synchronised separately.
    ///
    /// # Errors
    /// `then` receives the error of fsync(2): a failure of this or an earlier write, or EINVAL for
    /// files that cannot be synchronised, such as pipes.
    pub fn sync_all(
        &self,
        file: &File,
        then: impl FnOnce(&EventLoop, io::Result<()>) + 'static,
    ) -> OperationId {
        self.sync(file, Sync::All, then)
    }

    /// Same as [`sync_all`](FileIo::sync_all), but flushes only the metadata that is needed to read
    /// the data again (fdatasync(2)).
    ///
    /// # Errors
    /// Same as [`sync_all`](FileIo::sync_all).
    pub fn sync_data(
        &self,
        file: &File,
        then: impl FnOnce(&EventLoop, io::Result<()>) + 'static,
    ) -> OperationId {
        self.sync(file, Sync::Data, then)
    }

    fn sync(
        &self,
        file: &File,
        what: Sync,
        then: impl FnOnce(&EventLoop, io::Result<()>) + 'static,
    ) -> OperationId {
        let operation = Operation::Sync { file: file.share(), what };
        self.start(Ok(operation), |event_loop, outcome| then(event_loop, outcome.into_done()))
    }

    /// Reads the metadata of an open file: its size, kind, times (statx(2)).
    ///
    /// # Errors
    /// `then` receives the error of statx(2).
    pub fn metadata(
        &self,
        file: &File,
        then: impl FnOnce(&EventLoop, io::Result<Metadata>) + 'static,
    ) -> OperationId {
        let operation = Operation::Metadata { of: Target::File(file.share()) };
        self.start(Ok(operation), |event_loop, outcome| then(event_loop, outcome.into_metadata()))
    }

    /// Same as [`metadata`](FileIo::metadata), for the file at `path`, following symbolic links.
    ///
    /// # Errors
    /// `then` receives the error of statx(2), such as [`NotFound`](io::ErrorKind::NotFound),
    /// without the path; [`InvalidInput`](io::ErrorKind::InvalidInput) if the path contains a NUL
    /// byte.
    pub fn metadata_at(
        &self,
        path: impl AsRef<Path>,
        then: impl FnOnce(&EventLoop, io::Result<Metadata>) + 'static,
    ) -> OperationId {
        let operation = c_path(path.as_ref()).map(|path| Operation::Metadata { of: Target::Path(path) });
        let operation = operation.map_err(|error| Outcome::Metadata(Err(error)));
        self.start(operation, |event_loop, outcome| then(event_loop, outcome.into_metadata()))
    }

    /// Closes a file without blocking the loop, which a close on a network file system may do.
    ///
    /// If other operations on the file are in progress, `then` is called with success, and the
    /// descriptor is closed when the last of them has completed.
    ///
    /// # Errors
    /// With a [ring](FileIoBackend::IoUring), `then` receives the error of close(2) about earlier
    /// writes; the descriptor is closed nevertheless. To detect write errors reliably, use
    /// [`sync_all`](FileIo::sync_all).
    pub fn close(&self, file: File, then: impl FnOnce(&EventLoop, io::Result<()>) + 'static) -> OperationId {
        let operation = match file.into_descriptor() {
            Ok(descriptor) => Ok(Operation::Close { descriptor }),
            Err(shared) => {
                drop(shared);
                Err(Outcome::Done(Ok(())))
            }
        };
        self.start(operation, |event_loop, outcome| then(event_loop, outcome.into_done()))
    }

    /// Requests the cancellation of an operation. Returns whether its callback is still to be
    /// called.
    ///
    /// The callback is called in any case, and soon if the operation can be cancelled: with
    /// ECANCELED ([`raw_os_error`](io::Error::raw_os_error) 125) if it was cancelled in time,
    /// otherwise with its result. A cancelled write may have written a part.
    ///
    /// Operations that have not begun can be cancelled, and those that a ring waits for, such as a
    /// read of an empty pipe. Operations that a thread has begun continue, and so does a close.
    pub fn cancel(&self, id: OperationId) -> bool {
        self.core.with(|event_loop, core| core.cancel(event_loop, id)).unwrap_or(false)
    }

    /// Excludes pending operations from what [`run_until_idle`](EventLoop::run_until_idle) waits
    /// for. They are completed, and their callbacks called, as long as the loop runs.
    pub fn exclude_from_idle(&self) {
        self.core.with(|event_loop, core| core.set_excluded(event_loop, true));
    }

    /// Ends the effect of [`exclude_from_idle`](FileIo::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.core.with(|event_loop, core| core.set_excluded(event_loop, false));
    }

    fn start(
        &self,
        operation: Result<Operation, Outcome>,
        then: impl FnOnce(&EventLoop, Outcome) + 'static,
    ) -> OperationId {
        let then: Callback = Contained::new(Box::new(then));
        let started = self.core.with(|event_loop, core| core.start(event_loop, operation, then));
        started.unwrap_or(OperationId::NONE)
    }
}

impl Drop for FileIo {
    fn drop(&mut self) {
        self.core.with(|event_loop, core| core.close(event_loop));
    }
}

impl fmt::Debug for FileIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileIo")
            .field("backend", &self.backend())
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid("the path contains a NUL byte"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
