//! The executor and the timer of hyper, on this thread's loop.

use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::event_loop::EventLoop;
use crate::event_loop::tasks::executor::{spawn_local, with_loop};
use crate::event_loop::timers::sleep::{Sleep, sleep, sleep_until};

/// Spawns the futures of hyper on this thread's loop, for HTTP/2.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    /// # Panics
    /// If this thread has no loop.
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// The time of this thread's loop, for the timeouts of hyper; also that of a
/// [`VirtualClock`](crate::time::VirtualClock). Its methods panic on a thread without a loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopTimer;

impl hyper::rt::Sleep for Sleep {}

impl hyper::rt::Timer for LoopTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(sleep(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(sleep_until(deadline))
    }

    fn now(&self) -> Instant {
        with_loop(EventLoop::now)
    }

    /// Moves the timer of a sleep of this crate, without an allocation.
    fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, new_deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Sleep>() {
            Some(sleep) => sleep.reset(new_deadline),
            None => *sleep = self.sleep_until(new_deadline),
        }
    }
}
