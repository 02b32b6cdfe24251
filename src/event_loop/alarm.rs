//! The timerfd that ends a wait when a timer is due.
//!
//! The poll's own timeout counts in whole milliseconds. A timerfd counts in nanoseconds, and stays set: a turn that finds the
//! nearest deadline where it was, or further off, has nothing to tell the kernel.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::EventLoop;
use super::source::Source;
use crate::channel_table::ChannelId;
use crate::clock::Clock;
use crate::readiness::Readiness;

/// What `armed` holds when nothing is.
const NEVER: u64 = u64::MAX;

pub(super) struct Alarm {
    id: ChannelId,
    fd: OwnedFd,
    /// What CLOCK_MONOTONIC shows at the origin of the loop's clock, or very little later: an alarm must not be early, as the loop
    /// would find nothing due and set it again.
    origin: u64,
    /// The moment that it is set to.
    armed: Cell<u64>,
}

impl Alarm {
    /// # Errors
    /// What the kernel says when it cannot give a descriptor.
    pub(super) fn open() -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)
    }

    /// An alarm for the deadlines of a system clock.
    pub(super) fn new(id: ChannelId, fd: OwnedFd, clock: &Clock) -> Alarm {
        let now = clock.moment(clock.now());
        let monotonic = rustix::time::clock_gettime(ClockId::Monotonic);
        let monotonic = monotonic.tv_sec as u64 * 1_000_000_000 + monotonic.tv_nsec as u64;
        Alarm { id, fd, origin: monotonic - now, armed: Cell::new(NEVER) }
    }

    /// Makes sure that the wait ends by `deadline`. A system call only if it would not yet.
    pub(super) fn set(&self, deadline: u64) -> io::Result<()> {
        if deadline >= self.armed.get() {
            return Ok(());
        }
        let at = self.origin.saturating_add(deadline);
        let it_value = Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval, it_value };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &setting)?;
        self.armed.set(deadline);
        Ok(())
    }

    /// Notes that the moment `now` has come: an alarm that was set to an earlier one has gone off.
    pub(super) fn passed(&self, now: u64) {
        if self.armed.get() <= now {
            self.armed.set(NEVER);
        }
    }
}

impl Source for Alarm {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// It has gone off, and ended the wait; that was all. Nothing is read: each setting is a new edge.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        event_loop.clear_ready(self.id, Readiness::READABLE);
    }

    fn on_panic(&self, _event_loop: &EventLoop) {}
}
