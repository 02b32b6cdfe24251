//! Where and when spawned futures run, and which spawns are refused.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;

use crate::support::futures::{block_on, run};
use crate::support::{Count, LIMIT, Recorder, on_another_thread, panic_of, turn, with_loop, with_watchdog};
use reveille::task::{JoinError, MailboxLimit, PostError, spawn_local, yield_now};
use reveille::{EventLoop, LoopThread};

#[test]
fn a_spawned_future_returns_a_result_that_is_not_send() {
    with_loop(|event_loop| {
        let joined = event_loop.spawn_local(async { Rc::new(6 * 7) });
        assert_eq!(*run(event_loop, joined).unwrap(), 42);
        assert_eq!(event_loop.spawned_futures(), 0);
    });
}

#[test]
fn futures_are_first_polled_in_the_order_of_their_spawns() {
    with_loop(|event_loop| {
        let polled = Recorder::new();
        for number in 0..300 {
            let polled = polled.clone();
            event_loop.spawn_local(async move { polled.record(number) });
        }
        assert_eq!(polled.len(), 0, "a spawn polls nothing");
        event_loop.run_until_idle().unwrap();
        assert_eq!(polled.take(), Vec::from_iter(0..300));
    });
}

#[test]
fn a_future_of_another_thread_runs_on_the_loop() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("futures").unwrap();
        let home = thread.handle().call(|_| thread::current().id()).unwrap();
        let joined = thread.handle().spawn(async {
            yield_now().await;
            thread::current().id()
        });
        assert_eq!(block_on(joined.unwrap()).unwrap(), home);
        let joined = thread.handle().spawn_with(|event_loop| {
            let rc = Rc::new(event_loop.handle());
            async move {
                yield_now().await;
                assert!(rc.is_in_loop_thread());
                thread::current().id()
            }
        });
        assert_eq!(block_on(joined.unwrap()).unwrap(), home);
    });
}

#[test]
fn a_handle_on_its_own_thread_spawns_at_once() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let joined = handle.spawn(async { 1 }).unwrap();
        let made = handle.spawn_with(|event_loop| {
            event_loop.now();
            async { 2 }
        });
        assert_eq!(event_loop.spawned_futures(), 2);
        turn(event_loop);
        assert_eq!((block_on(joined).unwrap(), block_on(made.unwrap()).unwrap()), (1, 2));
    });
}

#[test]
fn an_ended_loop_returns_the_future_and_the_closure() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        drop(event_loop);
        let refused = handle.spawn(async { 5 }).unwrap_err();
        assert_eq!(refused.reason(), PostError::LoopEnded);
        assert_eq!(block_on(refused.into_inner()), 5);
        let number = 7;
        let refused = handle.spawn_with(move |_| async move { number }).unwrap_err();
        assert_eq!(refused.reason(), PostError::LoopEnded);
        let own = EventLoop::new().unwrap();
        assert_eq!(block_on(refused.into_inner()(&own)), 7);
    });
}

#[test]
fn a_full_mailbox_returns_the_future_undropped() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Refuse(1)).build().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let token = drops.drop_token();
        let (first, second) = on_another_thread(|| {
            let first = handle.spawn(async { 1 }).unwrap();
            let second = handle.spawn(async move {
                token.keep();
                2
            });
            (first, second.unwrap_err())
        });
        assert_eq!((second.reason(), drops.get()), (PostError::Full, 0));
        assert_eq!(block_on(second.into_inner()), 2);
        turn(&event_loop);
        assert_eq!(block_on(first).unwrap(), 1);
    });
}

#[test]
fn a_future_spawned_by_a_destructor_of_the_loop_ends() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (drops, joined) = (Count::default(), Rc::new(RefCell::new(None)));
        let on_drop = {
            let (token, joined) = (drops.drop_token(), Rc::clone(&joined));
            crate::support::OnDrop::new(move || {
                joined.replace(Some(spawn_local(async move { token.keep() })));
            })
        };
        event_loop.spawn_local(async move {
            on_drop.keep();
            std::future::pending::<()>().await;
        });
        turn(&event_loop);
        drop(event_loop);
        assert_eq!(drops.get(), 1);
        let joined = joined.take().unwrap();
        assert!(matches!(block_on(joined), Err(JoinError::LoopEnded)));
    });
}

#[test]
fn a_thread_without_a_loop_cannot_spawn_or_wait() {
    with_watchdog(LIMIT, || {
        let expected = "this thread has no event loop";
        assert_eq!(panic_of(|| spawn_local(async {})), expected);
        assert_eq!(panic_of(|| reveille::task::with_loop(|_| ())), expected);
        assert_eq!(panic_of(|| reveille::time::sleep(std::time::Duration::ZERO)), expected);
    });
}
