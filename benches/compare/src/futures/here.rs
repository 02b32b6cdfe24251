//! Operations on one thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hint::black_box;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::Executor;
use crate::Result;

/// An operation.
pub(super) struct Case {
    pub(super) title: &'static str,
    /// The number of operations of a sample.
    pub(super) operations: usize,
    /// Returns the nanoseconds per operation.
    pub(super) sample: fn(Executor, usize) -> Result<f64>,
}

pub(super) const CASES: [Case; 4] = [
    Case {
        title: "spawn and join of an empty future, one at a time",
        operations: 1_000_000,
        sample: join_each,
    },
    Case {
        title: "spawn and join of an empty future, 1,000 at a time",
        operations: 1_000_000,
        sample: join_many,
    },
    Case { title: "wake-up of another future on the same thread", operations: 2_000_000, sample: wake },
    Case { title: "yield_now of two futures", operations: 2_000_000, sample: yields },
];

/// Spawns an empty future and returns its join handle as a future.
macro_rules! spawned {
    ($executor:expr, $future:expr) => {{
        let future = $future;
        async move {
            match $executor {
                Executor::Reveille => {
                    reveille::task::spawn_local(future).await.map_err(|error| error.to_string())
                }
                Executor::Tokio => tokio::spawn(future).await.map_err(|error| error.to_string()),
            }
        }
    }};
}

fn join_each(executor: Executor, operations: usize) -> Result<f64> {
    // Separate functions, so that no sample pays for the choice of the executor.
    match executor {
        Executor::Reveille => {
            let event_loop = reveille::EventLoop::new()?;
            let joined = event_loop.spawn_local(async move {
                let started = Instant::now();
                for _ in 0..operations {
                    reveille::task::spawn_local(async { black_box(()) }).await?;
                }
                let taken = started.elapsed();
                reveille::task::with_loop(|event_loop| event_loop.quit());
                Ok(taken)
            });
            event_loop.run()?;
            Ok(super::finished(joined)?.as_secs_f64() * 1e9 / operations as f64)
        }
        Executor::Tokio => executor
            .run(async move {
                let started = Instant::now();
                for _ in 0..operations {
                    tokio::spawn(async { black_box(()) }).await.map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(started.elapsed().as_secs_f64() * 1e9 / operations as f64)
            })?
            .map_err(Into::into),
    }
}

fn join_many(executor: Executor, operations: usize) -> Result<f64> {
    const AT_ONCE: usize = 1_000;
    match executor {
        Executor::Reveille => {
            let event_loop = reveille::EventLoop::new()?;
            let joined = event_loop.spawn_local(async move {
                let started = Instant::now();
                let mut handles = Vec::with_capacity(AT_ONCE);
                for _ in 0..operations / AT_ONCE {
                    handles
                        .extend((0..AT_ONCE).map(|_| reveille::task::spawn_local(async { black_box(()) })));
                    for handle in handles.drain(..) {
                        handle.await?;
                    }
                }
                let taken = started.elapsed();
                reveille::task::with_loop(|event_loop| event_loop.quit());
                Ok(taken)
            });
            event_loop.run()?;
            Ok(super::finished(joined)?.as_secs_f64() * 1e9 / operations as f64)
        }
        Executor::Tokio => executor
            .run(async move {
                let started = Instant::now();
                let mut handles = Vec::with_capacity(AT_ONCE);
                for _ in 0..operations / AT_ONCE {
                    handles.extend((0..AT_ONCE).map(|_| tokio::spawn(async { black_box(()) })));
                    for handle in handles.drain(..) {
                        handle.await.map_err(|error| error.to_string())?;
                    }
                }
                Ok::<_, String>(started.elapsed().as_secs_f64() * 1e9 / operations as f64)
            })?
            .map_err(Into::into),
    }
}

/// A place where one future waits for another.
#[derive(Default)]
struct Signal {
    is_set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

thread_local! {
    static SIGNALS: [Signal; 2] = Default::default();
}

fn set(which: usize) {
    SIGNALS.with(|signals| {
        let signal = &signals[which];
        signal.is_set.set(true);
        if let Some(waker) = signal.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    });
}

async fn wait(which: usize) {
    poll_fn(|context| {
        SIGNALS.with(|signals| {
            let signal = &signals[which];
            if signal.is_set.replace(false) {
                return Poll::Ready(());
            }
            let waker = &mut *signal.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
    })
    .await;
}

/// Two futures wake each other in turn.
fn wake(executor: Executor, operations: usize) -> Result<f64> {
    let taken = executor.run(async move {
        let other = spawned!(executor, async move {
            for _ in 0..operations / 2 {
                wait(1).await;
                set(0);
            }
        });
        let started = Instant::now();
        let one = async move {
            for _ in 0..operations / 2 {
                set(1);
                wait(0).await;
            }
        };
        let both = spawned!(executor, one);
        let (one, other) = both_of(both, other).await;
        one.and(other).map(|()| started.elapsed())
    })??;
    SIGNALS.with(|signals| signals.iter().for_each(|signal| drop(signal.waker.take())));
    Ok(taken.as_secs_f64() * 1e9 / operations as f64)
}

fn yields(executor: Executor, operations: usize) -> Result<f64> {
    async fn yielding(executor: Executor, operations: usize) {
        match executor {
            Executor::Reveille => {
                for _ in 0..operations {
                    reveille::task::yield_now().await;
                }
            }
            Executor::Tokio => {
                for _ in 0..operations {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    let taken = executor.run(async move {
        let started = Instant::now();
        let one = spawned!(executor, yielding(executor, operations / 2));
        let other = spawned!(executor, yielding(executor, operations / 2));
        let (one, other) = both_of(one, other).await;
        one.and(other).map(|()| started.elapsed())
    })??;
    Ok(taken.as_secs_f64() * 1e9 / operations as f64)
}

/// Awaits two futures at once.
async fn both_of<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let mut results = (None, None);
    poll_fn(move |context| {
        if results.0.is_none() {
            if let Poll::Ready(result) = one.as_mut().poll(context) {
                results.0 = Some(result);
            }
        }
        if results.1.is_none() {
            if let Poll::Ready(result) = other.as_mut().poll(context) {
                results.1 = Some(result);
            }
        }
        match (results.0.take(), results.1.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            left => {
                results = left;
                Poll::Pending
            }
        }
    })
    .await
}
