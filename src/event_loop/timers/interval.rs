//! `Interval`: a repeating timer for async functions.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::repeat::{Repeat, Schedule};
use super::sleep::{Sleep, sleep_until};
use crate::event_loop::tasks::executor::current;

/// Repeats on the clock of this thread's loop, with the same schedule as
/// [`run_every`](crate::EventLoop::run_every): by default the first tick is after one period, and
/// missed ticks are skipped.
///
/// ```
/// use reveille::{EventLoop, time};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.spawn_local(async {
///     let mut interval = time::interval(Duration::from_millis(1));
///     for _ in 0..3 {
///         interval.tick().await;
///     }
/// });
/// event_loop.run_until_idle()
/// # }
/// ```
///
/// # Panics
/// If this thread has no loop, or the period is zero.
#[track_caller]
pub fn interval(repeat: impl Into<Repeat>) -> Interval {
    let event_loop = current();
    let shared = &event_loop.inner.shared;
    let (first, schedule) = shared.schedule(repeat.into());
    let mut sleep = sleep_until(shared.clock.now());
    sleep.set_deadline(first);
    Interval { sleep, schedule }
}

/// A repeating timer; see [`interval`].
#[derive(Debug)]
pub struct Interval {
    /// Until the next tick.
    sleep: Sleep,
    schedule: Schedule,
}

impl Interval {
    /// Waits for the next tick, and returns its deadline.
    ///
    /// With [`Delay`](crate::time::MissedTickBehavior::Delay), the next deadline is one period
    /// after this call returns. With [`Burst`](crate::time::MissedTickBehavior::Burst), calls
    /// return at once until they have caught up.
    ///
    /// Cancel safe: if the future is dropped before it has completed, no tick is lost.
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|context| self.poll_tick(context)).await
    }

    /// Same as [`tick`](Interval::tick), for a future written by hand.
    pub fn poll_tick(&mut self, context: &mut Context<'_>) -> Poll<Instant> {
        ready!(Pin::new(&mut self.sleep).poll(context));
        let event_loop = self.sleep.event_loop();
        let (deadline, now) = (self.sleep.moment(), self.sleep.now(event_loop.as_ref()));
        let clock = &self.sleep.shared().clock;
        let tick = clock.instant(deadline);
        let next = self.schedule.next(deadline, now, || clock.moment(clock.now()));
        self.sleep.set_deadline(next);
        Poll::Ready(tick)
    }
}
