//! The back ends, and which it is to be.

pub(in crate::file_io) mod threads;
#[cfg(feature = "uring")]
pub(in crate::file_io) mod uring;

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use self::threads::Pool;
#[cfg(feature = "uring")]
use self::uring::Ring;
use super::operation::{Operation, Outcome};
use super::slab::Key;
use super::trouble::Trouble;
use crate::eventfd::EventFd;

/// How long a thread rests before it ends.
const REST: Duration = Duration::from_secs(10);

/// What does the work of a [`FileIo`](super::FileIo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileIoBackend {
    /// The kernel itself, through a ring (io_uring(7)).
    #[cfg_attr(docsrs, doc(cfg(feature = "uring")))]
    IoUring,
    /// A few threads that wait in the kernel.
    ThreadPool,
}

pub(super) enum Driver {
    #[cfg(feature = "uring")]
    Ring(Box<Ring>),
    Threads(Pool),
}

impl Driver {
    /// Threads, which signal `done`.
    pub(super) fn threads(done: Arc<EventFd>, limit: NonZeroUsize) -> Driver {
        Driver::Threads(Pool::new(done, limit, REST))
    }

    /// A ring that signals `done`.
    ///
    /// # Errors
    /// Why there is none.
    #[cfg(feature = "uring")]
    pub(super) fn ring(done: Arc<EventFd>, entries: u32) -> io::Result<Driver> {
        Ok(Driver::Ring(Box::new(Ring::new(done, entries)?)))
    }

    #[cfg(not(feature = "uring"))]
    pub(super) fn ring(_done: Arc<EventFd>, _entries: u32) -> io::Result<Driver> {
        let message = "no io_uring: this build is without the feature `uring`";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    pub(super) fn backend(&self) -> FileIoBackend {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(_) => FileIoBackend::IoUring,
            Driver::Threads(_) => FileIoBackend::ThreadPool,
        }
    }

    /// Has as many of those that wait begin as there is room for, in their order. Those that cannot are refused.
    ///
    /// # Errors
    /// That the kernel takes none at the moment. None is lost.
    pub(super) fn submit(
        &mut self,
        waiting: &mut VecDeque<(Key, Operation)>,
        refused: &mut Vec<(Key, Outcome)>,
    ) -> io::Result<()> {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(ring) => ring.submit(waiting),
            Driver::Threads(pool) => {
                pool.submit(waiting, refused);
                Ok(())
            }
        }
    }

    /// Gives back an operation that is to be given up, if that can be done here and now. If not, the kernel is asked
    /// to give it up with the next submission; or it goes on, as a thread that waits in the kernel cannot be told.
    pub(super) fn cancel(&mut self, key: Key) -> Option<Operation> {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(ring) => ring.cancel(key),
            Driver::Threads(pool) => pool.cancel(key),
        }
    }

    /// Takes what has come of operations since the last time.
    ///
    /// # Errors
    /// That the kernel does not tell all at the moment; what there was has been taken.
    pub(super) fn take(&mut self, outcomes: &mut Vec<(Key, Outcome)>) -> io::Result<()> {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(ring) => ring.take(outcomes),
            Driver::Threads(pool) => {
                pool.take(outcomes);
                Ok(())
            }
        }
    }

    /// Whether a submission is due even if nothing waits.
    pub(super) fn has_more(&self) -> bool {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(ring) => ring.has_more(),
            Driver::Threads(_) => false,
        }
    }

    /// What has gone wrong since the last time, to be logged when nothing is borrowed.
    pub(super) fn troubles(&mut self) -> Vec<Trouble> {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(ring) => ring.troubles(),
            Driver::Threads(pool) => pool.trouble().into_iter().collect(),
        }
    }

    /// Gives up all that is under way. Nothing begins or is taken after this.
    pub(super) fn close(&mut self) {
        match self {
            #[cfg(feature = "uring")]
            Driver::Ring(ring) => ring.close(),
            Driver::Threads(pool) => pool.close(),
        }
    }
}
