//! The back ends, and which it is to be.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::operation::{Operation, Outcome};
use super::pool::Pool;
use super::table::Key;
use crate::eventfd::EventFd;

/// How long a thread rests before it ends.
const REST: Duration = Duration::from_secs(10);

/// What does the work of a [`FileIo`](super::FileIo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The kernel itself, through a ring (io_uring(7)).
    Ring,
    /// A few threads that wait in the kernel.
    Threads,
}

pub(super) enum Driver {
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
    pub(super) fn ring(_done: &EventFd, _entries: u32) -> io::Result<Driver> {
        let message = "no io_uring: this build is without the feature `uring`";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    pub(super) fn backend(&self) -> Backend {
        match self {
            Driver::Threads(_) => Backend::Threads,
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
            Driver::Threads(pool) => {
                pool.submit(waiting, refused);
                Ok(())
            }
        }
    }

    /// Takes what has come of operations since the last time.
    pub(super) fn take(&mut self, outcomes: &mut Vec<(Key, Outcome)>) {
        match self {
            Driver::Threads(pool) => pool.take(outcomes),
        }
    }

    /// Gives up all that is under way. Nothing begins or is taken after this.
    pub(super) fn close(&mut self) {
        match self {
            Driver::Threads(pool) => pool.close(),
        }
    }
}
