//! A loop inside another poller: when the loop's descriptor is readable.
//!
//! The descriptor is the poller's epoll instance, which another poller may watch level-triggered or
//! edge-triggered. It must be readable while there is work, and each new piece of work must be a
//! new edge, or an edge-triggered poller misses it. Kernel events satisfy both without help. For
//! all other work the loop writes to its own counter, which the epoll instance watches: each write
//! is an edge, even if the counter has not been read since the last one.
//!
//! That write is needed in two cases:
//!
//! - Between two turns, the first new work causes it ([`signal_work`](EventLoop::signal_work)).
//!   Later work causes no further write until the next turn, on the loop's thread or on others: all
//!   use the protocol that wakes a sleeping loop.
//! - At the end of a turn, the loop writes if it has left work ([`leave`](EventLoop::leave)).
//!
//! Deadlines need no write, as the alarm is one of the descriptors. Between turns the alarm is
//! armed at once.
//!
//! A loop in [`run`](EventLoop::run) has nothing to signal between turns, and makes no such write.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::{EventLoop, Inner};
use crate::event_loop::containment::logger;
use crate::event_loop::tasks::task_queue::Wake;

impl EventLoop {
    /// Signals work, unless the loop is in a turn, whose end signals it.
    pub(super) fn signal_work(&self) {
        let Inner { running, shared, .. } = &*self.inner;
        if !running.get() && shared.tasks.end_sleep() == Wake::Needed {
            self.wake_outer();
        }
    }

    /// Arms the alarm for a deadline, unless the loop is in a turn.
    pub(super) fn arm_deadline(&self, deadline: u64) {
        let Inner { running, shared, alarm, .. } = &*self.inner;
        if running.get()
            || shared.is_inherited()
            || alarm.get().is_some_and(|alarm| alarm.expires_by(deadline))
        {
            return;
        }
        match alarm.get() {
            _ if deadline <= self.moment() => self.signal_work(),
            Some(alarm) => {
                if let Err(error) = alarm.set(deadline, &shared.clock) {
                    // The turn arms the alarm, or returns the error.
                    self.signal_work();
                    logger::recurring("the alarm for a timer", |suppressed| {
                        log::error!("cannot set the alarm for a timer: {error}{suppressed}");
                    });
                }
            }
            // Moving a virtual clock is work.
            None => {}
        }
    }

    /// Reads back the loop's own signal, before the turn that does the work. This is not left to
    /// the events of the poller: their number is limited, and a signal that is not among them would
    /// keep the descriptor readable after the work is done.
    pub(super) fn enter(&self) -> io::Result<()> {
        let Inner { self_wake, shared, .. } = &*self.inner;
        // There is a value to read, so this does not sleep.
        if self_wake.replace(false) { shared.wakeup.read().map(|_| ()) } else { Ok(()) }
    }

    /// After a turn: if work is left, signals it. Otherwise producers and the alarm signal new
    /// work.
    pub(super) fn leave(&self) {
        let Inner { shared, poller, now, wake_unread, .. } = &*self.inner;
        let may_wait = self.arm_alarm();
        now.set(None);
        wake_unread.set(true);
        self.trim_when_due();
        let must_wake = !matches!(may_wait, Ok(true)) || poller.has_more();
        if self.has_work() || must_wake || !shared.tasks.may_sleep() {
            self.wake_outer();
        }
        if let Err(error) = may_wait {
            logger::recurring("the alarm", |suppressed| {
                log::error!("cannot set the alarm for the next timer: {error}{suppressed}");
            });
        }
    }

    fn wake_outer(&self) {
        self.inner.self_wake.set(true);
        self.inner.shared.wake(Wake::Needed);
    }
}

impl AsFd for EventLoop {
    /// The loop's own descriptor, for another poller to watch; see
    /// [`run_once`](EventLoop::run_once).
    ///
    /// It is the same descriptor for the whole life of the loop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.poller.as_fd()
    }
}

impl AsRawFd for EventLoop {
    /// Same as [`as_fd`](EventLoop::as_fd), for pollers that take raw descriptors. The loop closes
    /// it when it is dropped.
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
