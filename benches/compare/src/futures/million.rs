//! A million futures that each wait for a timer: memory and time. Each sample is a process of its
//! own, so that none reuses the memory of another.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{EXECUTORS, Executor};
use crate::Result;
use crate::report::{Spread, Table, hundredths, whole};

const FUTURES: usize = 1_000_000;

/// The first deadline, which is after the last spawn. The others follow within a second.
const FIRST: Duration = Duration::from_secs(3);

/// What a process reports.
pub(super) struct Sample {
    /// Resident bytes per future while all wait.
    bytes: f64,
    /// Nanoseconds per future of the spawns and first polls.
    spawning: f64,
    /// CPU nanoseconds per future of the wake-ups, polls and ends.
    ending: f64,
}

pub(super) fn run(rounds: usize) -> Result<()> {
    let title = format!("{FUTURES} futures that wait for a timer: median (min-max) of {rounds} rounds");
    let mut table =
        Table::new(title, &["executor", "bytes each", "ns to spawn", "CPU ns to end", "MiB in all"]);
    for executor in EXECUTORS {
        let samples = (0..rounds).map(|_| in_a_process(executor)).collect::<Result<Vec<_>>>()?;
        let of = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
        table.row([
            executor.name().into(),
            of(|sample| sample.bytes).show(whole),
            of(|sample| sample.spawning).show(whole),
            of(|sample| sample.ending).show(whole),
            of(|sample| sample.bytes * FUTURES as f64 / f64::from(1 << 20)).show(hundredths),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn in_a_process(executor: Executor) -> Result<Sample> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["futures-peer", executor.name()]).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers = text.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
    match numbers[..] {
        [bytes, spawning, ending] => Ok(Sample { bytes, spawning, ending }),
        _ => Err(format!("{} has printed {text:?}", executor.name()).into()),
    }
}

/// The process of a sample.
pub(crate) fn be_peer(executor: Executor) -> Result<()> {
    let Sample { bytes, spawning, ending } = wait_for_timers(executor, FUTURES)?;
    println!("{bytes} {spawning} {ending}");
    Ok(())
}

pub(super) fn wait_for_timers(executor: Executor, futures: usize) -> Result<Sample> {
    executor.run(async move {
        let before = resident();
        let started = Instant::now();
        let first = started + if futures < FUTURES { Duration::from_millis(100) } else { FIRST };
        let step = Duration::from_secs(1) / futures as u32;
        match executor {
            Executor::Reveille => {
                for number in 0..futures {
                    let deadline = first + step * number as u32;
                    drop(reveille::task::spawn_local(
                        async move { reveille::time::sleep_until(deadline).await },
                    ));
                }
                reveille::task::yield_now().await;
            }
            Executor::Tokio => {
                for number in 0..futures {
                    let deadline = (first + step * number as u32).into();
                    drop(tokio::spawn(async move { tokio::time::sleep_until(deadline).await }));
                }
                tokio::task::yield_now().await;
            }
        }
        let (spawning, bytes) = (started.elapsed(), resident().saturating_sub(before));
        let cpu = cpu_time();
        let last = first + step * futures as u32 + Duration::from_millis(50);
        match executor {
            Executor::Reveille => reveille::time::sleep_until(last).await,
            Executor::Tokio => tokio::time::sleep_until(last.into()).await,
        }
        let each = |time: Duration| time.as_secs_f64() * 1e9 / futures as f64;
        let ending = cpu_time().saturating_sub(cpu);
        Sample { bytes: bytes as f64 / futures as f64, spawning: each(spawning), ending: each(ending) }
    })
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    // x86-64 and most others.
    pages.unwrap_or(0) * 4096
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
