//! A bare timerfd: an absolute deadline, and a read that waits for it.

use std::time::{Duration, Instant};

use rustix::io::{read, retry_on_intr};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Alone, late};
use crate::Result;
use crate::timers::clock::timespec;

#[derive(Debug)]
pub(in crate::timers) struct Timerfd;

impl Alone for Timerfd {
    fn lateness(delay: Duration, count: usize) -> Result<Vec<Duration>> {
        let timerfd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let each = |_| {
            let deadline = Instant::now() + delay;
            let once = Itimerspec { it_interval: Timespec::default(), it_value: timespec(deadline) };
            timerfd_settime(&timerfd, TimerfdTimerFlags::ABSTIME, &once)?;
            let mut expirations = [0; 8];
            retry_on_intr(|| read(&timerfd, &mut expirations))?;
            late(deadline)
        };
        (0..count).map(each).collect()
    }
}
