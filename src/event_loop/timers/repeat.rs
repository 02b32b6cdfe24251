//! How a timer repeats.

use std::time::{Duration, Instant};

/// How a timer repeats: how often, when first, and what it does when it is late.
///
/// A [`Duration`] alone does where the usual will do: first when one period has passed, and of the times that a late loop has missed
/// none is made up for.
///
/// ```
/// use reveille::{EventLoop, Repeat, MissedTickBehavior};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.run_every(Duration::from_secs(1), |_| println!("a second has passed"));
///
/// let polling = Repeat::every(Duration::from_millis(50)).first_at(event_loop.now()).when_late(MissedTickBehavior::Delay);
/// event_loop.run_every(polling, |_| println!("50 ms after the end of the last call"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says how a timer is to repeat, and makes none"]
pub struct Repeat {
    pub(in crate::event_loop) period: Duration,
    pub(in crate::event_loop) first: Option<Instant>,
    pub(in crate::event_loop) when_late: MissedTickBehavior,
}

impl Repeat {
    /// Every `period`, first when one period has passed.
    pub fn every(period: Duration) -> Repeat {
        Repeat { period, first: None, when_late: MissedTickBehavior::Skip }
    }

    /// First at `instant`, and then from there.
    pub fn first_at(mut self, instant: Instant) -> Repeat {
        self.first = Some(instant);
        self
    }

    /// What it does when it is late.
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

/// What a repeating timer does when it is late: the loop was busy, the machine suspended, or a callback took longer than a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MissedTickBehavior {
    /// A fixed rate: the deadlines are the first one and whole periods after it, so the timer does not drift. Those that have
    /// passed by the time of a call are skipped.
    #[default]
    Skip,
    /// A fixed rate, and every deadline is met: those that have passed follow one a turn of the loop, until the timer has caught
    /// up. A callback that always takes longer than its period never does.
    Burst,
    /// A fixed delay: the next call is one period after the end of the one before.
    Delay,
}

/// Where a timer that repeats goes on, in the nanoseconds of the loop's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::event_loop) struct Schedule {
    pub(in crate::event_loop) period: u64,
    pub(in crate::event_loop) when_late: MissedTickBehavior,
}

impl Schedule {
    /// The deadline that follows `deadline`, after a call that began at `now`, the time of the turn, and has just ended.
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
