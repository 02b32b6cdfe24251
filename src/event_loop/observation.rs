//! What other threads can observe of a loop: its times and delays, and the callback that runs.
//!
//! Nothing is recorded until it is requested. Until then a turn has two branches, a timer has one,
//! and tasks and the readiness callbacks of channels have none. A task that is queued has one, in
//! its queue.
//!
//! A loop that only an inspector observes numbers its callbacks ([`slow_calls`]), and does nothing
//! else.

pub(crate) mod metrics;
pub(crate) mod pulse;
#[cfg(feature = "inspector")]
pub(crate) mod sample;
#[cfg(feature = "inspector")]
pub(crate) mod slow_calls;

use std::cell::RefCell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use self::metrics::{AtomicMetrics, Phase};
use self::pulse::{Activity, Pulse};
#[cfg(feature = "inspector")]
use self::slow_calls::{EndedCall, SlowCalls};
use super::poller::Wait;
use super::{EventLoop, Inner};
use crate::event_loop::trimming::slack::release_capacity;

/// The part of a loop's shared state that is observed.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// The watchdogs, and one more if there are metrics.
    measuring: AtomicUsize,
    /// The same, and the inspectors.
    observers: AtomicUsize,
    /// How many watchdogs watch the callbacks. Each inspector counts as [`INSPECTOR`].
    watchers: AtomicUsize,
    metrics: OnceLock<AtomicMetrics>,
    pulse: Pulse,
    #[cfg(feature = "inspector")]
    slow_calls: SlowCalls,
}

/// One inspector, in a count of watchdogs: one more than the maximum of these.
#[cfg(feature = "inspector")]
const INSPECTOR: usize = 1 << (usize::BITS / 2);

impl Observation {
    /// Starts the metrics. Returns whether they had not been started.
    pub(super) fn enable_metrics(&self) -> bool {
        if self.metrics.get().is_some() {
            return false;
        }
        // A thread that sees the metrics also sees that there is an observer.
        self.add_measuring();
        let is_first = self.metrics.set(AtomicMetrics::default()).is_ok();
        if !is_first {
            self.remove_measuring();
        }
        is_first
    }

    #[inline]
    pub(super) fn metrics(&self) -> Option<&AtomicMetrics> {
        self.metrics.get()
    }

    fn add_measuring(&self) {
        self.observers.fetch_add(1, Relaxed);
        self.measuring.fetch_add(1, Relaxed);
    }

    fn remove_measuring(&self) {
        self.measuring.fetch_sub(1, Relaxed);
        self.observers.fetch_sub(1, Relaxed);
    }

    pub(super) fn add_watcher(&self) {
        self.add_measuring();
        self.watchers.fetch_add(1, Relaxed);
    }

    pub(super) fn remove_watcher(&self) {
        self.watchers.fetch_sub(1, Relaxed);
        self.remove_measuring();
    }

    #[cfg(feature = "inspector")]
    pub(super) fn add_inspector(&self) {
        self.observers.fetch_add(1, Relaxed);
        self.watchers.fetch_add(INSPECTOR, Relaxed);
    }

    #[cfg(feature = "inspector")]
    pub(super) fn remove_inspector(&self) {
        self.watchers.fetch_sub(INSPECTOR, Relaxed);
        self.observers.fetch_sub(1, Relaxed);
    }

    #[cfg(feature = "inspector")]
    pub(super) fn slow_calls(&self) -> &SlowCalls {
        &self.slow_calls
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    #[inline]
    pub(super) fn is_measured(&self) -> bool {
        self.measuring.load(Relaxed) != 0
    }

    #[inline]
    pub(super) fn is_observed(&self) -> bool {
        self.observers.load(Relaxed) != 0
    }

    #[inline]
    fn is_watched(&self) -> bool {
        self.watchers.load(Relaxed) != 0
    }
}

/// When the tasks of this thread and of the current batch were queued. A time belongs to the task
/// with the same distance from the end of its list. Tasks that were queued before the metrics were
/// enabled have none.
#[derive(Debug, Default)]
pub(super) struct TaskTimes {
    /// Of the tasks that have been queued on this thread since the last batch.
    queued: RefCell<Vec<Instant>>,
    /// Of the batch.
    pub(super) local: RefCell<Vec<Instant>>,
    pub(super) posted: RefCell<Vec<Instant>>,
}

impl EventLoop {
    /// Whether the loop has hooks in its turns, metrics, or watchdogs.
    #[inline]
    pub(super) fn is_measured(&self) -> bool {
        let Inner { shared, hooks, .. } = &*self.inner;
        shared.observation.is_measured() || hooks.are_used()
    }

    /// Same as [`is_measured`](EventLoop::is_measured), or an inspector observes the loop.
    #[inline]
    pub(super) fn is_observed(&self) -> bool {
        let Inner { shared, hooks, .. } = &*self.inner;
        shared.observation.is_observed() || hooks.are_used()
    }

    /// Begins a turn, and runs its first hooks. Returns how long it may wait.
    #[cold]
    pub(super) fn begin_observed_turn(&self, limit: Wait) -> io::Result<Wait> {
        self.note_metrics();
        // A turn that has failed has left its phase.
        self.inner.phase.set(None);
        self.enter_phase::<true>(Some(Phase::Waiting));
        self.run_before_wait(limit)
    }

    /// If the loop has metrics, the times of its tasks are recorded from now on.
    pub(super) fn note_metrics(&self) {
        if self.inner.shared.observation.metrics().is_some() {
            self.inner.queues_specially.set(true);
        }
    }

    /// Ends the time of the current phase and starts that of `next`. `None` ends the turn. Does
    /// nothing in a turn that is not observed.
    #[inline]
    pub(super) fn enter_phase<const OBSERVED: bool>(&self, next: Option<Phase>) {
        if OBSERVED {
            self.enter_observed_phase(next);
        }
    }

    #[cold]
    fn enter_observed_phase(&self, next: Option<Phase>) {
        let Some(metrics) = self.inner.shared.observation.metrics() else { return };
        let now = Instant::now();
        if let Some((ended, start)) = self.inner.phase.replace(next.map(|next| (next, now))) {
            metrics.record_phase(ended, now.saturating_duration_since(start));
            if next.is_none() {
                metrics.count_turn();
            }
        }
    }

    /// Whether a watchdog or an inspector watches the callbacks. Then each is called through
    /// [`publishing`](EventLoop::publishing).
    #[inline]
    pub(super) fn is_watched(&self) -> bool {
        self.inner.shared.observation.is_watched()
    }

    /// Publishes a callback to those that watch, and calls it. `call` catches its panic.
    #[cfg(feature = "inspector")]
    #[cold]
    #[inline(never)]
    pub(super) fn publishing<R>(
        &self,
        describe: impl Fn() -> Activity,
        call: impl FnOnce() -> Option<R>,
    ) -> Option<R> {
        let Observation { watchers, slow_calls, .. } = &self.inner.shared.observation;
        let watchers = watchers.load(Relaxed);
        let beat = if watchers >= INSPECTOR { slow_calls.begin() } else { None };
        let returned = match watchers % INSPECTOR {
            0 => call(),
            _ => self.publishing_to_watchdogs(&describe, call),
        };
        if let Some(beat) = beat {
            if slow_calls.end(beat) {
                self.record_slow_call(beat, describe());
            }
        }
        returned
    }

    /// Numbers a callback of a source, and calls it. `call` catches its panic.
    #[cfg(feature = "inspector")]
    #[inline]
    pub(super) fn numbering<R>(
        &self,
        describe: impl FnOnce() -> Activity,
        call: impl FnOnce() -> Option<R>,
    ) -> Option<R> {
        let slow_calls = &self.inner.shared.observation.slow_calls;
        let Some(beat) = slow_calls.begin() else { return call() };
        let returned = call();
        if slow_calls.end(beat) {
            self.record_slow_call(beat, describe());
        }
        returned
    }

    #[cfg(feature = "inspector")]
    #[cold]
    fn record_slow_call(&self, beat: u64, activity: Activity) {
        // The callback may have forked. In the child, the lock may be held for ever.
        if !self.is_inherited() {
            let (name, object) = activity.into_texts();
            let ended = EndedCall { beat, name, object, at: Instant::now() };
            self.inner.shared.observation.slow_calls.record(ended);
        }
    }

    #[cfg(not(feature = "inspector"))]
    #[cold]
    #[inline(never)]
    pub(super) fn publishing<R>(
        &self,
        describe: impl Fn() -> Activity,
        call: impl FnOnce() -> Option<R>,
    ) -> Option<R> {
        self.publishing_to_watchdogs(&describe, call)
    }

    fn publishing_to_watchdogs<R>(
        &self,
        describe: &impl Fn() -> Activity,
        call: impl FnOnce() -> Option<R>,
    ) -> Option<R> {
        let Inner { shared, outer_callbacks, .. } = &*self.inner;
        let pulse = &shared.observation.pulse;
        let is_outermost = outer_callbacks.borrow().is_empty();
        let before = pulse.begin(describe(), is_outermost);
        outer_callbacks.borrow_mut().push(before.filter(|_| !is_outermost));
        let returned = call();
        let outer = outer_callbacks.borrow_mut().pop().flatten();
        // The callback may have forked. In the child, the lock may be held for ever.
        if !self.is_inherited() {
            if is_outermost { pulse.end() } else { pulse.resume(outer) }
        }
        returned
    }

    /// Notes when a task of this thread is queued.
    pub(super) fn record_queued(&self) {
        self.inner.task_times.queued.borrow_mut().push(Instant::now());
    }

    /// Takes the batch of phase 5, with its times. Returns whether there is a request to quit.
    #[cold]
    pub(super) fn take_observed_batch(&self) -> bool {
        let Inner { shared, task_batch, task_times, hooks, .. } = &*self.inner;
        // The metrics may have been enabled during the wait.
        self.note_metrics();
        let TaskTimes { queued, local, posted } = task_times;
        for times in [local, posted] {
            let times = &mut *times.borrow_mut();
            times.clear();
            release_capacity(times);
        }
        queued.swap(local);
        let batch = &mut task_batch.borrow_mut();
        let quit = shared.tasks.take_timed(batch, &mut posted.borrow_mut());
        if !batch.is_empty() {
            hooks.set_due();
        }
        quit
    }

    /// Runs the tasks of a batch.
    #[cold]
    pub(super) fn observe_each<T>(
        &self,
        tasks: &mut Vec<T>,
        times: &RefCell<Vec<Instant>>,
        name: fn(&T) -> &'static str,
        call: fn(T, &EventLoop),
    ) {
        let shared = &self.inner.shared;
        let metrics = shared.observation.metrics();
        let (count, timed) = (tasks.len(), times.borrow().len());
        for (number, task) in tasks.drain(..).enumerate() {
            shared.counters.count_run();
            // Counted from the end of both lists.
            let at = (number + timed).checked_sub(count);
            let queued = at.and_then(|at| times.borrow().get(at).copied());
            if let (Some(metrics), Some(queued)) = (metrics, queued) {
                metrics.record_task_delay(queued.elapsed());
            }
            self.catch_named("a task", name(&task), || call(task, self));
            if self.is_inherited() {
                return;
            }
        }
    }
}
