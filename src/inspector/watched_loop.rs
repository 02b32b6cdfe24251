//! A loop that an inspector watches: its probes, its CPU time, and its history.
//!
//! A probe is an internal task. The time from its post to its start is the delay that any task of
//! another thread would have had. The loop itself measures it, so the inspector may be late.

use std::collections::VecDeque;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::thread::Pid;

use super::delays::DelayCounts;
use crate::event_loop::LoopHandle;
use crate::event_loop::observation::metrics::LoopMetrics;
use crate::event_loop::observation::sample::LoopSample;

/// The number of seconds that the history covers.
pub(super) const HISTORY: usize = 300;

/// The number of callbacks whose descriptions are awaited.
const MAX_MARKED: usize = 16;

/// A probe that has waited this long makes the loop unresponsive.
pub(super) const UNRESPONSIVE: Duration = Duration::from_secs(1);

pub(super) struct WatchedLoop {
    /// Counts the loops that the inspector has watched.
    pub(super) number: u32,
    /// The name of the loop, made unique.
    pub(super) label: String,
    pub(super) handle: LoopHandle,
    response: Arc<Mutex<Option<Response>>>,
    /// When the probe that waits was posted.
    posted: Option<Instant>,
    pub(super) sample: Option<LoopSample>,
    pub(super) cpu: CpuTime,
    pub(super) delays: DelayCounts,
    /// The last second of the history is not complete.
    second: Second,
    pub(super) history: VecDeque<Point>,
    pub(super) running: Running,
    ended: Option<Instant>,
}

/// The loop's reply to a probe.
struct Response {
    at: Instant,
    sample: LoopSample,
}

/// The times of a thread, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CpuTime {
    pub(super) running: Duration,
    /// The thread was ready to run and waited for a processor.
    pub(super) waiting: Duration,
}

/// What has been collected since the last point of the history.
struct Second {
    began: Instant,
    cpu: Option<CpuTime>,
    tasks: u64,
    delays: DelayCounts,
    metrics: Option<LoopMetrics>,
}

/// A second of a loop.
pub(super) struct Point {
    /// Counts the points of all loops' histories in step.
    pub(super) number: u64,
    /// The shares of the time in which the thread ran and in which it waited for a processor.
    /// `None` if they are unknown.
    pub(super) load: Option<(f64, f64)>,
    pub(super) tasks_per_second: f64,
    pub(super) probes: DelayCounts,
    /// With metrics: the delays of tasks and timers, and the share of the time in callbacks.
    pub(super) measured: Option<Measured>,
}

pub(super) struct Measured {
    pub(super) tasks: DelayCounts,
    pub(super) timers: DelayCounts,
    pub(super) busy: f64,
}

/// The callback that the loop runs, as the inspector has seen it.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Its number, and when it was seen first.
    seen: Option<(u64, Instant)>,
    /// The callbacks that were marked last. The loop describes one after it has returned, so the
    /// description may arrive when another one is marked already.
    marked: VecDeque<(u64, Instant)>,
}

/// A callback that took long.
pub(super) struct SlowCall {
    pub(super) name: String,
    pub(super) object: String,
    pub(super) duration: Duration,
    pub(super) at: Instant,
}

impl WatchedLoop {
    pub(super) fn new(number: u32, label: String, handle: LoopHandle, now: Instant) -> WatchedLoop {
        handle.add_inspector();
        let tasks = handle.counters().tasks_run;
        let metrics = handle.metrics();
        WatchedLoop {
            number,
            label,
            handle,
            response: Arc::default(),
            posted: None,
            sample: None,
            cpu: CpuTime::default(),
            delays: DelayCounts::default(),
            second: Second { began: now, cpu: None, tasks, delays: DelayCounts::default(), metrics },
            history: VecDeque::new(),
            running: Running::default(),
            ended: None,
        }
    }

    /// Posts a probe, unless one waits.
    pub(super) fn probe(&mut self) {
        if self.posted.is_some() || self.ended.is_some() {
            return;
        }
        let response = Arc::clone(&self.response);
        self.posted = Some(Instant::now());
        self.handle.post_internal(move |event_loop| {
            let (at, sample) = (Instant::now(), event_loop.sample());
            *response.lock() = Some(Response { at, sample });
        });
    }

    /// Takes the reply to the probe, if it has arrived.
    pub(super) fn poll(&mut self, now: Instant) {
        let response = self.response.lock().take();
        if let (Some(Response { at, sample }), Some(posted)) = (response, self.posted) {
            self.posted = None;
            let delay = at.saturating_duration_since(posted);
            self.delays.add(delay);
            self.second.delays.add(delay);
            self.sample = Some(sample);
        }
        if self.handle.has_ended() {
            self.ended.get_or_insert(now);
        }
    }

    pub(super) fn ended(&self) -> Option<Instant> {
        self.ended
    }

    /// How long the loop has not run a probe, if that is long.
    pub(super) fn unresponsive(&self, now: Instant) -> Option<Duration> {
        let waiting = now.saturating_duration_since(self.posted.filter(|_| self.ended.is_none())?);
        (waiting >= UNRESPONSIVE).then_some(waiting)
    }

    /// How long the current callback has been seen to run.
    pub(super) fn in_callback(&self, now: Instant) -> Option<Duration> {
        let (beat, since) = self.running.seen.filter(|_| self.ended.is_none())?;
        let is_running = self.handle.slow_calls().running() == Some(beat);
        is_running.then(|| now.saturating_duration_since(since))
    }

    /// Adds a point to the history.
    pub(super) fn end_second(&mut self, number: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.second.began).as_secs_f64().max(1e-3);
        let cpu = self.sample.filter(|_| self.ended.is_none()).and_then(|sample| cpu_time(sample.thread));
        self.cpu = cpu.unwrap_or(self.cpu);
        let share = |before: Duration, now: Duration| now.saturating_sub(before).as_secs_f64() / elapsed;
        let load = self.second.cpu.zip(cpu).map(|(before, now)| {
            (share(before.running, now.running).min(1.0), share(before.waiting, now.waiting).min(1.0))
        });
        let tasks = self.handle.counters().tasks_run;
        let metrics = self.handle.metrics();
        let measured = self.second.metrics.as_ref().zip(metrics.as_ref()).map(|(before, now)| {
            let passed = now.since(before);
            Measured {
                tasks: DelayCounts::from(&passed.task_delay),
                timers: DelayCounts::from(&passed.timer_delay),
                busy: (passed.busy().as_secs_f64() / elapsed).min(1.0),
            }
        });
        let before = std::mem::replace(
            &mut self.second,
            Second { began: now, cpu, tasks, delays: DelayCounts::default(), metrics },
        );
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Point {
            number,
            load,
            tasks_per_second: tasks.saturating_sub(before.tasks) as f64 / elapsed,
            probes: before.delays,
            measured,
        });
    }

    /// Looks at the callback that runs, and returns those that took at least `limit`.
    pub(super) fn slow_calls(&mut self, limit: Duration, now: Instant) -> Vec<SlowCall> {
        let calls = self.handle.slow_calls();
        let Running { seen, marked } = &mut self.running;
        *seen = calls.running().map(|beat| seen.filter(|(seen, _)| *seen == beat).unwrap_or((beat, now)));
        // Marked as soon as it is seen: the next tick may be late.
        let unmarked = seen.filter(|(beat, _)| marked.back().is_none_or(|(marked, _)| marked != beat));
        if let Some((beat, since)) = unmarked {
            calls.mark(beat);
            if marked.len() == MAX_MARKED {
                marked.pop_front();
            }
            marked.push_back((beat, since));
        }
        let slow = calls.take_ended().into_iter().filter_map(|ended| {
            let (_, since) = marked.iter().find(|(beat, _)| *beat == ended.beat)?;
            let duration = ended.at.saturating_duration_since(*since);
            Some(SlowCall { name: ended.name, object: ended.object, duration, at: ended.at })
        });
        slow.filter(|slow| slow.duration >= limit).collect()
    }
}

impl Drop for WatchedLoop {
    fn drop(&mut self) {
        self.handle.remove_inspector();
    }
}

/// Reads the times of a thread of this process. Costs the thread nothing.
fn cpu_time(thread: Pid) -> Option<CpuTime> {
    let text = fs::read_to_string(format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero())).ok()?;
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().ok());
    let (running, waiting) = (fields.next()??, fields.next()??);
    Some(CpuTime { running: Duration::from_nanos(running), waiting: Duration::from_nanos(waiting) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_a_thread_grows_while_it_runs() {
        let thread = rustix::thread::gettid();
        let Some(before) = cpu_time(thread) else { return };
        while cpu_time(thread).expect("as before").running <= before.running {
            std::hint::spin_loop();
        }
        assert_eq!(cpu_time(Pid::from_raw(i32::MAX).expect("not zero")), None);
    }
}
