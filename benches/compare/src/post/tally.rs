//! What the tasks do, and how many of them may be under way.
//!
//! A task adds its three words to a sum of its thread, so that none can be left out or optimised away, and counts itself. Every
//! 1024th tells the producers, who keep no more than a window of tasks unfinished. Without that the queues would grow for
//! as long as a producer is faster than the loop, and the figures would be those of fresh memory, the more so the larger a peer's
//! tasks are. The rule costs a producer a few atomic operations for 1024 tasks, and is the same for every peer. Where both sides really
//! have their CPUs to themselves the leanest peers never fill the window; it is there for the moments in which the loop is kept from its.

use std::cell::{Cell, RefCell};
use std::hint;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Instant;

/// What a task captures.
pub(super) type Words = [usize; 3];

/// Producers take their turns, and the loop tells how far it is, in steps of so many tasks.
pub(super) const STEP: usize = 1024;

/// How many tasks may be queued or running.
pub(super) const WINDOW: usize = 64 * STEP;

/// Looks at the loop's progress before a producer with no room lets others have its CPU.
const LOOKS: usize = 10_000;

/// What comes of a goal: it is reached, or a producer says why it cannot be.
pub(super) type Outcome = std::result::Result<Reached, &'static str>;

/// The loop has run the last task of a goal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) at: Instant,
    /// The sum of all tasks so far.
    pub(super) sum: usize,
}

/// How far a loop and its producers are. Counts go on from one goal to the next.
#[derive(Debug)]
pub(super) struct Progress {
    /// Tasks that a producer has taken upon itself.
    claimed: AtomicUsize,
    goal: AtomicUsize,
    /// Tasks that have run, to the last full step.
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
    /// Whom the tasks of this thread tell how far they are.
    static PROGRESS: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

/// The task.
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
            progress.tell(Ok(Reached { at: Instant::now(), sum }));
        }
    });
}

/// The words of a task: none can be told from the others, and no two tasks have the same.
pub(super) fn words(task: usize) -> Words {
    [task, task.rotate_left(21), !task]
}

/// The sum that the first so many tasks come to.
pub(super) fn sum_of(tasks: usize) -> usize {
    (0..tasks).flat_map(words).fold(0, usize::wrapping_add)
}

impl Progress {
    pub(super) fn new(outcome: Sender<Outcome>) -> Progress {
        let zero = || AtomicUsize::new(0);
        Progress { claimed: zero(), goal: zero(), done: zero(), outcome }
    }

    /// Has the tasks of this thread counted here.
    pub(super) fn count_this_thread(self: Arc<Self>) {
        PROGRESS.set(Some(self));
    }

    /// Sets the next goal: so many tasks more, a multiple of [`STEP`].
    pub(super) fn ask_for(&self, tasks: usize) {
        assert_eq!(tasks % STEP, 0, "a goal is reached with a step");
        self.claimed.store(self.goal.load(Ordering::Relaxed), Ordering::Relaxed);
        self.goal.fetch_add(tasks, Ordering::Relaxed);
    }

    /// For a producer: the tasks of its next step, once there is room for them. `None` when the goal is met.
    pub(super) fn claim(&self) -> Option<Range<usize>> {
        let start = self.claimed.fetch_add(STEP, Ordering::Relaxed);
        if start >= self.goal.load(Ordering::Relaxed) {
            return None;
        }
        let end = start + STEP;
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) + WINDOW < end {
            looks += 1;
            if looks < LOOKS { hint::spin_loop() } else { thread::yield_now() }
        }
        Some(start..end)
    }

    pub(super) fn tell(&self, outcome: Outcome) {
        // Nobody listens any more if the run has failed already.
        let _ = self.outcome.send(outcome);
    }
}
