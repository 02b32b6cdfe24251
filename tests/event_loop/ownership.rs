//! A loop belongs to its thread. A thread has at most one loop. A loop cannot be run from inside
//! itself. It is dropped with its thread, or at the end of the call in which its owner drops it.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::wait_for_tick;
use crate::support::ready::ready_channel;
use crate::support::{Count, LIMIT, Recorder, turn, with_loop, with_watchdog};
use reveille::EventLoop;

thread_local! {
    /// A loop that the test of this thread does not hold itself.
    static KEPT: RefCell<Option<EventLoop>> = const { RefCell::new(None) };
}

#[test]
fn running_a_loop_from_its_own_callback_is_an_error() {
    fn check(event_loop: &EventLoop) {
        let now = event_loop.now();
        wait_for_tick(Instant::now());
        for _ in 0..2 {
            assert_eq!(event_loop.run().unwrap_err().kind(), ErrorKind::ResourceBusy);
            assert_eq!(event_loop.run_once(Duration::ZERO).unwrap_err().kind(), ErrorKind::ResourceBusy);
            assert_eq!(event_loop.run_once(None).unwrap_err().kind(), ErrorKind::ResourceBusy);
        }
        assert_eq!(event_loop.now(), now, "the calls changed the time of the current turn");
    }

    with_loop(|event_loop| {
        let seen = Recorder::new();
        let from = |what| {
            let seen = seen.clone();
            move |event_loop: &EventLoop| {
                check(event_loop);
                seen.record(what);
            }
        };
        let _channel = ready_channel(event_loop, from("channel"));
        event_loop.run_at(Instant::now(), from("timer"));
        event_loop.queue_in_loop(from("task"));
        turn(event_loop);
        assert_eq!(seen.take(), ["channel", "timer", "task"]);
        assert_eq!(event_loop.iteration(), 1);

        event_loop.queue_in_loop(from("task in run"));
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(seen.take(), ["task in run"]);
    });
}

#[test]
fn a_second_loop_in_a_thread_is_an_error() {
    with_watchdog(LIMIT, || {
        let first = EventLoop::new().unwrap();
        let handle = first.handle();
        assert_eq!(EventLoop::new().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(EventLoop::builder().build().unwrap_err().kind(), ErrorKind::AlreadyExists);
        first.queue_in_loop(|event_loop| {
            assert_eq!(EventLoop::new().unwrap_err().kind(), ErrorKind::AlreadyExists);
            event_loop.quit();
        });
        first.run().unwrap();
        assert!(handle.is_in_loop_thread(), "the first one is still this thread's");
        drop(first);
        assert!(!handle.is_in_loop_thread());

        let second = EventLoop::new().unwrap();
        assert!(second.handle().is_in_loop_thread());
        assert!(!handle.is_in_loop_thread());
        assert!(handle.queue_in_loop(|_| ()).is_err(), "a handle of the first does not speak to the second");
        assert!(handle.run_in_loop(|_| ()).is_err());
        turn(&second);
    });
}

#[test]
fn two_loops_in_two_threads_run_in_parallel() {
    with_watchdog(LIMIT, || {
        // Each loop is inside its task at the same time; otherwise neither passes the barrier.
        let met = Arc::new(Barrier::new(2));
        let homes = Arc::new(Mutex::new(Vec::new()));
        let serve = || {
            let event_loop = EventLoop::new().unwrap();
            let (met, homes) = (Arc::clone(&met), Arc::clone(&homes));
            event_loop.queue_in_loop(move |event_loop| {
                met.wait();
                homes.lock().unwrap().push(thread::current().id());
                event_loop.quit();
            });
            event_loop.run().unwrap();
        };
        thread::scope(|scope| {
            let other = scope.spawn(serve);
            let mut expected = [thread::current().id(), other.thread().id()];
            serve();
            other.join().unwrap();
            let mut homes = homes.lock().unwrap();
            expected.sort_unstable_by_key(|id| format!("{id:?}"));
            homes.sort_unstable_by_key(|id| format!("{id:?}"));
            assert_eq!(*homes, expected);
        });
    });
}

#[test]
fn a_loop_in_a_thread_local_ends_with_its_thread() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let token = drops.drop_token();
        let kept = thread::spawn(move || {
            let event_loop = EventLoop::new().unwrap();
            event_loop.queue_in_loop(move |_| token.keep());
            let handle = event_loop.handle();
            KEPT.set(Some(event_loop));
            handle
        });
        let handle = kept.join().unwrap();
        assert_eq!(drops.get(), 1);
        assert_eq!(handle.counters().tasks_dropped, 1);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    });
}

#[test]
fn a_loop_dropped_inside_its_call_ends_with_that_call() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let token = drops.drop_token();
        event_loop.queue_in_loop(move |_| token.keep());
        KEPT.set(Some(event_loop));
        let d = drops.clone();
        handle
            .run_in_loop(move |event_loop| {
                drop(KEPT.take());
                assert_eq!(d.get(), 0, "the loop was dropped while it was borrowed");
                assert_eq!(event_loop.iteration(), 0);
            })
            .unwrap();
        assert_eq!(drops.get(), 1);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    });
}

#[test]
fn a_repeating_timer_that_drops_its_loop_is_dropped_once() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let token = drops.drop_token();
        let callback = move |event_loop: &EventLoop| {
            token.keep();
            // Drops the owning reference in the thread-local. The running loop is borrowed through
            // the handle.
            drop(KEPT.take());
            event_loop.quit();
        };
        handle.run_every(Duration::from_nanos(1), callback).unwrap();
        KEPT.set(Some(event_loop));
        handle.run_in_loop(|event_loop| event_loop.run().unwrap()).unwrap();
        assert_eq!(drops.get(), 1);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    });
}
