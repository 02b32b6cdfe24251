//! Jobs of `Workers`, and lookups, as futures.

use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll};

use crate::support::futures::{CountingWaker, block_on, run};
use crate::support::{Count, LIMIT, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::EventLoop;
use reveille::net::{Resolver, ResolverError};
use reveille::task::{JobError, Workers, WorkersError};

/// A pool of one thread, and the sender whose drop lets that thread continue.
fn occupied(queue: usize) -> (Workers, mpsc::Sender<()>) {
    let workers = Workers::builder().threads(1).queue(queue).build().unwrap();
    let (open, gate) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let job = move || {
        begin.send(()).unwrap();
        let _ = gate.recv();
    };
    workers.execute(job).unwrap();
    begun.recv().unwrap();
    (workers, open)
}

#[test]
fn a_job_returns_its_result() {
    with_loop(|event_loop| {
        let workers = Workers::new().unwrap();
        run(event_loop, async move {
            let job = workers.submit_async(|| 2 + 2).unwrap();
            assert_eq!(job.await, Ok(4));
            assert_eq!(workers.run(|| "done").await.unwrap(), "done");
        });
    });
}

#[test]
fn a_job_that_panics_is_an_error() {
    with_catching_loop(|event_loop| {
        let workers = Workers::new().unwrap();
        run(event_loop, async move {
            let job = workers.submit_async(|| -> u8 { panic!("a job panics") }).unwrap();
            assert_eq!(job.await, Err(JobError::Panicked));
            let ran: io::Result<()> = workers.run(|| panic!("a job panics")).await;
            assert_eq!(ran.unwrap_err().kind(), ErrorKind::Other);
        });
    });
}

#[test]
fn a_dropped_job_that_waits_never_runs() {
    with_loop(|event_loop| {
        let (workers, open) = occupied(1);
        let (runs, drops) = (Count::default(), Count::default());
        let (counting, token) = (runs.clone(), drops.drop_token());
        let job = workers.submit_async(move || {
            token.keep();
            counting.add();
        });
        drop(job.unwrap());
        assert_eq!((drops.get(), workers.waiting()), (1, 0));
        drop(open);
        event_loop.run_until_idle().unwrap();
        drop(workers);
        assert_eq!(runs.get(), 0);
    });
}

#[test]
fn a_full_pool_returns_the_work_or_lets_the_future_wait() {
    with_loop(|event_loop| {
        let (workers, open) = occupied(0);
        let refused = workers.submit_async(|| 5).unwrap_err();
        assert_eq!(refused.reason(), WorkersError::Full);
        assert_eq!(refused.into_inner()(), 5);
        let workers = Rc::new(workers);
        let running: Vec<_> = (0..100)
            .map(|number| {
                let workers = Rc::clone(&workers);
                event_loop.spawn_local(async move { workers.run(move || number).await.unwrap() })
            })
            .collect();
        (0..3).for_each(|_| turn(event_loop));
        // A future that has been woken and is dropped passes the wake-up on.
        running.iter().step_by(3).for_each(|running| running.abort());
        drop(open);
        let results = run(event_loop, async move {
            let mut results = Vec::new();
            for joined in running {
                results.extend(joined.await.ok());
            }
            results
        });
        assert_eq!(results.len(), 66);
    });
}

#[test]
fn a_wake_up_for_room_passes_to_the_next_future() {
    with_loop(|_| {
        let (workers, open) = occupied(0);
        let (wakes, waker) = ([Count::default(), Count::default()], CountingWaker::waker);
        let mut waiting: Vec<_> = wakes.iter().map(|_| Box::pin(workers.run(|| ()))).collect();
        for (future, count) in waiting.iter_mut().zip(&wakes) {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker(count))).is_pending());
        }
        drop(open);
        while wakes[0].get() == 0 {
            std::thread::yield_now();
        }
        drop(waiting.remove(0));
        while wakes[1].get() == 0 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn the_close_of_a_pool_ends_the_wait_for_room() {
    with_loop(|event_loop| {
        let (workers, open) = occupied(0);
        let (workers, waiting) = (Rc::new(workers.clone()), workers);
        let joined = event_loop.spawn_local(async move { waiting.run(|| ()).await.unwrap_err().kind() });
        (0..3).for_each(|_| turn(event_loop));
        workers.close();
        drop(open);
        assert_eq!(run(event_loop, joined).unwrap(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn the_end_of_the_loop_ends_the_wait_for_a_job() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (workers, open) = occupied(1);
        let mut job = workers.submit_async(|| ()).unwrap();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        assert!(Pin::new(&mut job).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(event_loop);
        assert_eq!(wakes.get(), 1);
        assert_eq!(block_on(job), Err(JobError::LoopEnded));
        drop(open);
    });
}

#[test]
fn a_lookup_returns_addresses_or_an_error() {
    with_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        run(event_loop, async move {
            let found = resolver.lookup_async("127.0.0.1:80").await.unwrap();
            assert_eq!(found, ["127.0.0.1:80".parse().unwrap()]);
            let failed = resolver.lookup_async("not an address").await;
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidInput);
            // Of any name, or of none.
            let _ = resolver.reverse_async("127.0.0.1".parse().unwrap()).await;
            assert_eq!(resolver.unfinished(), 0);
        });
    });
}

#[test]
fn a_dropped_lookup_is_cancelled_and_leaves_room() {
    with_loop(|event_loop| {
        let resolver = Resolver::builder().queue(1).build(event_loop).unwrap();
        {
            let mut first = pin!(resolver.lookup_async("127.0.0.1:80"));
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(first.as_mut().poll(&mut context).is_pending());
            let mut second = pin!(resolver.lookup_async("127.0.0.1:81"));
            let Poll::Ready(Err(error)) = second.as_mut().poll(&mut context) else {
                panic!("the limit is not in effect");
            };
            let inner = error.get_ref().unwrap().downcast_ref::<ResolverError>();
            assert_eq!(inner, Some(&ResolverError::Full));
        }
        assert_eq!(resolver.unfinished(), 0);
        assert_eq!(
            run(event_loop, async move { resolver.lookup_async("127.0.0.1:82").await }).unwrap().len(),
            1
        );
    });
}

#[test]
fn the_end_of_the_loop_ends_a_lookup() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let resolver = Resolver::new(&event_loop).unwrap();
        let mut lookup = pin!(resolver.lookup_async("127.0.0.1:80"));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(lookup.as_mut().poll(&mut context).is_pending());
        drop(event_loop);
        assert_eq!(block_on(lookup).unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}
