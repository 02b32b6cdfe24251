//! The task queue.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;

use reveille::EventLoop;

use crate::workload::{OPERATIONS, Round, in_turn, new_loop, turn, watch};

/// A task posts a batch, which the next turn runs.
pub(crate) fn post_from_loop_thread() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    Box::new(move || {
        in_turn(&event_loop, |event_loop| {
            for number in 0..OPERATIONS {
                event_loop.queue_in_loop(move |_| _ = black_box(number));
            }
        });
        turn(&event_loop);
    })
}

/// A batch is posted on another thread, then one turn runs it. The two threads alternate, so
/// neither waits for a lock.
pub(crate) fn post_from_other_thread() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    let handle = event_loop.handle();
    let (start, posted) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (started, done) = (Arc::clone(&start), Arc::clone(&posted));
    // Ends with the process.
    thread::spawn(move || {
        loop {
            started.wait();
            for number in 0..OPERATIONS {
                // The error is that the loop has been dropped.
                let _ = handle.queue_in_loop(move |_| _ = black_box(number));
            }
            done.wait();
        }
    });
    Box::new(move || {
        start.wait();
        posted.wait();
        turn(&event_loop);
    })
}

/// Each task posts the next one, which runs in the next turn.
pub(crate) fn one_task_per_turn() -> Round {
    one_task_per_turn_on(new_loop(EventLoop::builder()))
}

/// Same, on a loop that measures its times and delays.
pub(crate) fn one_task_per_turn_metrics() -> Round {
    one_task_per_turn_on(new_loop(EventLoop::builder().metrics()))
}

/// Same, on a loop that a watchdog watches.
pub(crate) fn one_task_per_turn_watched() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    let watchdog = watch(&event_loop);
    let mut round = one_task_per_turn_on(event_loop);
    Box::new(move || {
        let _watched = &watchdog;
        round();
    })
}

fn one_task_per_turn_on(event_loop: EventLoop) -> Round {
    fn post(event_loop: &EventLoop, left: usize) {
        event_loop.queue_in_loop(move |event_loop| match left {
            1 => event_loop.quit(),
            _ => post(event_loop, left - 1),
        });
    }
    Box::new(move || {
        post(&event_loop, OPERATIONS);
        event_loop.run().expect("a run");
    })
}
