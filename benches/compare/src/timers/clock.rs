//! The clocks: CPU time of this thread, and instants in the form that system calls take.

use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::Result;

/// CPU time of this thread, in user mode and in the kernel.
pub(super) fn thread_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// Converts an instant to `CLOCK_MONOTONIC`, the clock of [`Instant`], whose value it does not
/// expose. The result may be late by the time between two readings, but never early.
pub(super) fn timespec(instant: Instant) -> Timespec {
    let now = Instant::now();
    let count = duration(clock_gettime(ClockId::Monotonic));
    let count = count + instant.saturating_duration_since(now);
    // Seconds since boot, which fit.
    Timespec { tv_sec: count.as_secs() as i64, tv_nsec: i64::from(count.subsec_nanos()) }
}

/// Sleeps until the instant.
pub(super) fn sleep_until(instant: Instant) -> Result<()> {
    let until = timespec(instant);
    retry_on_intr(|| clock_nanosleep_absolute(ClockId::Monotonic, &until))?;
    Ok(())
}

fn duration(time: Timespec) -> Duration {
    // Neither clock is ever negative.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
