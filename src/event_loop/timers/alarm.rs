//! The timerfd that ends a wait when a timer is due.
//!
//! The poll's own timeout counts in whole milliseconds. A timerfd counts in nanoseconds, and stays set: a turn that finds the
//! nearest deadline where it was, or further off, has nothing to tell the kernel.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::source::Source;
use crate::event_loop::timers::clock::{Clock, NEVER};
use crate::readiness::Readiness;

pub(in crate::event_loop) struct Alarm {
    id: ChannelId,
    fd: OwnedFd,
    /// The moment that it is set to, or [`NEVER`].
    armed: Cell<u64>,
}

impl Alarm {
    /// # Errors
    /// What the kernel says when it cannot give a descriptor.
    pub(in crate::event_loop) fn open() -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)
    }

    pub(in crate::event_loop) fn new(id: ChannelId, fd: OwnedFd) -> Alarm {
        Alarm { id, fd, armed: Cell::new(NEVER) }
    }

    /// Whether the wait ends by `deadline` as it is.
    pub(in crate::event_loop) fn goes_off_by(&self, deadline: u64) -> bool {
        self.armed.get() <= deadline
    }

    /// Makes sure that the wait ends by `deadline`, which lies ahead. A system call only if it would not yet.
    ///
    /// The kernel is told how long that is from now, as the standard library does not say what its instants are to the kernel. What
    /// passes between the look at the clock and the kernel's makes the alarm late, and never early.
    pub(in crate::event_loop) fn set(&self, deadline: u64, clock: &Clock) -> io::Result<()> {
        if self.goes_off_by(deadline) {
            return Ok(());
        }
        // All zeros would mean to disarm it.
        let left = deadline.saturating_sub(clock.moment(clock.now())).max(1);
        let it_value =
            Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::time::timerfd_settime(
            &self.fd,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval, it_value },
        )?;
        self.armed.set(deadline);
        Ok(())
    }
}

impl Source for Alarm {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    /// It has gone off, and ended the wait; that was all. Nothing is read: each setting is a new edge.
    ///
    /// Until this call it counts as set, whatever the time: if it has gone off meanwhile, the next wait ends with that at once.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        self.armed.set(NEVER);
        event_loop.clear_ready(self.id, Readiness::READABLE);
    }

    fn on_panic(&self, _event_loop: &EventLoop) {}
}
