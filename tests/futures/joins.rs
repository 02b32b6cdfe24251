//! Join handles: awaited, dropped, aborted; on the loop and on other threads.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread;

use crate::support::futures::{CountingWaker, Gate, block_on, poll_once, run};
use crate::support::{
    Count, LIMIT, OnDrop, on_another_thread, panic_of, turn, with_catching_loop, with_loop, with_watchdog,
};
use reveille::task::{JoinError, JoinHandle, spawn_local};
use reveille::{EventLoop, LoopThread};

fn poll_with<T>(joined: &mut JoinHandle<T>, wakes: &Count) -> Poll<Result<T, JoinError>> {
    Pin::new(joined).poll(&mut Context::from_waker(&CountingWaker::waker(wakes)))
}

#[test]
fn a_detached_future_runs_and_its_result_is_dropped() {
    with_loop(|event_loop| {
        let (gate, drops) = (Gate::default(), Count::default());
        let (wait, token) = (gate.wait(), drops.drop_token());
        drop(event_loop.spawn_local(async move {
            wait.await;
            token
        }));
        turn(event_loop);
        gate.open();
        turn(event_loop);
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn a_result_waits_for_its_handle_and_is_dropped_with_it() {
    with_loop(|event_loop| {
        let drops = Count::default();
        let token = drops.drop_token();
        let joined = event_loop.spawn_local(async move { token });
        turn(event_loop);
        assert!(joined.is_finished());
        assert_eq!(drops.get(), 0);
        on_another_thread(|| drop(joined));
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn only_the_last_waker_of_a_handle_is_woken() {
    with_loop(|event_loop| {
        let (gate, first, second) = (Gate::default(), Count::default(), Count::default());
        let wait = gate.wait();
        let mut joined = event_loop.spawn_local(async move {
            wait.await;
            3
        });
        turn(event_loop);
        assert!(poll_with(&mut joined, &first).is_pending());
        assert!(poll_with(&mut joined, &second).is_pending());
        gate.open();
        turn(event_loop);
        assert_eq!((first.get(), second.get()), (0, 1));
        assert!(matches!(poll_once(&mut joined), Poll::Ready(Ok(3))));
        assert!(panic_of(|| poll_once(&mut joined)).contains("after it had returned its result"));
    });
}

#[test]
fn a_dropped_handle_wakes_nothing() {
    with_loop(|event_loop| {
        let (gate, wakes) = (Gate::default(), Count::default());
        let mut joined = event_loop.spawn_local(gate.wait());
        turn(event_loop);
        assert!(poll_with(&mut joined, &wakes).is_pending());
        drop(joined);
        gate.open();
        turn(event_loop);
        assert_eq!((wakes.get(), gate.polls.get()), (0, 2));
    });
}

#[test]
fn an_aborted_future_is_dropped_unpolled_on_its_loop() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("aborts").unwrap();
        for is_polled_before in [false, true] {
            let (gate, drops) = (Gate::default(), Count::default());
            let (counting, wait) = (drops.clone(), gate.wait());
            let (entered, has_entered) = std::sync::mpsc::channel();
            let home = thread.handle().call(|_| thread::current().id()).unwrap();
            let (hold, held) = std::sync::mpsc::channel::<()>();
            if !is_polled_before {
                thread.handle().queue_in_loop(move |_| _ = held.recv()).unwrap();
            }
            let on_drop = OnDrop::new(move || {
                assert_eq!(thread::current().id(), home);
                counting.add();
            });
            let joined = thread.handle().spawn(async move {
                on_drop.keep();
                entered.send(()).unwrap();
                wait.await;
            });
            let joined = joined.unwrap();
            if is_polled_before {
                has_entered.recv().unwrap();
            }
            joined.abort();
            joined.abort();
            drop(hold);
            assert!(matches!(block_on(joined), Err(JoinError::Aborted)));
            assert_eq!((drops.get(), gate.polls.get()), (1, usize::from(is_polled_before)));
        }
    });
}

#[test]
fn an_abort_on_the_loop_is_deferred_and_an_ended_future_keeps_its_result() {
    with_loop(|event_loop| {
        let drops = Count::default();
        let token = drops.drop_token();
        let joined = event_loop.spawn_local(async move {
            token.keep();
            std::future::pending::<()>().await;
        });
        turn(event_loop);
        joined.abort();
        assert_eq!(drops.get(), 0, "not inside the call");
        turn(event_loop);
        assert_eq!(drops.get(), 1);
        assert!(matches!(run(event_loop, joined), Err(JoinError::Aborted)));

        let joined = event_loop.spawn_local(async { 8 });
        turn(event_loop);
        joined.abort();
        on_another_thread(|| joined.abort());
        assert_eq!(run(event_loop, joined).unwrap(), 8);
    });
}

#[test]
fn a_future_that_aborts_itself_ends_at_its_next_await() {
    with_loop(|event_loop| {
        for ends_in_this_poll in [false, true] {
            let own: Rc<RefCell<Option<JoinHandle<u8>>>> = Rc::default();
            let handle = Rc::clone(&own);
            let joined = event_loop.spawn_local(async move {
                handle.borrow().as_ref().unwrap().abort();
                if !ends_in_this_poll {
                    std::future::pending::<()>().await;
                }
                1
            });
            own.replace(Some(joined));
            event_loop.run_until_idle().unwrap();
            let result = block_on(own.take().unwrap());
            assert_eq!(matches!(result, Ok(1)), ends_in_this_poll);
            assert_eq!(matches!(result, Err(JoinError::Aborted)), !ends_in_this_poll);
        }
    });
}

#[test]
fn dropping_an_abort_on_drop_aborts_the_future() {
    with_loop(|event_loop| {
        let drops = Count::default();
        let token = drops.drop_token();
        let inner = async move {
            token.keep();
            std::future::pending::<()>().await;
        };
        let outer = event_loop.spawn_local(async move { spawn_local(inner).abort_on_drop().await });
        turn(event_loop);
        outer.abort();
        event_loop.run_until_idle().unwrap();
        assert_eq!((drops.get(), event_loop.spawned_futures()), (1, 0));
        let joined = event_loop.spawn_local(async { 4 }).abort_on_drop();
        assert_eq!(run(event_loop, joined).unwrap(), 4);
    });
}

#[test]
fn a_panic_ends_only_its_future_and_is_in_the_result() {
    with_catching_loop(|event_loop| {
        let other = event_loop.spawn_local(async { 1 });
        let joined = event_loop.spawn_local(async { panic!("expected") });
        let joined: JoinError = match run(event_loop, joined) {
            Ok(()) => unreachable!(),
            Err(error) => error,
        };
        assert_eq!(
            (joined.to_string(), format!("{joined:?}")),
            ("the future panicked".into(), "Panicked(..)".into())
        );
        let JoinError::Panicked(payload) = joined else { panic!("not a panic") };
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"expected"));
        assert_eq!(event_loop.handle().counters().panics, 1);
        assert_eq!(run(event_loop, other).unwrap(), 1);
    });
}

#[test]
fn a_panic_without_a_handle_is_that_of_a_task() {
    with_loop(|event_loop| {
        drop(event_loop.spawn_local(async { panic!("unclaimed") }));
        assert_eq!(panic_of(|| event_loop.run_until_idle()), "unclaimed");
        assert_eq!(event_loop.handle().counters().panics, 1);
        let joined = event_loop.spawn_local(async { panic!("claimed") });
        assert!(matches!(run(event_loop, joined), Err(JoinError::Panicked(_))));
        assert_eq!(event_loop.handle().counters().panics, 2);
    });
}

#[test]
fn join_errors_convert_to_distinct_io_errors() {
    let convert = |error: JoinError| io::Error::from(error);
    assert_eq!(convert(JoinError::Aborted).raw_os_error(), Some(125));
    assert_eq!(convert(JoinError::LoopEnded).kind(), ErrorKind::BrokenPipe);
    let panicked = convert(JoinError::Panicked(Box::new(1)));
    assert_eq!((panicked.kind(), panicked.to_string()), (ErrorKind::Other, "the future panicked".into()));
}

#[test]
fn a_handle_is_send_if_its_result_is() {
    fn must_be_send_and_sync<T: Send + Sync>(_: T) {}
    let event_loop = EventLoop::new().unwrap();
    let not_send = Rc::new(1);
    must_be_send_and_sync(event_loop.spawn_local(async move { *not_send }));
}
