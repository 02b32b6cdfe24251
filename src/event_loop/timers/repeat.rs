//! The schedule of a repeating timer.

use std::time::{Duration, Instant};

/// The schedule of a repeating timer: its period, its first deadline, and its behaviour when it is
/// late.
///
/// A [`Duration`] converts to the default schedule: the first call is after one period, and ticks
/// that a late loop has missed are skipped.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::time::{MissedTickBehavior, Repeat};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.run_every(Duration::from_secs(1), |_| println!("a second has passed"));
///
/// let polling = Repeat::every(Duration::from_millis(50))
///     .first_at(event_loop.now())
///     .when_late(MissedTickBehavior::Delay);
/// event_loop.run_every(polling, |_| println!("50 ms after the end of the last call"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a schedule does nothing until it is passed to `run_every`"]
pub struct Repeat {
    pub(in crate::event_loop) period: Duration,
    pub(in crate::event_loop) first: Option<Instant>,
    pub(in crate::event_loop) when_late: MissedTickBehavior,
}

impl Repeat {
    /// Repeats every `period`. Default: the first call is after one period. A period of zero makes
    /// `run_every` panic.
    pub fn every(period: Duration) -> Repeat {
        Repeat { period, first: None, when_late: MissedTickBehavior::Skip }
    }

    /// Sets the first deadline. Later deadlines count from it.
    pub fn first_at(mut self, instant: Instant) -> Repeat {
        self.first = Some(instant);
        self
    }

    /// Sets the behaviour when the timer is late. Default: [`MissedTickBehavior::Skip`].
    pub fn when_late(mut self, when_late: MissedTickBehavior) -> Repeat {
        self.when_late = when_late;
        self
    }
}

impl From<Duration> for Repeat {
    fn from(period: Duration) -> Repeat {
        Repeat::every(period)
    }
}

/// The behaviour of a repeating timer that is late: the loop was busy, the machine was suspended,
/// or a callback took longer than a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MissedTickBehavior {
    /// A fixed rate: the deadlines are the first one and whole periods after it, so the timer does
    /// not drift. Deadlines that have passed by the time of a call are skipped.
    #[default]
    Skip,
    /// A fixed rate without skipping: missed deadlines are made up for, one per turn of the loop,
    /// until the timer has caught up. A callback that always takes longer than its period never
    /// catches up.
    Burst,
    /// A fixed delay: the next call is one period after the end of the previous one.
    Delay,
}

/// The schedule in nanoseconds of the loop's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::event_loop) struct Schedule {
    pub(in crate::event_loop) period: u64,
    pub(in crate::event_loop) when_late: MissedTickBehavior,
}

impl Schedule {
    /// Returns the deadline after `deadline`. The call for it began at `now`, the time of the turn,
    /// and has just ended.
    pub(in crate::event_loop) fn next(self, deadline: u64, now: u64, end: impl FnOnce() -> u64) -> u64 {
        match self.when_late {
            MissedTickBehavior::Skip => {
                let passed = now.saturating_sub(deadline) / self.period;
                deadline.saturating_add(self.period.saturating_mul(passed + 1))
            }
            MissedTickBehavior::Burst => deadline.saturating_add(self.period),
            MissedTickBehavior::Delay => end().saturating_add(self.period),
        }
    }
}
