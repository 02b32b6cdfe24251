//! The processor and the descriptors of this process.

use std::fs;
use std::io;

use rustix::thread::CpuSet;

/// Pins this thread to the CPU with this index among the allowed ones, so that the two processes
/// neither share a CPU nor migrate. No effect if there is only one CPU.
pub(crate) fn run_on_cpu(number: usize) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let (Some(cpu), true) = (allowed.get(number), allowed.len() > 1) {
        let mut only = CpuSet::new();
        only.set(*cpu);
        rustix::thread::sched_setaffinity(None, &only)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those that a child process inherits.
    Inheritable,
}

/// The number of open descriptors, without the one used for counting.
pub(crate) fn descriptors(which: Which) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let info = fs::read_to_string(entry?.path())?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim(), 8).map_err(io::Error::other)?;
        let is_inherited = flags & rustix::fs::OFlags::CLOEXEC.bits() == 0;
        if which == Which::All || is_inherited {
            count += 1;
        }
    }
    // The directory itself was open; it is never inherited.
    Ok(if which == Which::All { count - 1 } else { count })
}
