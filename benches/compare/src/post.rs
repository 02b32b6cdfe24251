//! Tasks from other threads: tasks per second of a loop, and the round trip of a task to another
//! loop and one back.
//!
//! All peers run in this process, on threads pinned one by one: the measurement is of elapsed time,
//! so separate processes have no benefit. A peer's threads and its loop have ended before the next
//! peer starts.

mod posters;
mod round_trip;
mod tally;
pub(crate) mod threads;
mod throughput;

use std::time::Duration;

use crate::Result;
use crate::machine::Machine;

/// A measurement that takes longer counts as hung. The slowest sample takes one or two seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    throughput::run(machine, rounds)?;
    round_trip::run(machine, rounds)
}

/// Runs each peer briefly, and checks that every task runs once and that the loop ends on request.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    throughput::smoke(machine)?;
    round_trip::smoke(machine)
}
