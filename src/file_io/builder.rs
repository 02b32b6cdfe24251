//! The settings of file I/O, and its making.

use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use super::FileIo;
use super::backend::{Driver, FileIoBackend};
use super::core::Core;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::logger;
use crate::eventfd::EventFd;

/// The settings of a [`FileIo`], from [`FileIo::builder`].
///
/// ```
/// use reveille::{FileIoBackend, EventLoop, FileIo};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let files = FileIo::builder().backend(FileIoBackend::ThreadPool).threads(2).build(&event_loop)?;
/// assert_eq!(files.backend(), Backend::Threads);
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

    /// What is to do the work. Usually a ring if the build has the feature `uring` and the kernel gives one, and
    /// threads otherwise, with a word in the log (at the level of information) why it is not a ring.
    pub fn backend(mut self, backend: FileIoBackend) -> FileIoBuilder {
        self.backend = Some(backend);
        self
    }

    /// How many threads there may be, and so how many operations at a time. Usually 4; at least 1. They are started
    /// as they are needed, and end when there has been nothing to do for ten seconds.
    ///
    /// A thread that reads from a pipe or a terminal is not there for others until something comes.
    pub fn threads(mut self, threads: usize) -> FileIoBuilder {
        self.threads = threads.max(1);
        self
    }

    /// How many operations the kernel has at a time, of a ring. Usually 256; between 1 and 32768, up to the next
    /// power of two. What is more waits its turn, without a limit.
    pub fn entries(mut self, entries: u32) -> FileIoBuilder {
        self.entries = entries.clamp(1, 32768).next_power_of_two();
        self
    }

    /// Makes it, for this loop.
    ///
    /// # Errors
    /// If a ring was asked for and there is none, why: [`Unsupported`](io::ErrorKind::Unsupported) if the build is
    /// without the feature `uring`, or the kernel is without io_uring (ENOSYS) or too old for what is needed of it
    /// (before Linux 5.6); [`PermissionDenied`](io::ErrorKind::PermissionDenied) (EPERM) if it is switched off for
    /// this process, by `kernel.io_uring_disabled` or a seccomp filter. Else what the kernel says when it cannot give
    /// another descriptor or memory.
    pub fn build(self, event_loop: &EventLoop) -> io::Result<FileIo> {
        let done = Arc::new(EventFd::new(0)?);
        let driver = self.driver(&done)?;
        let backend = driver.backend();
        let core = Core::register(event_loop, done, driver)?;
        Ok(FileIo { event_loop: event_loop.downgrade(), core: Rc::downgrade(&core), backend })
    }

    fn driver(&self, done: &Arc<EventFd>) -> io::Result<Driver> {
        let threads = || {
            let limit = NonZeroUsize::new(self.threads).expect("at least 1");
            Driver::threads(Arc::clone(done), limit)
        };
        match self.backend {
            Some(FileIoBackend::IoUring) => Driver::ring(Arc::clone(done), self.entries),
            Some(FileIoBackend::ThreadPool) => Ok(threads()),
            None if !cfg!(feature = "uring") => Ok(threads()),
            None => Ok(Driver::ring(Arc::clone(done), self.entries).unwrap_or_else(|why| {
                logger::call(|| log::info!("file I/O by threads: {why}"));
                threads()
            })),
        }
    }
}
