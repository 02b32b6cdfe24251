//! For the tests of tasks: a loop's counters of tasks, and tasks that record that they ran.

use std::sync::{Arc, Mutex};

use reveille::LoopHandle;

/// All counters of tasks. A test that compares them also checks those that must not change.
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

/// Queues a task that records `name`. Returns whether it was accepted.
pub(crate) fn post(handle: &LoopHandle, ran: &Arc<Mutex<Vec<&'static str>>>, name: &'static str) -> bool {
    let ran = Arc::clone(ran);
    handle.queue_in_loop(move |_| ran.lock().unwrap().push(name)).is_ok()
}
