//! Files on a loop: operations that wait elsewhere, and whose results are calls.
//!
//! A regular file is always ready as far as epoll is concerned, and a read of it sleeps in the kernel nevertheless.
//! So what is asked of files goes to a back end, which does it beside the loop and signals a counter that the loop
//! watches.
//!
//! There are two back ends: the kernel's io_uring, and threads. Both are given an operation with all that it needs by
//! value, and give its outcome; what is to be called with that stays with the loop. So neither sees anything that
//! belongs to the loop's thread.

mod backend;
mod builder;
mod core;
mod file;
mod metadata;
mod open_options;
mod operation;
mod slab;
mod trouble;
mod write;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::{Rc, Weak};

pub use self::backend::FileIoBackend;
pub use self::builder::FileIoBuilder;
pub use self::core::OperationId;
use self::core::{Callback, Core};
pub use self::file::File;
pub use self::metadata::{FileKind, FileTime, Metadata};
pub use self::open_options::OpenOptions;
use self::operation::{Operation, Outcome, Position, Sync, Target};
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, WeakLoop};

/// File I/O on a loop: each operation is begun here, takes its time elsewhere, and ends with a call on the loop.
///
/// # Back ends
/// With the feature `uring`, where the kernel has it, operations go to it through a ring (io_uring(7)): those of a
/// turn with one system call, and their results come without any. Elsewhere a few threads do them. The two behave
/// alike, with these exceptions, which [`backend`](FileIo::backend) tells apart:
/// - A ring keeps as many operations going as it has [entries](FileIoBuilder::entries), also those that wait for a
///   pipe. Each thread does one.
/// - A ring copies what the kernel has in its cache while the loop waits, since that is faster than to have it done
///   elsewhere.
/// - What the kernel says of a [`close`](FileIo::close) is told by a ring alone.
///
/// A ring needs Linux 5.6, and may be switched off (`kernel.io_uring_disabled`), as it is in many containers, whose
/// filters of system calls do not see what goes through it. [`FileIoBuilder::backend`] chooses.
///
/// # Order and number
/// There is no order among operations that are under way; begin one when the other has ended if it matters. Thousands
/// may be under way: what the back end has no room for waits here, in order. [`pending`](FileIo::pending) says how
/// many there are.
///
/// # Buffers
/// An operation takes its buffer by value, and gives it back with the result, also if that is an error. Nobody else
/// can touch it meanwhile, and it is not copied.
///
/// # The callbacks
/// `then` is called once, on the loop, never before the call that begins the operation has returned. It may do
/// anything, such as to begin other operations, or to drop this. If it panics, that costs nothing but what it would
/// have done. The name that the call returns is good for [`cancel`](FileIo::cancel), and may be thrown away.
///
/// What an operation is begun with goes to the back end in phase 5 of the loop's turn, with all else that was begun
/// since that of the turn before.
///
/// # Dropping
/// Nothing is called after this has been dropped, or after the loop has. What has not begun is not done; what is
/// under way in a ring is cancelled, and waited for, which may take as long as the disk takes, two seconds at most: a
/// buffer that the kernel has not let go of by then is never freed, with an error in the log. Each buffer, file and
/// callback is dropped, when nobody uses it any longer. A thread that is held up by a pipe in which nothing comes
/// stays until something does, and ends then.
///
/// Whether something under way has still been done, such as a write, is not known then. Wait for the calls if it
/// matters.
///
/// # Examples
/// The first bytes of a file:
/// ```
/// use reveille::{EventLoop, FileIo, OpenOptions};
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
/// must_be_send(reveille::FileIo::new(&event_loop).unwrap());
/// ```
///
/// A buffer cannot be touched while it is read into:
/// ```compile_fail
/// # let event_loop = reveille::EventLoop::new().unwrap();
/// # let files = reveille::FileIo::new(&event_loop).unwrap();
/// # let file = reveille::File::from(std::fs::File::open("/etc/passwd").unwrap());
/// let mut buffer = vec![0; 4096];
/// files.read_at(&file, 0, buffer, |_, _, _| ());
/// buffer[0] = 1;
/// ```
#[must_use = "its operations are given up when this is dropped"]
pub struct FileIo {
    event_loop: WeakLoop,
    core: Weak<Core>,
    backend: FileIoBackend,
}

impl FileIo {
    /// With the usual settings: a ring if there can be one, else threads.
    ///
    /// # Errors
    /// As [`FileIoBuilder::build`].
    pub fn new(event_loop: &EventLoop) -> io::Result<FileIo> {
        FileIo::builder().build(event_loop)
    }

    /// The settings.
    pub fn builder() -> FileIoBuilder {
        FileIoBuilder::new()
    }

    /// What does the work.
    pub fn backend(&self) -> FileIoBackend {
        self.backend
    }

    /// How many operations have begun whose callback has not been called.
    pub fn pending(&self) -> usize {
        self.core.upgrade().map_or(0, |core| core.pending())
    }

    /// Opens the file at `path`, seen from the process's working directory when it is done.
    ///
    /// # Errors
    /// `then` is told them: what the kernel says (open(2)), such as [`NotFound`](io::ErrorKind::NotFound), without
    /// the path; [`InvalidInput`](io::ErrorKind::InvalidInput) if there is a NUL in the path, or the options
    /// contradict each other.
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

    /// Reads as many bytes as `buffer` is long, or fewer, from `offset` on; the position in the file stays where it
    /// is.
    ///
    /// `then` is told how many there were, and has the buffer back, with these bytes at its beginning and the rest as
    /// it was. 0 is the end of the file, and fewer than asked for need not be. What has no positions, such as a pipe,
    /// is read as by [`read`](FileIo::read).
    ///
    /// # Errors
    /// `then` is told them: what the kernel says (pread(2)); [`InvalidInput`](io::ErrorKind::InvalidInput) if the
    /// buffer is empty, since that would read like the end of the file, or the offset is more than an `i64` can hold.
    pub fn read_at(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.read_from(file, Position::At(offset), buffer, then)
    }

    /// As [`read_at`](FileIo::read_at), from the file's position on, which moves along; for pipes, terminals, and
    /// files that are read one piece after the other. What is in non-blocking mode is waited for nevertheless.
    ///
    /// Begin it when the one before has ended: two at a time come in no order, and may read the same bytes.
    ///
    /// # Errors
    /// As [`read_at`](FileIo::read_at).
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
            Err(Outcome::Moved(Err(invalid("the buffer is empty, so nothing can be read into it")), buffer))
        } else {
            match from.check() {
                Ok(()) => Ok(Operation::Read { file: file.share(), from, buffer }),
                Err(error) => Err(Outcome::Moved(Err(error), buffer)),
            }
        };
        self.start(operation, |event_loop, outcome| {
            let (read, buffer) = outcome.into_moved();
            then(event_loop, read, buffer);
        })
    }

    /// Has the kernel write to the disk what has been written to the file, and what is known of it (fsync(2)).
    ///
    /// Of writes that had ended when this was begun. A new file's name is in its directory, which is synchronised by
    /// itself.
    ///
    /// # Errors
    /// `then` is told them: that something was not written, of this or an earlier write; or what the kernel says of
    /// files that cannot be synchronised, as pipes (EINVAL).
    pub fn sync_all(
        &self,
        file: &File,
        then: impl FnOnce(&EventLoop, io::Result<()>) + 'static,
    ) -> OperationId {
        self.sync(file, Sync::All, then)
    }

    /// As [`sync_all`](FileIo::sync_all), but of what is known of the file only what is needed to read the data again
    /// (fdatasync(2)).
    ///
    /// # Errors
    /// As [`sync_all`](FileIo::sync_all).
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

    /// Asks what is known of an open file: its size, kind, times (statx(2)).
    ///
    /// # Errors
    /// `then` is told what the kernel says.
    pub fn metadata(
        &self,
        file: &File,
        then: impl FnOnce(&EventLoop, io::Result<Metadata>) + 'static,
    ) -> OperationId {
        let operation = Operation::Status { of: Target::File(file.share()) };
        self.start(Ok(operation), |event_loop, outcome| then(event_loop, outcome.into_status()))
    }

    /// As [`status`](FileIo::metadata), of the file at `path`, following symbolic links.
    ///
    /// # Errors
    /// `then` is told them: what the kernel says, such as [`NotFound`](io::ErrorKind::NotFound), without the path;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is a NUL in the path.
    pub fn metadata_at(
        &self,
        path: impl AsRef<Path>,
        then: impl FnOnce(&EventLoop, io::Result<Metadata>) + 'static,
    ) -> OperationId {
        let operation = c_path(path.as_ref()).map(|path| Operation::Status { of: Target::Path(path) });
        let operation = operation.map_err(|error| Outcome::Status(Err(error)));
        self.start(operation, |event_loop, outcome| then(event_loop, outcome.into_status()))
    }

    /// Closes a file, which may take time on a network's file system.
    ///
    /// If other operations on it are under way, `then` is called with success, and the descriptor is closed when the
    /// last of them has ended.
    ///
    /// # Errors
    /// With a [ring](FileIoBackend::IoUring), `then` is told what the kernel says of earlier writes (close(2)); the descriptor
    /// is closed nevertheless. That errors of writing are told is what [`sync_all`](FileIo::sync_all) promises, and
    /// not this.
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

    /// Asks that an operation be given up. Answers whether its callback is still to be called.
    ///
    /// It is called in any case, and soon if the operation can be given up: with ECANCELED
    /// ([`raw_os_error`](io::Error::raw_os_error) 125) if that was in time, else with what has come of it. A write
    /// that is given up may have written a part.
    ///
    /// What has not begun can be given up, and what a ring waits for, such as a pipe in which nothing comes. What a
    /// thread has begun goes on, and so does a close.
    pub fn cancel(&self, id: OperationId) -> bool {
        let cancelled = |core: Rc<Core>| self.event_loop.with(|event_loop| core.cancel(event_loop, id));
        self.core.upgrade().and_then(cancelled).unwrap_or(false)
    }

    fn start(
        &self,
        operation: Result<Operation, Outcome>,
        then: impl FnOnce(&EventLoop, Outcome) + 'static,
    ) -> OperationId {
        let then: Callback = Contained::new(Box::new(then));
        let begin =
            |core: Rc<Core>| self.event_loop.with(|event_loop| core.start(event_loop, operation, then));
        self.core.upgrade().and_then(begin).unwrap_or(OperationId::NONE)
    }
}

impl Drop for FileIo {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            self.event_loop.with(|event_loop| core.close(event_loop));
        }
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
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid("there is a NUL in the path"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
