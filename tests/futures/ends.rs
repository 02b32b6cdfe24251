//! What happens to futures when their loop ends, and to those whose destructors panic.

use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use crate::support::bomb::Bomb;
use crate::support::futures::{Gate, block_on};
use crate::support::{Count, LIMIT, OnDrop, on_another_thread, turn, with_catching_loop, with_watchdog};
use reveille::task::{JoinError, spawn_local};
use reveille::{EventLoop, LoopThread};

#[test]
fn the_end_of_a_loop_drops_its_futures_and_informs_the_handles() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (drops, home) = (Count::default(), thread::current().id());
        let future = |counting: Count| {
            let on_drop = Rc::new(OnDrop::new(move || {
                assert_eq!(thread::current().id(), home);
                counting.add();
            }));
            async move {
                on_drop.keep();
                std::future::pending::<()>().await;
            }
        };
        let polled = event_loop.spawn_local(future(drops.clone()));
        turn(&event_loop);
        let unpolled = event_loop.spawn_local(future(drops.clone()));
        let token = drops.drop_token();
        let handle = event_loop.handle();
        let in_transit = on_another_thread(|| handle.spawn(async move { token.keep() }).unwrap());
        let aborted = event_loop.spawn_local(future(drops.clone()));
        aborted.abort();
        let (sender, receiver) = mpsc::channel();
        let waiting = thread::spawn(move || {
            sender.send(()).unwrap();
            block_on(in_transit)
        });
        receiver.recv().unwrap();
        drop(event_loop);
        assert_eq!(drops.get(), 4);
        assert!(matches!(waiting.join().unwrap(), Err(JoinError::LoopEnded)));
        assert!(matches!(block_on(polled), Err(JoinError::LoopEnded)));
        assert!(matches!(block_on(unpolled), Err(JoinError::LoopEnded)));
        assert!(matches!(block_on(aborted), Err(JoinError::Aborted)));
    });
}

#[test]
fn a_future_of_one_loop_sees_the_end_of_another() {
    with_watchdog(LIMIT, || {
        let (one, two) = (LoopThread::spawn("one").unwrap(), LoopThread::spawn("two").unwrap());
        let gate = Gate::default();
        let on_two = two.handle().spawn(gate.wait()).unwrap();
        let on_one = one.handle().spawn(on_two).unwrap();
        drop(two);
        assert!(matches!(block_on(on_one).unwrap(), Err(JoinError::LoopEnded)));
    });
}

#[test]
fn handles_of_each_other_do_not_keep_futures_alive() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let drops = Count::default();
        for _ in 0..10 {
            let token = drops.drop_token();
            event_loop.spawn_local(async move {
                token.keep();
                let inner = spawn_local(std::future::pending::<()>());
                inner.await.unwrap();
            });
        }
        turn(&event_loop);
        assert_eq!(event_loop.spawned_futures(), 20);
        drop(event_loop);
        assert_eq!(drops.get(), 10);
    });
}

#[test]
fn destructors_that_panic_end_their_futures_all_the_same() {
    with_catching_loop(|event_loop| {
        let drops = Count::default();
        let (in_future, in_result) = (Bomb::new(&drops), Bomb::new(&drops));
        // An async block would drop it in its last poll, which would then panic.
        let joined = event_loop.spawn_local(std::future::poll_fn(move |_| {
            in_future.keep();
            std::task::Poll::Ready(5)
        }));
        drop(event_loop.spawn_local(async move { in_result }));
        turn(event_loop);
        assert_eq!(drops.get(), 2);
        assert_eq!(block_on(joined).unwrap(), 5);
        assert_eq!(event_loop.handle().counters().panics, 2);
        let held = Bomb::new(&drops);
        let joined = event_loop.spawn_local(async move { held });
        turn(event_loop);
        drop(joined);
        assert_eq!(drops.get(), 3);
    });
}

#[test]
fn a_quit_leaves_futures_for_the_next_run() {
    with_catching_loop(|event_loop| {
        let gate = Gate::default();
        let joined = event_loop.spawn_local(gate.wait());
        event_loop.quit();
        event_loop.run().unwrap();
        gate.open();
        event_loop.run_until_idle().unwrap();
        assert!(joined.is_finished());
    });
}
