//! Tasks from other threads: how many a second a loop takes, and how long it takes for one to go there and
//! another to come back.
//!
//! All of it happens in this process, on threads that are pinned one by one: what is measured is time, so nothing is gained
//! by giving each peer a process. A peer's threads have ended, and its loop is gone, before the next one starts.

mod posters;
mod round_trip;
mod tally;
mod threads;
mod throughput;

use std::time::Duration;

use crate::Result;
use crate::machine::Machine;

/// How long anything here may take before it counts as hanging. The slowest sample takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures every case and prints a table each.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    throughput::run(machine, rounds)?;
    round_trip::run(machine, rounds)
}

/// Every peer for a moment: is every task run, once, and does the loop end when told?
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    throughput::smoke(machine)?;
    round_trip::smoke(machine)
}
