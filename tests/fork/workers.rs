//! Pools of workers in forked children. A child does not affect the pool of its parent. Each test
//! runs in its own process.

use std::process;
use std::sync::mpsc;

use crate::support::Count;
use crate::support::alone::{alone, alone_with_loop};
use crate::support::forked::{exit_child_and_wait, fork_process, in_child};
use reveille::EventLoop;
use reveille::task::{Workers, WorkersError};

fn pool() -> Workers {
    Workers::builder().threads(1).queue(8).build().unwrap()
}

#[test]
fn a_child_does_not_affect_the_pool_of_its_parent() {
    alone_with_loop(|event_loop| {
        let (workers, ran) = (pool(), Count::default());
        let (open, gate) = mpsc::channel::<()>();
        workers.execute(move || gate.recv().unwrap()).unwrap();
        let counting = ran.clone();
        let waiting = workers
            .submit(
                event_loop,
                move || counting.add(),
                |event_loop, result| {
                    assert_eq!(result, Ok(()));
                    event_loop.quit();
                },
            )
            .unwrap();
        let mut workers = Some(workers);
        in_child(|| {
            let copy = workers.take().unwrap();
            let refused = copy.execute(|| ()).unwrap_err();
            assert_eq!(refused.reason(), WorkersError::Closed);
            assert!(!copy.cancel(waiting));
            assert_eq!((copy.waiting(), copy.cancel_waiting()), (0, 0));
            copy.close();
            drop(copy);
        });
        open.send(()).unwrap();
        event_loop.run().unwrap();
        assert_eq!(ran.get(), 1);
        assert!(workers.is_some(), "the child has taken its copy only");
    });
}

#[test]
fn a_child_may_create_a_pool_of_its_own() {
    alone_with_loop(|_| {
        let inherited = pool();
        inherited.execute(|| ()).unwrap();
        in_child(|| {
            let (sender, receiver) = mpsc::channel();
            pool().execute(move || sender.send(1).unwrap()).unwrap();
            assert_eq!(receiver.recv(), Ok(1));
        });
    });
}

#[test]
fn a_job_that_forks_ends_its_thread_in_the_child() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let (workers, parent) = (pool(), process::id());
        let job = move || {
            fork_process();
            if process::id() == parent {
                exit_child_and_wait(|| unreachable!("the parent"));
            }
            // The child has only this thread, so it exits when the thread ends.
        };
        workers
            .submit(&event_loop, job, move |event_loop, result| {
                assert_eq!((process::id(), result), (parent, Ok(())));
                event_loop.quit();
            })
            .unwrap();
        workers.execute(move || assert_eq!(process::id(), parent)).unwrap();
        event_loop.run().unwrap();
        drop(workers);
    });
}
