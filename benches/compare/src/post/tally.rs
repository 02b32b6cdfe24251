//! The work of the tasks, and the limit of unfinished tasks.
//!
//! A task adds its three words to a sum of its thread, so that none can be skipped or optimised
//! away, and increments a counter. Every 1024th task reports the progress to the producers, which
//! keep at most a window of tasks unfinished. Otherwise the queues would grow while a producer is
//! faster than the loop, and the figures would be those of fresh memory, all the more for peers
//! with larger tasks. The limit costs a producer a few atomic operations per 1024 tasks, the same
//! for every peer. If both sides have a CPU to themselves, the leanest peers never fill the window;
//! it takes effect only when the loop is preempted.

use std::cell::{Cell, RefCell};
use std::hint;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Instant;

/// The words that a task captures.
pub(super) type Words = [usize; 3];

/// Producers claim tasks, and the loop reports its progress, in steps of this many tasks.
pub(super) const STEP: usize = 1024;

/// Maximum number of tasks that are queued or running.
pub(super) const WINDOW: usize = 64 * STEP;

/// Checks of the loop's progress before a producer without space yields its CPU.
const SPINS: usize = 10_000;

/// The outcome of a goal: it is reached, or the reason why a producer cannot reach it.
pub(super) type Outcome = std::result::Result<Reached, &'static str>;

/// The loop has run the last task of a goal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) at: Instant,
    /// The sum of all tasks so far.
    pub(super) sum: usize,
}

/// The progress of a loop and its producers. Counts continue from one goal to the next.
#[derive(Debug)]
pub(super) struct Progress {
    /// Tasks claimed by producers.
    claimed: AtomicUsize,
    goal: AtomicUsize,
    /// Tasks that have run, rounded down to a full step.
    done: AtomicUsize,
    outcome: Sender<Outcome>,
}

#[derive(Debug, Default)]
struct Tally {
    sum: Cell<usize>,
    count: Cell<usize>,
}

thread_local! {
    static TALLY: Tally = const { Tally { sum: Cell::new(0), count: Cell::new(0) } };
    /// Receives the progress of the tasks of this thread.
    static PROGRESS: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

/// The body of a task.
#[inline]
pub(super) fn run(words: &Words) {
    TALLY.with(|tally| {
        let [a, b, c] = *words;
        tally.sum.set(tally.sum.get().wrapping_add(a).wrapping_add(b).wrapping_add(c));
        let count = tally.count.get() + 1;
        tally.count.set(count);
        if count % STEP == 0 {
            step(count, tally.sum.get());
        }
    });
}

#[cold]
#[inline(never)]
fn step(count: usize, sum: usize) {
    PROGRESS.with_borrow(|progress| {
        let Some(progress) = progress else { return };
        progress.done.store(count, Ordering::Release);
        if count == progress.goal.load(Ordering::Relaxed) {
            progress.report(Ok(Reached { at: Instant::now(), sum }));
        }
    });
}

/// The words of a task: each is derived from its number, and no two tasks have the same words.
pub(super) fn words(task: usize) -> Words {
    [task, task.rotate_left(21), !task]
}

/// The sum of the first `tasks` tasks.
pub(super) fn sum_of(tasks: usize) -> usize {
    (0..tasks).flat_map(words).fold(0, usize::wrapping_add)
}

impl Progress {
    pub(super) fn new(outcome: Sender<Outcome>) -> Progress {
        let zero = || AtomicUsize::new(0);
        Progress { claimed: zero(), goal: zero(), done: zero(), outcome }
    }

    /// Counts the tasks of this thread here.
    pub(super) fn count_this_thread(self: Arc<Self>) {
        PROGRESS.set(Some(self));
    }

    /// Sets the next goal: `tasks` further tasks, a multiple of [`STEP`].
    pub(super) fn set_goal(&self, tasks: usize) {
        assert_eq!(tasks % STEP, 0, "a goal is reached with a step");
        self.claimed.store(self.goal.load(Ordering::Relaxed), Ordering::Relaxed);
        self.goal.fetch_add(tasks, Ordering::Relaxed);
    }

    /// For a producer: claims the tasks of its next step, and waits until they fit the window.
    /// Returns `None` when the goal is met.
    pub(super) fn claim(&self) -> Option<Range<usize>> {
        let start = self.claimed.fetch_add(STEP, Ordering::Relaxed);
        if start >= self.goal.load(Ordering::Relaxed) {
            return None;
        }
        let end = start + STEP;
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) + WINDOW < end {
            spins += 1;
            if spins < SPINS { hint::spin_loop() } else { thread::yield_now() }
        }
        Some(start..end)
    }

    pub(super) fn report(&self, outcome: Outcome) {
        // The receiver has been dropped if the run has already failed.
        let _ = self.outcome.send(outcome);
    }
}
