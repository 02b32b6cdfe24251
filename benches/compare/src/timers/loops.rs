//! The compared loops and their timers, one file for each loop.

mod by_hand;
mod calloop;
mod reveille;
mod timerfd;
mod tokio;

use std::time::{Duration, Instant};

use super::workload::Timer;
use crate::Result;

pub(super) use by_hand::{HeapLoop, WheelLoop};
pub(super) use calloop::Calloop;
pub(super) use reveille::Reveille;
pub(super) use timerfd::Timerfd;
pub(super) use tokio::Tokio;

/// A loop on this thread whose timers call [`tally::fired`](super::tally::fired).
pub(super) trait Loop: Sized {
    /// Identifies a pending timer until it has been cancelled.
    type Id;

    fn new() -> Result<Self>;

    /// Sets the instant from which the offsets of timers are measured.
    fn begin(&mut self, beginning: Instant);

    /// Runs the body in a context where the loop's timers may be changed.
    fn inside<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        body(self)
    }

    fn add(&mut self, timer: Timer) -> Result<Self::Id>;

    /// Returns whether the timer was pending, if the loop reports it.
    fn cancel(&mut self, id: Self::Id) -> bool;

    /// Fails if the loop still has a timer.
    fn check_empty(&mut self) -> Result<()>;

    /// Adds timers that will fire.
    fn arm(&mut self, timers: &[Timer]) -> Result<()> {
        timers.iter().try_for_each(|timer| self.add(*timer).map(drop))
    }

    /// Runs until all timers that the tally expects have fired, or until the timeout.
    fn run(&mut self) -> Result<()>;
}

/// A loop whose timers can be moved.
pub(super) trait Reset: Loop {
    /// Moves a pending timer to `delay` from now. Returns whether it existed.
    fn reset(&mut self, id: &mut Self::Id, delay: Duration) -> bool;
}

/// An implementation that can run a single timer.
pub(super) trait Alone {
    /// Returns the lateness of each of `count` timers that run one after the other.
    fn lateness(delay: Duration, count: usize) -> Result<Vec<Duration>>;
}

/// The time since the deadline. Fails if the deadline is in the future.
fn late(deadline: Instant) -> Result<Duration> {
    let late = Instant::now().checked_duration_since(deadline);
    Ok(late.ok_or("a timer fired before its deadline")?)
}
