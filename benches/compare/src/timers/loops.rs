//! The loops compared, each as somewhere to have timers: one file each.

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
    /// What a timer that waits is known by, until it has been cancelled.
    type Id;

    fn new() -> Result<Self>;

    /// What the offsets of timers count from.
    fn begin(&mut self, beginning: Instant);

    /// Has the body do its work where the loop's timers may be touched.
    fn inside<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        body(self)
    }

    fn add(&mut self, timer: Timer) -> Result<Self::Id>;

    /// Answers whether the timer was there to be cancelled, so far as the loop knows.
    fn cancel(&mut self, id: Self::Id) -> bool;

    /// Fails if the loop still has a timer.
    fn check_empty(&mut self) -> Result<()>;

    /// Adds timers that are going to fire.
    fn arm(&mut self, timers: &[Timer]) -> Result<()> {
        timers.iter().try_for_each(|timer| self.add(*timer).map(drop))
    }

    /// Runs until all timers have fired that the tally expects, or for as long as one is willing to wait.
    fn run(&mut self) -> Result<()>;
}

/// A loop whose timers can be moved.
pub(super) trait Reset: Loop {
    /// Has a timer that waits fire so long from now instead. Answers whether it was there.
    fn reset(&mut self, id: &mut Self::Id, delay: Duration) -> bool;
}

/// Something that can wait until one deadline.
pub(super) trait Alone {
    /// How late each of so many timers is called, that wait one after the other.
    fn lateness(delay: Duration, count: usize) -> Result<Vec<Duration>>;
}

/// How long ago a deadline was, unless it is still to come.
fn late(deadline: Instant) -> Result<Duration> {
    let late = Instant::now().checked_duration_since(deadline);
    Ok(late.ok_or("a timer fired before its deadline")?)
}
