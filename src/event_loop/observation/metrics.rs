//! The metrics of a loop: the time of each phase, and the delays of tasks and timers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::{AtomicHistogram, Config, Histogram};

use crate::event_loop::timers::clock::nanos;

/// A part of a turn whose time is measured.
#[derive(Clone, Copy, Debug)]
pub(in crate::event_loop) enum Phase {
    Hooks,
    Waiting,
    Channels,
    Timers,
    Tasks,
    Closes,
}

/// A bucket covers at most a sixteenth of its values.
const SUB_BUCKETS_POWER: u8 = 4;

/// All times in nanoseconds that 64 bits can hold.
const MAX_POWER: u8 = 64;

/// The metrics as atomics. Only the loop's thread changes them.
#[derive(Debug)]
pub(in crate::event_loop) struct AtomicMetrics {
    turns: AtomicU64,
    /// Nanoseconds, for each [`Phase`].
    times: [AtomicU64; 6],
    task_delay: AtomicHistogram,
    timer_delay: AtomicHistogram,
}

impl Default for AtomicMetrics {
    fn default() -> AtomicMetrics {
        let config = Config::new(SUB_BUCKETS_POWER, MAX_POWER).expect("4 is less than 64");
        AtomicMetrics {
            turns: AtomicU64::new(0),
            times: Default::default(),
            task_delay: AtomicHistogram::with_config(&config),
            timer_delay: AtomicHistogram::with_config(&config),
        }
    }
}

impl AtomicMetrics {
    pub(super) fn record_phase(&self, phase: Phase, time: Duration) {
        add(&self.times[phase as usize], nanos(time));
    }

    pub(super) fn count_turn(&self) {
        add(&self.turns, 1);
    }

    pub(super) fn record_task_delay(&self, delay: Duration) {
        record(&self.task_delay, nanos(delay));
    }

    /// The delay is in nanoseconds.
    pub(in crate::event_loop) fn record_timer_delay(&self, delay: u64) {
        record(&self.timer_delay, delay);
    }

    pub(in crate::event_loop) fn read(&self) -> LoopMetrics {
        let time = |phase: Phase| Duration::from_nanos(self.times[phase as usize].load(Relaxed));
        LoopMetrics {
            turns: self.turns.load(Relaxed),
            waiting: time(Phase::Waiting),
            in_hooks: time(Phase::Hooks),
            in_channels: time(Phase::Channels),
            in_timers: time(Phase::Timers),
            in_tasks: time(Phase::Tasks),
            in_closes: time(Phase::Closes),
            task_delay: Delays(self.task_delay.load()),
            timer_delay: Delays(self.timer_delay.load()),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

fn record(histogram: &AtomicHistogram, delay: u64) {
    // Every value of 64 bits has a bucket.
    let _ = histogram.increment(delay);
}

/// The metrics of a loop since they were enabled, from
/// [`LoopHandle::metrics`](crate::LoopHandle::metrics).
///
/// All times are measured with the system's monotonic clock, also on a loop with a
/// [`VirtualClock`](crate::time::VirtualClock). The exception is [`timer_delay`], which is measured
/// with the clock of the loop.
///
/// A time is added when its phase ends. While the loop runs, the values may belong to
/// slightly different moments.
///
/// [`timer_delay`]: LoopMetrics::timer_delay
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoopMetrics {
    /// Turns that have completed.
    pub turns: u64,
    /// The time of phases 1 and 2: the wait and its preparation, a spin included. The time between
    /// the turns of an embedded loop is not included.
    pub waiting: Duration,
    /// The time in [hooks](crate::observe::Hook).
    pub in_hooks: Duration,
    /// The time of phase 3: connections, servers, and all other sources.
    pub in_channels: Duration,
    /// The time of phase 4.
    pub in_timers: Duration,
    /// The time of phase 5, internal tasks of the crate included.
    pub in_tasks: Duration,
    /// The time of phase 6: the last callbacks of sources that were closed.
    pub in_closes: Duration,
    /// For each task, the time from its post to its start.
    pub task_delay: Delays,
    /// For each timer that has fired, the time from its deadline to its start. Timers of the crate,
    /// such as idle timeouts, are included.
    pub timer_delay: Delays,
}

impl LoopMetrics {
    /// The difference to `earlier` metrics of the same loop.
    ///
    /// Differences below zero, as with the metrics of another loop, are zero.
    pub fn since(&self, earlier: &LoopMetrics) -> LoopMetrics {
        LoopMetrics {
            turns: self.turns.saturating_sub(earlier.turns),
            waiting: self.waiting.saturating_sub(earlier.waiting),
            in_hooks: self.in_hooks.saturating_sub(earlier.in_hooks),
            in_channels: self.in_channels.saturating_sub(earlier.in_channels),
            in_timers: self.in_timers.saturating_sub(earlier.in_timers),
            in_tasks: self.in_tasks.saturating_sub(earlier.in_tasks),
            in_closes: self.in_closes.saturating_sub(earlier.in_closes),
            task_delay: self.task_delay.since(&earlier.task_delay),
            timer_delay: self.timer_delay.since(&earlier.timer_delay),
        }
    }

    /// The time of all phases except [`waiting`](LoopMetrics::waiting).
    pub fn busy(&self) -> Duration {
        self.in_hooks + self.in_channels + self.in_timers + self.in_tasks + self.in_closes
    }
}

/// A histogram of delays. Its buckets have a relative width of at most a sixteenth.
#[derive(Clone)]
pub struct Delays(Histogram);

impl Delays {
    /// The number of delays.
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// The delay that a fraction `quantile` of the delays does not exceed: 0.5 is the median, and 1
    /// the longest delay. It is up to a sixteenth longer than the exact one. `None` if there are no
    /// delays.
    ///
    /// # Panics
    /// If `quantile` is not from 0 to 1.
    #[track_caller]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let bucket = self.0.quantile_bucket(quantile).expect("a quantile is a number from 0 to 1");
        bucket.map(|bucket| Duration::from_nanos(bucket.end()))
    }

    /// The buckets that are not empty, shortest delays first: the longest delay of each, and the
    /// number of delays.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let used = self.0.iter().filter(|bucket| bucket.count() > 0);
        used.map(|bucket| (Duration::from_nanos(bucket.end()), bucket.count()))
    }

    fn since(&self, earlier: &Delays) -> Delays {
        let mut counts = self.0.clone();
        for (count, earlier) in counts.as_mut_slice().iter_mut().zip(earlier.0.as_slice()) {
            *count = count.saturating_sub(*earlier);
        }
        Delays(counts)
    }
}

impl fmt::Debug for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Delays");
        fields.field("count", &self.count());
        for (name, quantile) in [("median", 0.5), ("p99", 0.99), ("max", 1.0)] {
            fields.field(name, &self.quantile(quantile).unwrap_or_default());
        }
        fields.finish_non_exhaustive()
    }
}
