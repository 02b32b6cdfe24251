//! The machine under measurement: the CPUs to use, their other load, and the descriptor limit.

use std::fmt;
use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// The kernel's unit for CPU times in /proc (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Descriptors that a process needs besides its connections.
const SPARE_DESCRIPTORS: usize = 100;

/// A machine ready for measurements: this thread is pinned, and the descriptor limit is raised.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Number of CPUs that this process may run on, before it is pinned.
    cpus: u32,
    /// The CPU of the servers, if there is more than one.
    pub(crate) server_cpu: Option<usize>,
    /// The CPU of the load generator, which is this thread; `None` if there is only one.
    pub(crate) generator_cpu: Option<usize>,
    /// Connections that the descriptor limit allows to this process, and to each child.
    pub(crate) connections: usize,
}

impl Machine {
    /// Pins this thread, the load generator, to the second allowed CPU, and reserves the first one
    /// for the servers, so that neither uses the other's time.
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

    /// Fails early if the descriptors would run out.
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

/// Pins the calling thread, and threads and children that it starts later, to one CPU.
pub(crate) fn pin_this_thread(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).map_err(|error| format!("pinning to CPU {cpu}: {error}"))?;
    Ok(())
}

/// The busy time of a CPU since boot, by any process, in steps of 10 ms.
pub(crate) fn busy_time(cpu: usize) -> Result<Duration> {
    let name = format!("cpu{cpu}");
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name));
    let line = line.ok_or_else(|| format!("/proc/stat does not know {name}"))?;
    let ticks: Vec<u32> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    match ticks[..] {
        // The remaining columns are guest times, which user and nice time include.
        [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] => {
            Ok(TICK * (user + nice + system + irq + softirq + steal))
        }
        _ => Err(format!("/proc/stat has an odd line for {name}").into()),
    }
}

/// Raises the soft limit to the hard one; children inherit it. Both ends of a connection need a
/// descriptor, but each in its own process.
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
