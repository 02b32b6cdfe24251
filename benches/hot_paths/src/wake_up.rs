//! Wake-ups: a task is posted to a loop on another thread, and its task posts one back.

use std::cell::Cell;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reveille::{EventLoop, EventLoopBuilder, LoopHandle};

use crate::workload::{OPERATIONS, Round, new_loop};

thread_local! {
    /// Replies that this thread's loop has received.
    static REPLIES: Cell<usize> = const { Cell::new(0) };
}

/// Both loops sleep before each task: two wake-ups in a round trip.
pub(crate) fn round_trip_asleep() -> Round {
    round_trip(|| EventLoop::builder().busy_poll(Duration::ZERO))
}

/// The loops decide for themselves whether to spin before they sleep.
pub(crate) fn round_trip_adaptive() -> Round {
    round_trip(EventLoop::builder)
}

fn round_trip(builder: fn() -> EventLoopBuilder) -> Round {
    let event_loop = new_loop(builder());
    let home = event_loop.handle();
    let other = Other::start(builder);
    Box::new(move || {
        for _ in 0..OPERATIONS {
            let home = home.clone();
            let reply = |_: &EventLoop| REPLIES.set(REPLIES.get() + 1);
            let expected = REPLIES.get() + 1;
            other.handle.queue_in_loop(move |_| home.queue_in_loop(reply).expect("a loop")).expect("a loop");
            while REPLIES.get() < expected {
                event_loop.run_once(None).expect("a turn");
            }
        }
    })
}

/// The other loop, on a thread of its own.
struct Other {
    handle: LoopHandle,
    thread: Option<JoinHandle<()>>,
}

impl Other {
    fn start(builder: fn() -> EventLoopBuilder) -> Other {
        let (started, start) = mpsc::channel();
        let thread = thread::spawn(move || {
            let event_loop = new_loop(builder());
            started.send(event_loop.handle()).expect("a receiver");
            event_loop.run().expect("a run");
        });
        Other { handle: start.recv().expect("a handle"), thread: Some(thread) }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.handle.quit();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a thread that has not panicked");
        }
    }
}
