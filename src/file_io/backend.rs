//! The two backends behind one interface.

pub(in crate::file_io) mod threads;
#[cfg(feature = "uring")]
pub(in crate::file_io) mod uring;

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use self::threads::ThreadPool;
#[cfg(feature = "uring")]
use self::uring::Ring;
use super::fault::Fault;
use super::operation::{Operation, Outcome};
use super::slab::Key;
use crate::eventfd::EventFd;

/// How long a thread stays idle before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The backend of a [`FileIo`](super::FileIo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileIoBackend {
    /// The kernel's io_uring (io_uring(7)).
    #[cfg_attr(docsrs, doc(cfg(feature = "uring")))]
    IoUring,
    /// A few threads that block in the kernel.
    ThreadPool,
}

pub(super) enum Backend {
    #[cfg(feature = "uring")]
    Ring(Box<Ring>),
    Threads(ThreadPool),
}

impl Backend {
    /// A thread pool, which signals `done`.
    pub(super) fn threads(done: Arc<EventFd>, limit: NonZeroUsize) -> Backend {
        Backend::Threads(ThreadPool::new(done, limit, IDLE_TIMEOUT))
    }

    /// A ring, which signals `done`.
    ///
    /// # Errors
    /// The reason why no ring can be created.
    #[cfg(feature = "uring")]
    pub(super) fn ring(done: Arc<EventFd>, entries: u32) -> io::Result<Backend> {
        Ok(Backend::Ring(Box::new(Ring::new(done, entries)?)))
    }

    #[cfg(not(feature = "uring"))]
    pub(super) fn ring(_done: Arc<EventFd>, _entries: u32) -> io::Result<Backend> {
        let message = "no io_uring: this build is without the feature `uring`";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    pub(super) fn kind(&self) -> FileIoBackend {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(_) => FileIoBackend::IoUring,
            Backend::Threads(_) => FileIoBackend::ThreadPool,
        }
    }

    /// Starts as many of the waiting operations as there is capacity for, in order. Operations that
    /// cannot be started fail; their outcomes are added to `refused`.
    ///
    /// # Errors
    /// If the kernel accepts none at the moment. None is lost.
    pub(super) fn submit(
        &mut self,
        waiting: &mut VecDeque<(Key, Operation)>,
        refused: &mut Vec<(Key, Outcome)>,
    ) -> io::Result<()> {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(ring) => ring.submit(waiting),
            Backend::Threads(pool) => {
                pool.submit(waiting, refused);
                Ok(())
            }
        }
    }

    /// Cancels an operation. Returns it if it has not begun. Otherwise a ring requests the
    /// cancellation from the kernel with the next submission. An operation that a thread has begun
    /// continues, since a blocked thread cannot be interrupted.
    pub(super) fn cancel(&mut self, key: Key) -> Option<Operation> {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(ring) => ring.cancel(key),
            Backend::Threads(pool) => pool.cancel(key),
        }
    }

    /// Takes the outcomes of operations since the last call.
    ///
    /// # Errors
    /// If the kernel does not report all outcomes at the moment. Those that it has reported have
    /// been taken.
    pub(super) fn take(&mut self, outcomes: &mut Vec<(Key, Outcome)>) -> io::Result<()> {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(ring) => ring.take(outcomes),
            Backend::Threads(pool) => {
                pool.take(outcomes);
                Ok(())
            }
        }
    }

    /// Whether a submission is due even if nothing waits.
    pub(super) fn has_more(&self) -> bool {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(ring) => ring.has_more(),
            Backend::Threads(_) => false,
        }
    }

    /// The errors since the last call, to be logged when nothing is borrowed.
    pub(super) fn faults(&mut self) -> Vec<Fault> {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(ring) => ring.faults(),
            Backend::Threads(pool) => pool.fault().into_iter().collect(),
        }
    }

    /// Aborts all operations. Nothing is started or taken after this.
    pub(super) fn close(&mut self) {
        match self {
            #[cfg(feature = "uring")]
            Backend::Ring(ring) => ring.close(),
            Backend::Threads(pool) => pool.close(),
        }
    }
}
