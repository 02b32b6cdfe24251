//! The builder of file I/O.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::FileIo;
use super::backend::{Backend, FileIoBackend};
use super::core::FileIoCore;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::logger;
use crate::eventfd::EventFd;

/// The settings of a [`FileIo`], from [`FileIo::builder`].
///
/// ```
/// use reveille::EventLoop;
/// use reveille::fs::{FileIo, FileIoBackend};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let files = FileIo::builder().backend(FileIoBackend::ThreadPool).threads(2).build(&event_loop)?;
/// assert_eq!(files.backend(), FileIoBackend::ThreadPool);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are built"]
pub struct FileIoBuilder {
    backend: Option<FileIoBackend>,
    threads: usize,
    entries: u32,
}

impl FileIoBuilder {
    pub(super) fn new() -> FileIoBuilder {
        FileIoBuilder { backend: None, threads: 4, entries: 256 }
    }

    /// Sets the backend. Default: a ring if the build has the feature `uring` and the kernel
    /// provides one, otherwise threads, with the reason in the log (at level info).
    pub fn backend(mut self, backend: FileIoBackend) -> FileIoBuilder {
        self.backend = Some(backend);
        self
    }

    /// Sets the maximum number of threads, which is the number of operations at a time. Default: 4.
    /// With 0 [`build`](FileIoBuilder::build) returns an error. Threads are started on demand, and
    /// end after ten seconds without work.
    ///
    /// A thread that reads from a pipe or a terminal is blocked until data arrives.
    pub fn threads(mut self, threads: usize) -> FileIoBuilder {
        self.threads = threads;
        self
    }

    /// Sets the maximum number of operations that a ring passes to the kernel at a time. Default:
    /// 256. Range: 1 to 32768, rounded up to a power of two. Further operations wait in a queue
    /// without a limit.
    pub fn entries(mut self, entries: u32) -> FileIoBuilder {
        self.entries = entries.clamp(1, 32768).next_power_of_two();
        self
    }

    /// Creates the file I/O for this loop.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the number of threads is 0.
    ///
    /// If a ring was requested and cannot be created: [`Unsupported`](io::ErrorKind::Unsupported)
    /// if the build is without the feature `uring`, or the kernel is without io_uring (ENOSYS) or
    /// too old (before Linux 5.6); [`PermissionDenied`](io::ErrorKind::PermissionDenied) (EPERM) if
    /// it is disabled for this process, by `kernel.io_uring_disabled` or a seccomp filter.
    /// Otherwise the error of creating a descriptor or allocating memory.
    pub fn build(self, event_loop: &EventLoop) -> io::Result<FileIo> {
        let Some(threads) = NonZeroUsize::new(self.threads) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "file I/O needs a thread"));
        };
        let done = Arc::new(EventFd::new(0)?);
        let backend = self.make_backend(&done, threads)?;
        let kind = backend.kind();
        let core = FileIoCore::register(event_loop, done, backend)?;
        Ok(FileIo { core, backend: kind })
    }

    fn make_backend(&self, done: &Arc<EventFd>, threads: NonZeroUsize) -> io::Result<Backend> {
        let threads = || Backend::threads(Arc::clone(done), threads);
        match self.backend {
            Some(FileIoBackend::IoUring) => Backend::ring(Arc::clone(done), self.entries),
            Some(FileIoBackend::ThreadPool) => Ok(threads()),
            None if !cfg!(feature = "uring") => Ok(threads()),
            None => Ok(Backend::ring(Arc::clone(done), self.entries).unwrap_or_else(|why| {
                logger::call(|| log::info!("file I/O by threads: {why}"));
                threads()
            })),
        }
    }
}
