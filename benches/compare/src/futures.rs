//! Spawned futures: spawning and joining, wake-ups and yields, and a million of them that wait for
//! a timer. Both executors run on one thread.
//!
//! The futures are the same for both, and share their state through thread-locals, so that tokio's
//! need not be in a `LocalSet`, which costs it time.

mod across;
mod here;
mod million;

pub(crate) use self::million::be_peer;
use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths, whole};

/// An executor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Executor {
    Reveille,
    Tokio,
}

pub(crate) const EXECUTORS: [Executor; 2] = [Executor::Reveille, Executor::Tokio];

impl Executor {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Executor::Reveille => "reveille",
            Executor::Tokio => "tokio",
        }
    }

    pub(crate) fn parse(name: &str) -> std::result::Result<Executor, String> {
        let found = EXECUTORS.into_iter().find(|executor| executor.name() == name);
        found.ok_or_else(|| format!("no executor has the name {name:?}"))
    }

    /// Runs a future in a spawned task of this thread, to its end.
    fn run<F: Future<Output: Send> + Send + 'static>(self, future: F) -> Result<F::Output> {
        match self {
            Executor::Reveille => {
                let event_loop = reveille::EventLoop::new()?;
                let joined = event_loop.spawn_local(future);
                let result = event_loop.spawn_local(async move {
                    let result = joined.await;
                    reveille::task::with_loop(|event_loop| event_loop.quit());
                    result
                });
                event_loop.run()?;
                finished(result)
            }
            Executor::Tokio => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(async { tokio::spawn(future).await })?)
            }
        }
    }
}

/// The result of a future that has ended.
fn finished<T>(
    mut joined: reveille::task::JoinHandle<std::result::Result<T, reveille::task::JoinError>>,
) -> Result<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(&mut joined).poll(&mut context) {
        std::task::Poll::Ready(result) => Ok(result??),
        std::task::Poll::Pending => Err("the loop has ended before its future".into()),
    }
}

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    for (place, cpus) in across::places(machine) {
        let title = format!("wake-up from another thread, round trip, {place}");
        compare(&title, "ns", rounds, |executor| across::sample(executor, cpus, across::TRIPS))?;
    }
    for case in here::CASES {
        let sample = |executor| (case.sample)(executor, case.operations);
        compare(case.title, "ns", rounds, sample)?;
    }
    million::run(rounds)
}

/// Runs each case briefly.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    for executor in EXECUTORS {
        for case in here::CASES {
            (case.sample)(executor, 2_000)?;
        }
        for (_, cpus) in across::places(machine) {
            across::sample(executor, cpus, 100)?;
        }
        million::wait_for_timers(executor, 1_000)?;
        println!("futures, {}: all ended", executor.name());
    }
    Ok(())
}

/// Prints a table with the time per operation of each executor. They take turns.
fn compare(title: &str, unit: &str, rounds: usize, sample: impl Fn(Executor) -> Result<f64>) -> Result<()> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        samples.push(EXECUTORS.into_iter().map(&sample).collect::<Result<Vec<f64>>>()?);
    }
    let title = format!("{title}: median (min-max) of {rounds} rounds");
    let mut table = Table::new(title, &["executor", unit, "x tokio"]);
    for (index, executor) in EXECUTORS.into_iter().enumerate() {
        let of = |value: fn(&[f64], usize) -> f64| Spread::of(samples.iter().map(|row| value(row, index)));
        table.row([
            executor.name().into(),
            of(|row, index| row[index]).show(whole),
            of(|row, index| row[index] / row[1]).show(hundredths),
        ]);
    }
    print!("{table}");
    Ok(())
}
