//! Times the hot paths of reveille, and runs them for an instruction count.
//!
//! ```sh
//! cargo bench                         # all paths
//! cargo bench -- timers               # the paths whose names contain `timers`
//! ```
//!
//! An iteration is a thousand operations, so a median of `35.2 µs` means 35.2 ns an operation.
//! `.ci/instructions` runs the same workloads under callgrind.

mod buffer;
mod channels;
mod echo;
mod frames;
mod futures;
mod tasks;
mod timers;
mod wake_up;
mod workload;

use std::env;
use std::process::ExitCode;

use divan::Bencher;

use workload::{WORKLOADS, Workload};

/// The arguments `instructions` alone list the workloads that are counted.
/// `instructions NAME ROUNDS` runs one of them; a round is a thousand operations.
fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["instructions"] => {
            for workload in WORKLOADS.iter().filter(|workload| workload.is_deterministic) {
                println!("{}", workload.name);
            }
        }
        ["instructions", name, rounds] => {
            let workload = WORKLOADS.iter().find(|workload| workload.name == name);
            let (Some(workload), Ok(rounds)) = (workload, rounds.parse()) else {
                eprintln!("hot_paths: no workload `{name}`, or `{rounds}` is not a number of rounds");
                return ExitCode::from(2);
            };
            let mut round = (workload.start)();
            for _ in 0..rounds {
                round();
            }
        }
        _ => divan::main(),
    }
    ExitCode::SUCCESS
}

#[divan::bench(args = WORKLOADS, min_time = 1, max_time = 3)]
fn thousand_operations(bencher: Bencher<'_, '_>, workload: &Workload) {
    bencher.bench_local((workload.start)());
}
