//! Two futures on two threads that wake each other in turn.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Executor;
use crate::Result;
use crate::machine::Machine;
use crate::post::threads::start_on;

/// The round trips of a sample.
pub(super) const TRIPS: usize = 20_000;

/// The CPUs of the two threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus(Option<usize>, Option<usize>);

pub(super) fn places(machine: &Machine) -> impl Iterator<Item = (&'static str, Cpus)> {
    let one = ("both threads on one CPU, CPU time", Cpus(machine.server_cpu, machine.server_cpu));
    let two = ("a CPU for each thread", Cpus(machine.generator_cpu, machine.server_cpu));
    // With only one CPU there is one case.
    [Some(one), machine.generator_cpu.map(|_| two)].into_iter().flatten()
}

/// Where one future waits for another. The lock is held for an assignment.
#[derive(Default)]
struct Signal(Mutex<(bool, Option<Waker>)>);

impl Signal {
    fn set(&self) {
        let waker = {
            let state = &mut *self.0.lock();
            state.0 = true;
            state.1.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|context| {
            let (is_set, waker) = &mut *self.0.lock();
            if std::mem::take(is_set) {
                return Poll::Ready(());
            }
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Returns the nanoseconds per round trip: of CPU time if both threads are on one CPU, and of
/// elapsed time otherwise.
pub(super) fn sample(executor: Executor, Cpus(near, far): Cpus, trips: usize) -> Result<f64> {
    let clock = if near == far { process_time } else { elapsed_time };
    let (there, back) = (Arc::new(Signal::default()), Arc::new(Signal::default()));
    let far = {
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        start_on(far, move || {
            executor.run(async move {
                for _ in 0..trips {
                    there.wait().await;
                    back.set();
                }
            })
        })?
    };
    let near = start_on(near, move || {
        executor.run(async move {
            let started = clock();
            for _ in 0..trips {
                there.set();
                back.wait().await;
            }
            clock() - started
        })
    })?;
    let taken = near.join()?;
    far.join()?;
    Ok(taken.as_secs_f64() * 1e9 / trips as f64)
}

/// The CPU time of this process. Other processes do not prolong it.
fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn elapsed_time() -> Duration {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}
