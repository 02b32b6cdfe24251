//! A loop inside another poller: what the loop's descriptor shows.
//!
//! The descriptor is the poller's epoll instance, which another poller may watch by level or by edge. It has to be readable while
//! there is work, and each piece of work has to be a new edge, or a poller that goes by edges sleeps over it. What comes from the
//! kernel is both by itself. All else is made so by a write to the loop's own counter, which the epoll instance watches: each write
//! is an edge, even if the counter has not been read since the last one.
//!
//! Two moments need that write. Between two turns the first work that comes up makes it ([`signal_work`](EventLoop::signal_work)), in the
//! protocol that wakes a sleeping loop for other threads: so there is one write for each time that the loop is left, by whichever
//! thread. And at the end of a turn the loop makes it for what is left ([`leave`](EventLoop::leave)). Deadlines need none, as the
//! alarm is one of the descriptors; between turns it is set at once.
//!
//! A loop in [`run`](EventLoop::run) has nothing to show from turn to turn, and pays for none of this.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::{EventLoop, Inner};
use crate::event_loop::containment::logger;
use crate::event_loop::tasks::task_queue::Wake;

impl EventLoop {
    /// Shows that there is work, if the loop is not in a turn, whose end would show it.
    pub(super) fn signal_work(&self) {
        let Inner { running, shared, .. } = &*self.inner;
        if !running.get() && shared.tasks.end_sleep() == Wake::Needed {
            self.wake_outer();
        }
    }

    /// Makes sure that a deadline is shown when it has come, if the loop is not in a turn.
    pub(super) fn show_deadline(&self, deadline: u64) {
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
                    // The turn sets it, or says why not.
                    self.signal_work();
                    logger::recurring("the alarm for a timer", |left_out| {
                        log::error!("cannot set the alarm for a timer: {error}{left_out}");
                    });
                }
            }
            // Moving a virtual clock is work.
            None => {}
        }
    }

    /// Takes back what the loop has shown, before a turn, which does the work. Not by way of the poller: that reports so many events
    /// at a time, and one that is left behind would be shown when the work has been done.
    pub(super) fn enter(&self) -> io::Result<()> {
        let Inner { self_wake, shared, .. } = &*self.inner;
        // There is something to read, so this does not sleep.
        if self_wake.replace(false) { shared.wakeup.read().map(|_| ()) } else { Ok(()) }
    }

    /// After a turn: either producers and the alarm will show what comes, or there is work, and that is shown.
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
            logger::recurring("the alarm", |left_out| {
                log::error!("cannot set the alarm for the next timer: {error}{left_out}");
            });
        }
    }

    fn wake_outer(&self) {
        self.inner.self_wake.set(true);
        self.inner.shared.wake(Wake::Needed);
    }
}

impl AsFd for EventLoop {
    /// The loop's own descriptor, to be watched by another poller; see [`run_once`](EventLoop::run_once).
    ///
    /// The same descriptor for the whole life of the loop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.poller.as_fd()
    }
}

impl AsRawFd for EventLoop {
    /// As [`as_fd`](EventLoop::as_fd), for pollers that go by numbers. The loop closes it when it is dropped.
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
