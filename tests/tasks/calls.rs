//! `call`: a task posted from another thread, and its result. Every call returns a result or an
//! error.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::support::calls::{start_waiting, with_loop_thread};
use crate::support::{
    Count, LIMIT, on_another_thread, panic_of, turn, with_catching_loop, with_loop, with_watchdog,
};
use reveille::EventLoop;
use reveille::task::CallError;

#[test]
fn a_call_returns_what_the_task_returns() {
    with_loop_thread(|handle| {
        assert_eq!(handle.call(|_| 6 * 7), Ok(42));
        assert_eq!(handle.call(|_| ()), Ok(()));
        assert_eq!(handle.call(|_| vec![String::from("moved")]), Ok(vec![String::from("moved")]));
        assert_eq!(handle.call_timeout(LIMIT, |_| [7_u64; 100]), Ok([7; 100]));
        let turns = handle.call(EventLoop::iteration).unwrap();
        assert!(handle.call(EventLoop::iteration).unwrap() > turns);
        assert_eq!(handle.counters().tasks_posted, 6);
    });
}

#[test]
fn a_called_task_may_use_values_that_are_not_send() {
    thread_local!(static TURNS: Cell<u32> = const { Cell::new(0) });
    with_loop_thread(|handle| {
        let home = handle.call(|_| thread::current().id()).unwrap();
        assert_ne!(home, thread::current().id());
        for expected in 1..=3 {
            let h = handle.clone();
            let task = move |event_loop: &EventLoop| {
                assert!(h.is_in_loop_thread());
                let shared = Rc::new(Cell::new(TURNS.get()));
                let other = Rc::clone(&shared);
                event_loop.run_in_loop(move |_| other.set(other.get() + 1));
                TURNS.set(shared.get());
                shared.get()
            };
            assert_eq!(handle.call(task), Ok(expected));
        }
        assert_eq!(TURNS.get(), 0, "that of this thread");
    });
}

#[test]
fn a_called_tasks_captures_are_dropped_before_call_returns() {
    with_loop_thread(|handle| {
        let drops = Count::default();
        for round in 1..=100 {
            let token = drops.drop_token();
            handle.call(move |_| token.keep()).unwrap();
            assert_eq!(drops.get(), round);
        }
    });
}

#[test]
fn on_the_loops_own_thread_a_call_runs_at_once() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        assert_eq!(handle.call(|_| 1), Ok(1));
        assert_eq!(handle.call_timeout(Duration::ZERO, |_| 2), Ok(2), "between turns");
        let inside = Rc::new(Cell::new(false));
        let (i, h) = (Rc::clone(&inside), handle.clone());
        event_loop.queue_in_loop(move |_| {
            let nested = h.clone();
            assert_eq!(h.call(move |_| nested.call(|_| 3)), Ok(Ok(3)), "in a task, and in a call");
            assert_eq!(h.call_timeout(Duration::MAX, |_| 4), Ok(4));
            i.set(true);
        });
        turn(event_loop);
        assert!(inside.get());
        let from_elsewhere = handle.clone();
        thread::scope(|scope| {
            let nested = handle.clone();
            let caller = start_waiting(scope, || handle.call(move |_| nested.call(|_| 5)));
            turn(event_loop);
            assert_eq!(caller.join().unwrap(), Ok(Ok(5)), "in a call from another thread");
        });
        assert_eq!(from_elsewhere.counters().tasks_posted, 2, "what runs at once was never queued");
    });
}

#[test]
fn calls_of_a_thread_keep_their_order_with_its_posts() {
    with_loop_thread(|handle| {
        for _ in 0..200 {
            let ran = Count::default();
            let (first, second) = (ran.clone(), ran.clone());
            handle.queue_in_loop(move |_| first.add()).unwrap();
            assert_eq!(handle.call(move |_| second.get()), Ok(1));
        }
    });
}

#[test]
fn a_panic_in_a_called_task_is_returned_to_the_caller() {
    with_loop_thread(|handle| {
        let drops = Count::default();
        let token = drops.drop_token();
        let task = move |_: &EventLoop| {
            token.keep();
            panic!("on purpose");
        };
        assert_eq!(handle.call::<(), _>(task), Err(CallError::Panicked));
        assert_eq!(handle.call(|_| 1), Ok(1));
        assert_eq!(drops.get(), 1);
        assert_eq!(handle.counters().panics, 1);
        let called = handle.call_timeout::<(), _>(LIMIT, |_| panic!("on purpose"));
        assert_eq!(called, Err(CallError::Panicked));
        assert_eq!(handle.call(|_| 2), Ok(2));
        assert_eq!(handle.counters().panics, 2);
    });
}

#[test]
fn a_panic_in_a_call_on_the_loops_thread_is_returned() {
    with_catching_loop(|event_loop| {
        let handle = event_loop.handle();
        assert_eq!(handle.call::<(), _>(|_| panic!("on purpose")), Err(CallError::Panicked));
        let h = handle.clone();
        event_loop.queue_in_loop(move |_| {
            assert_eq!(h.call::<(), _>(|_| panic!("on purpose")), Err(CallError::Panicked));
            assert_eq!(h.call(|_| 1), Ok(1));
        });
        turn(event_loop);
        assert_eq!(handle.counters().panics, 2, "and none from the task around it");
    });
}

#[test]
fn a_propagated_panic_is_also_returned_to_the_caller() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call::<(), _>(|_| panic!("for both")));
            assert_eq!(panic_of(|| turn(event_loop)), "for both");
            assert_eq!(caller.join().unwrap(), Err(CallError::Panicked));
        });
        assert_eq!(handle.counters().panics, 1);
    });
}

#[test]
fn a_call_to_a_dropped_loop_is_an_error() {
    with_watchdog(LIMIT, || {
        let handle = EventLoop::new().unwrap().handle();
        let (ran, drops) = (Count::default(), Count::default());
        let task = || {
            let (ran, token) = (ran.clone(), drops.drop_token());
            move |_: &EventLoop| {
                token.keep();
                ran.add();
            }
        };
        assert_eq!(handle.call(task()), Err(CallError::LoopEnded));
        assert_eq!(handle.call_timeout(Duration::ZERO, task()), Err(CallError::LoopEnded));
        assert_eq!(handle.call_timeout(Duration::MAX, task()), Err(CallError::LoopEnded));
        assert_eq!(on_another_thread(|| handle.call(task())), Err(CallError::LoopEnded));
        assert_eq!((ran.get(), drops.get()), (0, 4));
        assert_eq!(handle.counters().tasks_refused, 4);
    });
}

#[test]
fn a_call_fails_when_its_loop_is_dropped() {
    with_watchdog(LIMIT, || {
        for timeout in [None, Some(Duration::MAX), Some(LIMIT * 10)] {
            let event_loop = EventLoop::new().unwrap();
            let (handle, drops) = (event_loop.handle(), Count::default());
            let token = drops.drop_token();
            thread::scope(|scope| {
                let caller = start_waiting(scope, || {
                    let task = move |_: &EventLoop| token.keep();
                    match timeout {
                        None => handle.call(task),
                        Some(timeout) => handle.call_timeout(timeout, task),
                    }
                });
                assert_eq!((handle.counters().tasks_posted, drops.get()), (1, 0), "it waits");
                drop(event_loop);
                assert_eq!(caller.join().unwrap(), Err(CallError::LoopEnded));
            });
            assert_eq!(drops.get(), 1);
            assert_eq!(handle.counters().tasks_dropped, 1);
        }
    });
}

#[test]
fn a_call_fails_when_quit_drops_its_task() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().drop_tasks_on_quit().build().unwrap();
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| ()));
            event_loop.quit();
            event_loop.run().unwrap();
            assert_eq!(caller.join().unwrap(), Err(CallError::LoopEnded));
        });
        let counters = handle.counters();
        assert_eq!((counters.tasks_run, counters.tasks_dropped), (0, 1));
    });
}

#[test]
fn a_call_waits_for_a_loop_that_is_not_run_yet() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| 1));
            let patient = start_waiting(scope, || handle.call_timeout(Duration::MAX, |_| 2));
            assert!(!caller.is_finished() && !patient.is_finished());
            turn(event_loop);
            assert_eq!((caller.join().unwrap(), patient.join().unwrap()), (Ok(1), Ok(2)));
        });
    });
}

#[test]
fn concurrent_calls_each_get_their_own_result() {
    with_loop_thread(|handle| {
        const CALLERS: u64 = 8;
        const CALLS: u64 = 500;
        let start = Barrier::new(CALLERS as usize);
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    for number in 0..CALLS {
                        let result = match number % 2 {
                            0 => handle.call(move |_| (caller, number)),
                            _ => handle.call_timeout(LIMIT * 10, move |_| (caller, number)),
                        };
                        assert_eq!(result, Ok((caller, number)));
                    }
                });
            }
        });
        assert_eq!(handle.counters().tasks_posted, CALLERS * CALLS);
    });
}

#[test]
fn calls_that_race_with_the_loops_end_all_return() {
    with_watchdog(LIMIT, || {
        for round in 0..60 {
            let event_loop = EventLoop::new().unwrap();
            let (handle, start) = (event_loop.handle(), Barrier::new(4));
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        start.wait();
                        let mut number = 0;
                        loop {
                            match handle.call(move |_| number) {
                                Ok(result) => assert_eq!(result, number),
                                Err(error) => break assert_eq!(error, CallError::LoopEnded),
                            }
                            number += 1;
                        }
                    });
                }
                start.wait();
                for _ in 0..round % 7 {
                    turn(&event_loop);
                }
                drop(event_loop);
            });
            let counters = handle.counters();
            assert_eq!(counters.tasks_posted, counters.tasks_run + counters.tasks_dropped);
        }
    });
}

#[test]
fn a_call_error_describes_its_cause() {
    let expected = [
        (CallError::LoopEnded, ErrorKind::BrokenPipe, "the event loop has ended"),
        (CallError::Full, ErrorKind::WouldBlock, "the event loop's mailbox is full"),
        (CallError::Panicked, ErrorKind::Other, "the task panicked"),
        (CallError::TimedOut, ErrorKind::TimedOut, "the call to the event loop timed out"),
    ];
    for (error, kind, text) in expected {
        assert_eq!(error.to_string(), text);
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
    }
}
