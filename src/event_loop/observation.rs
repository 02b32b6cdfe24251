//! What other threads can observe of a loop: its times and delays, and the callback that runs.
//!
//! Nothing is recorded until it is requested. Until then a turn has one branch for each phase, and
//! a callback of a source or a timer has one branch. A task has none.

pub(crate) mod metrics;
pub(crate) mod pulse;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use self::metrics::{AtomicMetrics, Phase};
use self::pulse::{Activity, Pulse};
use super::EventLoop;
use crate::event_loop::tasks::task_queue::Batch;

/// The part of a loop's shared state that is observed.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// The watchers, and one more if there are metrics.
    observers: AtomicUsize,
    /// How many watchdogs watch the callbacks.
    watchers: AtomicUsize,
    metrics: OnceLock<AtomicMetrics>,
    pulse: Pulse,
}

impl Observation {
    /// Starts the metrics. Returns whether they had not been started.
    pub(super) fn enable_metrics(&self) -> bool {
        if self.metrics.get().is_some() {
            return false;
        }
        // A thread that sees the metrics also sees that there is an observer.
        self.observers.fetch_add(1, Relaxed);
        let is_first = self.metrics.set(AtomicMetrics::default()).is_ok();
        if !is_first {
            self.observers.fetch_sub(1, Relaxed);
        }
        is_first
    }

    #[inline]
    pub(super) fn metrics(&self) -> Option<&AtomicMetrics> {
        self.metrics.get()
    }

    pub(super) fn add_watcher(&self) {
        self.observers.fetch_add(1, Relaxed);
        self.watchers.fetch_add(1, Relaxed);
    }

    pub(super) fn remove_watcher(&self) {
        self.watchers.fetch_sub(1, Relaxed);
        self.observers.fetch_sub(1, Relaxed);
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    #[inline]
    fn is_observed(&self) -> bool {
        self.observers.load(Relaxed) != 0
    }

    #[inline]
    fn is_watched(&self) -> bool {
        self.watchers.load(Relaxed) != 0
    }
}

/// A callback that has been published.
#[must_use = "the callback counts as running until it is left"]
pub(super) struct Entered {
    /// The callback around it.
    outer: Option<Activity>,
}

impl EventLoop {
    /// Starts the time of a turn, which begins with `phase`.
    #[inline]
    pub(super) fn begin_turn(&self, phase: Phase) {
        if self.inner.shared.observation.is_observed() {
            // A turn that has failed has left its phase.
            self.inner.phase.set(None);
            self.record_phase(Some(phase));
        }
    }

    /// Ends the time of the current phase, and starts that of `phase`.
    #[inline]
    pub(super) fn enter_phase(&self, phase: Phase) {
        if self.inner.shared.observation.is_observed() {
            self.record_phase(Some(phase));
        }
    }

    /// Ends the time of the last phase.
    #[inline]
    pub(super) fn end_turn(&self) {
        if self.inner.shared.observation.is_observed() {
            self.record_phase(None);
        }
    }

    #[cold]
    fn record_phase(&self, next: Option<Phase>) {
        let Some(metrics) = self.inner.shared.observation.metrics() else { return };
        let now = Instant::now();
        if let Some((ended, start)) = self.inner.phase.replace(next.map(|next| (next, now))) {
            metrics.record_phase(ended, now.saturating_duration_since(start));
            if next.is_none() {
                metrics.count_turn();
            }
        }
    }

    /// Publishes a callback that is about to be called, if a watchdog watches the loop.
    #[inline]
    pub(super) fn enter_callback(&self, describe: impl FnOnce() -> Activity) -> Option<Entered> {
        self.inner.shared.observation.is_watched().then(|| self.publish(describe()))
    }

    #[cold]
    fn publish(&self, activity: Activity) -> Entered {
        let depth = self.inner.callback_depth.get();
        self.inner.callback_depth.set(depth + 1);
        let outer = self.inner.shared.observation.pulse.begin(activity, depth == 0);
        Entered { outer: outer.filter(|_| depth > 0) }
    }

    /// The callback has returned. To be called with the result of
    /// [`enter_callback`](EventLoop::enter_callback).
    #[inline]
    pub(super) fn leave_callback(&self, entered: Option<Entered>) {
        if let Some(entered) = entered {
            self.withdraw(entered);
        }
    }

    #[cold]
    fn withdraw(&self, entered: Entered) {
        let depth = self.inner.callback_depth.get() - 1;
        self.inner.callback_depth.set(depth);
        // The callback may have forked. In the child, the lock may be held for ever.
        if !self.is_inherited() {
            let pulse = &self.inner.shared.observation.pulse;
            if depth == 0 { pulse.end() } else { pulse.resume(entered.outer) }
        }
    }

    /// Notes when a task of this thread is queued.
    #[inline]
    pub(super) fn record_queued<T>(&self, batch: &mut Batch<T>) {
        if self.inner.shared.observation.metrics().is_some() {
            batch.posted.push(Instant::now());
        }
    }

    /// Runs the tasks of a batch, same as `run_each`, if the loop is observed. Returns whether it
    /// is.
    #[inline]
    pub(super) fn run_each_observed<T>(
        &self,
        batch: &mut Batch<T>,
        name: fn(&T) -> &'static str,
        call: fn(T, &EventLoop),
    ) -> bool {
        let is_observed = self.inner.shared.observation.is_observed();
        if is_observed {
            self.observe_each(batch, name, call);
        }
        is_observed
    }

    #[cold]
    fn observe_each<T>(&self, batch: &mut Batch<T>, name: fn(&T) -> &'static str, call: fn(T, &EventLoop)) {
        let shared = &self.inner.shared;
        let metrics = shared.observation.metrics();
        // Tasks that were queued before the metrics were started have no time.
        let untimed = batch.tasks.len().saturating_sub(batch.posted.len());
        let mut posted = batch.posted.drain(..);
        for (number, task) in batch.tasks.drain(..).enumerate() {
            shared.counters.count_run();
            let posted = if number < untimed { None } else { posted.next() };
            if let (Some(metrics), Some(posted)) = (metrics, posted) {
                metrics.record_task_delay(posted.elapsed());
            }
            let entered = self.enter_callback(|| Activity::named("a task", name(&task)));
            self.catch_unwatched("a task", || call(task, self));
            self.leave_callback(entered);
            if self.is_inherited() {
                return;
            }
        }
        drop(posted);
        batch.posted.shrink_to(batch.tasks.capacity());
    }
}
