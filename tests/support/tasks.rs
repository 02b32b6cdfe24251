//! For the tests of tasks: what a loop has counted of them, and tasks that say that they ran.

use std::sync::{Arc, Mutex};

use reveille::LoopHandle;

/// Every figure about tasks; all are there, so that a test of one also says that the others stay as
/// they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    pub(crate) posted: u64,
    pub(crate) run: u64,
    pub(crate) dropped: u64,
    pub(crate) refused: u64,
    pub(crate) batches: u64,
    pub(crate) longest: u64,
}

pub(crate) fn tasks(handle: &LoopHandle) -> Tasks {
    let counters = handle.counters();
    Tasks {
        posted: counters.tasks_posted,
        run: counters.tasks_run,
        dropped: counters.tasks_dropped,
        refused: counters.tasks_refused,
        batches: counters.batches,
        longest: counters.longest_batch,
    }
}

pub(crate) const NO_TASKS: Tasks =
    Tasks { posted: 0, run: 0, dropped: 0, refused: 0, batches: 0, longest: 0 };

/// Queues a task that records `what`, from wherever this is called.
pub(crate) fn post(handle: &LoopHandle, seen: &Arc<Mutex<Vec<&'static str>>>, what: &'static str) -> bool {
    let seen = Arc::clone(seen);
    handle.queue_in_loop(move |_| seen.lock().unwrap().push(what)).is_ok()
}
