//! What a loop counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a loop counts. What the loop's thread alone changes is stored, not added to, so that counting costs it no locked
/// instruction.
///
/// CachePadded from what the producers read: without that a batch cost them a cache miss each, a third of the tasks a second.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct AtomicCounters {
    /// By the loop: tasks queued on its own thread. Those of other threads are counted by the queue, under its lock.
    queued: AtomicU64,
    run: AtomicU64,
    batches: AtomicU64,
    longest_batch: AtomicU64,
    dropped: AtomicU64,
    panics: AtomicU64,
    cross_thread: CrossThread,
}

/// What producers count. On lines of its own: a producer that wakes a loop would else fetch the line on which that loop counts,
/// on the way to the wake.
#[derive(Debug, Default)]
#[repr(align(128))]
struct CrossThread {
    refused: AtomicU64,
    wakes: AtomicU64,
}

impl AtomicCounters {
    /// By the loop's thread.
    pub(super) fn count_queued(&self) {
        add(&self.queued, 1);
    }

    /// By the loop's thread, before the batch is run.
    pub(super) fn count_batch(&self, tasks: usize) {
        if tasks > 0 {
            add(&self.batches, 1);
            self.longest_batch.store(self.longest_batch.load(Relaxed).max(tasks as u64), Relaxed);
        }
    }

    /// By the loop's thread.
    pub(super) fn count_run(&self) {
        add(&self.run, 1);
    }

    /// By the loop's thread.
    pub(super) fn count_dropped(&self, tasks: usize) {
        add(&self.dropped, tasks);
    }

    /// By the loop's thread.
    pub(super) fn count_panic(&self) {
        add(&self.panics, 1);
    }

    /// By any thread.
    pub(super) fn count_wake(&self) {
        self.cross_thread.wakes.fetch_add(1, Relaxed);
    }

    /// What has been counted, besides the tasks that the queue has accepted from other threads.
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

    /// By any thread.
    pub(super) fn count_refused(&self) {
        self.cross_thread.refused.fetch_add(1, Relaxed);
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Relaxed) + n as u64, Relaxed);
}

/// What a loop has counted since it was made.
///
/// Every task that was posted is run, dropped, or still waiting. The figures are read one by one, so while the loop works
/// they need not be of the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoopCounters {
    /// Tasks that were accepted, from any thread.
    pub tasks_posted: u64,
    /// Tasks that have begun to run.
    pub tasks_run: u64,
    /// Tasks that were accepted, and then dropped instead of run: with the loop, or by a
    /// [`quit`](super::EventLoop::quit) that was [told](super::EventLoopBuilder::drop_tasks_on_quit) to.
    pub tasks_dropped: u64,
    /// Tasks, and timers, that were given back, because the mailbox was full or the loop had gone.
    pub tasks_refused: u64,
    /// Writes to the eventfd: those that ended a sleep, and those by which a loop inside another one shows that it has work left.
    pub wakes: u64,
    /// Batches of at least one task.
    pub batches: u64,
    /// Tasks in the longest batch.
    pub longest_batch: u64,
    /// Panics caught in callbacks and tasks.
    pub panics: u64,
}
