//! The machine under the measurement: which CPUs to use, who else uses them, how many descriptors.

use std::fmt;
use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// What the kernel counts CPU time in where it shows it to users (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Descriptors a process needs beside its connections.
const SPARE_DESCRIPTORS: usize = 100;

/// A machine ready to measure on: this thread is pinned, the descriptor limit raised.
#[derive(Debug)]
pub(crate) struct Machine {
    /// How many CPUs this process may run on, before it confines itself to one.
    cpus: u32,
    /// The CPU servers are pinned to, if there is one to spare for them.
    pub(crate) server_cpu: Option<usize>,
    /// The CPU the load comes from: this thread's, unless there is one only.
    pub(crate) generator_cpu: Option<usize>,
    /// How many connections the descriptor limit leaves to this process, and to each child.
    pub(crate) connections: usize,
}

impl Machine {
    /// Pins this thread, the load generator's, to the second CPU it may run on and keeps the first
    /// for the servers, so that neither runs on the other's time.
    pub(crate) fn prepare() -> Result<Machine> {
        let allowed = sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        let (server_cpu, generator_cpu) = match (cpus.next(), cpus.next()) {
            (Some(first), Some(second)) => (Some(first), Some(second)),
            _ => (None, None),
        };
        if let Some(cpu) = generator_cpu {
            pin_this_thread(cpu)?;
        }
        Ok(Machine {
            cpus: allowed.count(),
            server_cpu,
            generator_cpu,
            connections: raise_descriptor_limit()?,
        })
    }

    /// Refuses to begin what would run out of descriptors half way.
    pub(crate) fn need_connections(&self, count: usize) -> Result<()> {
        if count > self.connections {
            let possible = self.connections;
            return Err(format!(
                "{count} connections are needed and the descriptor limit leaves {possible}: raise it (ulimit -n), or name fewer peers"
            )
            .into());
        }
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = cpu_model().unwrap_or_else(|| "CPU of unknown model".into());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        write!(f, "machine: {} x {model}, Linux {}; ", self.cpus, kernel.trim())?;
        match (self.server_cpu, self.generator_cpu) {
            (Some(server), Some(generator)) => {
                write!(f, "servers on CPU {server}, load generator on CPU {generator}")
            }
            _ => write!(f, "fewer than 2 CPUs to run on: nothing is pinned, figures are rough"),
        }
    }
}

/// Keeps the calling thread, and threads and children it starts later, on one CPU.
pub(crate) fn pin_this_thread(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).map_err(|error| format!("pinning to CPU {cpu}: {error}"))?;
    Ok(())
}

/// For how long a CPU was busy since the machine started, whoever kept it so, to the nearest 10 ms.
pub(crate) fn busy_time(cpu: usize) -> Result<Duration> {
    let name = format!("cpu{cpu}");
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name));
    let line = line.ok_or_else(|| format!("/proc/stat does not know {name}"))?;
    let ticks: Vec<u32> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    match ticks[..] {
        // What follows is time of guests, which user and nice time include.
        [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] => {
            Ok(TICK * (user + nice + system + irq + softirq + steal))
        }
        _ => Err(format!("/proc/stat has an odd line for {name}").into()),
    }
}

/// Raises the soft limit to the hard one, which children then inherit. Both ends of a connection
/// count, but each in its own process.
fn raise_descriptor_limit() -> Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    let descriptors = limit.maximum.map_or(usize::MAX, |limit| limit as usize);
    Ok(descriptors.saturating_sub(SPARE_DESCRIPTORS))
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
