//! The timerfd that ends a wait when a timer is due.
//!
//! The timeout of a poll has a resolution of milliseconds. A timerfd has a resolution of
//! nanoseconds and stays armed: a turn that leaves the nearest deadline unchanged, or moves it
//! back, needs no system call.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::source::{Description, Source};
use crate::event_loop::timers::clock::{Clock, NEVER};
use crate::readiness::Readiness;

pub(in crate::event_loop) struct Alarm {
    id: ChannelId,
    fd: OwnedFd,
    /// The moment at which it expires, or [`NEVER`] if it is not armed.
    armed: Cell<u64>,
}

impl Alarm {
    /// # Errors
    /// Returns the error of timerfd_create(2).
    pub(in crate::event_loop) fn open() -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)
    }

    pub(in crate::event_loop) fn new(id: ChannelId, fd: OwnedFd) -> Alarm {
        Alarm { id, fd, armed: Cell::new(NEVER) }
    }

    /// Whether the timerfd expires by `deadline` as it is armed now.
    pub(in crate::event_loop) fn expires_by(&self, deadline: u64) -> bool {
        self.armed.get() <= deadline
    }

    /// Makes sure that the wait ends by `deadline`, which lies in the future. Makes a system call
    /// only if the timerfd is not armed for that time or an earlier one.
    ///
    /// The timerfd is set to a relative time, because the standard library does not reveal the
    /// kernel's time of an `Instant`. The time between reading the clock and the system call makes
    /// the alarm late, never early.
    pub(in crate::event_loop) fn set(&self, deadline: u64, clock: &Clock) -> io::Result<()> {
        if self.expires_by(deadline) {
            return Ok(());
        }
        // Zero would disarm the timerfd.
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

    fn describe(&self) -> Description {
        Description::of("the alarm of a loop")
    }

    /// The timerfd has expired and has ended the wait; no other work is needed. It is not read:
    /// each setting produces a new edge.
    ///
    /// Until this call it counts as armed at any time. If it has expired meanwhile, the
    /// next wait ends at once.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        self.armed.set(NEVER);
        event_loop.clear_ready(self.id, Readiness::READABLE);
    }

    fn on_panic(&self, _event_loop: &EventLoop, _id: ChannelId) {}
}
