//! Spawned futures.

use std::hint::black_box;

use reveille::{EventLoop, task};

use crate::workload::{OPERATIONS, Round, new_loop};

/// Runs a future to its end, between two turns.
fn run(event_loop: &EventLoop, future: impl Future<Output = ()> + 'static) {
    drop(event_loop.spawn_local(future));
    event_loop.run_until_idle().expect("a run");
}

/// A future spawns an empty one and awaits it.
pub(crate) fn spawn_and_join() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    Box::new(move || {
        run(&event_loop, async {
            for number in 0..OPERATIONS {
                let joined = task::spawn_local(async move { black_box(number) });
                assert_eq!(joined.await.ok(), Some(number));
            }
        });
    })
}

/// Two futures yield in turn. An operation is one yield.
pub(crate) fn yields() -> Round {
    async fn yielding() {
        for _ in 0..OPERATIONS / 2 {
            task::yield_now().await;
        }
    }
    let event_loop = new_loop(EventLoop::builder());
    Box::new(move || {
        drop(event_loop.spawn_local(yielding()));
        run(&event_loop, yielding());
    })
}
