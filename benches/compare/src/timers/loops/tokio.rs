//! tokio: a current-thread runtime. Its timers are futures: boxed and polled once, or one task
//! each.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep, sleep_until, timeout};

use super::{Alone, Loop, Reset, late};
use crate::Result;
use crate::timers::workload::Timer;
use crate::timers::{TIMEOUT, tally};

pub(in crate::timers) struct Tokio {
    runtime: Runtime,
    beginning: Instant,
    finished: Arc<Notify>,
}

fn runtime() -> Result<Runtime> {
    // With its epoll, as in a server; without, it would sleep on a condition variable.
    Ok(Builder::new_current_thread().enable_io().enable_time().build()?)
}

impl Loop for Tokio {
    type Id = Pin<Box<Sleep>>;

    fn new() -> Result<Self> {
        let runtime = runtime()?;
        // A runtime without a deadline is woken by a system call for each timer that is added,
        // until it has slept again. One that sleeps with a pending timer is woken for earlier ones
        // only, which is the usual state of a busy server. The deadline is far enough ahead that it
        // does not expire if this thread is preempted; one in two hundred deadlines is earlier.
        runtime.block_on(async {
            let mut ahead = Box::pin(sleep(Duration::from_millis(50)));
            let _ = ahead.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            sleep(Duration::from_millis(1)).await;
        });
        Ok(Tokio { runtime, beginning: Instant::now(), finished: Arc::new(Notify::new()) })
    }

    fn begin(&mut self, beginning: Instant) {
        self.beginning = beginning;
    }

    fn inside<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        // Not in `block_on`, which would stop polling after 128 timers to let other tasks run.
        let handle = self.runtime.handle().clone();
        let _inside = handle.enter();
        body(self)
    }

    #[inline]
    fn add(&mut self, timer: Timer) -> Result<Self::Id> {
        let deadline = self.beginning + Duration::from_nanos(timer.offset);
        let mut sleep = Box::pin(sleep_until(deadline.into()));
        // The first poll adds the timer to the wheel.
        match sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            true => Ok(sleep),
            false => Err("a timer was due at once".into()),
        }
    }

    #[inline]
    fn cancel(&mut self, id: Self::Id) -> bool {
        !id.is_elapsed()
    }

    fn check_empty(&mut self) -> Result<()> {
        // A timer exists only as long as its future.
        Ok(())
    }

    fn arm(&mut self, timers: &[Timer]) -> Result<()> {
        thread_local!(static WAITING: Cell<usize> = const { Cell::new(0) });
        WAITING.set(0);
        let Tokio { runtime, beginning, finished } = self;
        runtime.block_on(async {
            for timer in timers.iter().copied() {
                let deadline = *beginning + Duration::from_nanos(timer.offset);
                let finished = Arc::clone(finished);
                tokio::spawn(async move {
                    WAITING.set(WAITING.get() + 1);
                    sleep_until(deadline.into()).await;
                    if tally::fired(timer) {
                        finished.notify_one();
                    }
                });
            }
            while WAITING.get() < timers.len() {
                yield_now().await;
            }
        });
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let Tokio { runtime, finished, .. } = self;
        runtime.block_on(async { timeout(TIMEOUT, finished.notified()).await })?;
        Ok(())
    }
}

impl Reset for Tokio {
    #[inline]
    fn reset(&mut self, id: &mut Self::Id, delay: Duration) -> bool {
        let was_there = !id.is_elapsed();
        id.as_mut().reset((Instant::now() + delay).into());
        was_there
    }
}

impl Alone for Tokio {
    fn lateness(delay: Duration, count: usize) -> Result<Vec<Duration>> {
        runtime()?.block_on(async {
            let mut taken = Vec::with_capacity(count);
            for _ in 0..count {
                let deadline = Instant::now() + delay;
                sleep_until(deadline.into()).await;
                taken.push(late(deadline)?);
            }
            Ok(taken)
        })
    }
}
