//! The counters of a loop.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The loop's counters as atomics. Those that only the loop's thread changes are stored, not added
/// to, so counting needs no locked instruction.
///
/// They are on cache lines that producers do not read. Otherwise every batch would cost the
/// producers a cache miss each, which took a third of the tasks per second.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct AtomicCounters {
    /// Tasks queued on the loop's own thread. The queue counts those of other threads, under its
    /// lock.
    queued: AtomicU64,
    run: AtomicU64,
    batches: AtomicU64,
    longest_batch: AtomicU64,
    dropped: AtomicU64,
    panics: AtomicU64,
    cross_thread: CrossThread,
}

/// The counters that producers change. They have cache lines of their own: otherwise a producer
/// that wakes a loop would fetch, before the wake-up, the line on which that loop counts.
#[derive(Debug, Default)]
#[repr(align(128))]
struct CrossThread {
    refused: AtomicU64,
    wakes: AtomicU64,
}

impl AtomicCounters {
    /// On the loop's thread.
    pub(super) fn count_queued(&self) {
        add(&self.queued, 1);
    }

    /// On the loop's thread, before the batch runs.
    pub(super) fn count_batch(&self, tasks: usize) {
        if tasks > 0 {
            add(&self.batches, 1);
            self.longest_batch.store(self.longest_batch.load(Relaxed).max(tasks as u64), Relaxed);
        }
    }

    /// On the loop's thread.
    pub(super) fn count_run(&self) {
        add(&self.run, 1);
    }

    /// On the loop's thread.
    pub(super) fn count_dropped(&self, tasks: usize) {
        add(&self.dropped, tasks);
    }

    /// On the loop's thread.
    pub(super) fn count_panic(&self) {
        add(&self.panics, 1);
    }

    /// On any thread.
    pub(super) fn count_wake(&self) {
        self.cross_thread.wakes.fetch_add(1, Relaxed);
    }

    /// Reads all counters. `accepted` is the number of tasks that the queue has accepted from other
    /// threads.
    pub(super) fn read(&self, accepted: u64) -> LoopCounters {
        LoopCounters {
            tasks_posted: self.queued.load(Relaxed) + accepted,
            tasks_run: self.run.load(Relaxed),
            tasks_dropped: self.dropped.load(Relaxed),
            tasks_refused: self.cross_thread.refused.load(Relaxed),
            wakes: self.cross_thread.wakes.load(Relaxed),
            batches: self.batches.load(Relaxed),
            longest_batch: self.longest_batch.load(Relaxed),
            panics: self.panics.load(Relaxed),
        }
    }

    /// On any thread.
    pub(super) fn count_refused(&self) {
        self.cross_thread.refused.fetch_add(1, Relaxed);
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Relaxed) + n as u64, Relaxed);
}

/// The counters of a loop since its creation.
///
/// Every accepted task has run, has been dropped, or is pending. The counters are read one by one,
/// so they need not be consistent while the loop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoopCounters {
    /// Tasks accepted, from any thread.
    pub tasks_posted: u64,
    /// Tasks that have started.
    pub tasks_run: u64,
    /// Tasks accepted and then dropped instead of run: with the loop, or by a
    /// [`quit`](super::EventLoop::quit) with
    /// [`drop_tasks_on_quit`](super::EventLoopBuilder::drop_tasks_on_quit).
    pub tasks_dropped: u64,
    /// Tasks and timers refused, because the mailbox was full or the loop had ended.
    pub tasks_refused: u64,
    /// Writes to the eventfd: those that ended a sleep, and those by which a loop inside another
    /// one signals that it has work left.
    pub wakes: u64,
    /// Batches of at least one task.
    pub batches: u64,
    /// Tasks in the longest batch.
    pub longest_batch: u64,
    /// Panics caught in callbacks, tasks and destructors. Every panic is counted, also if its line
    /// in the log is suppressed.
    pub panics: u64,
}
