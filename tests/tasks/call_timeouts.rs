//! `call_timeout`, and calls to a loop whose mailbox is full: which calls wait, fail or time out,
//! and whether the task runs.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::calls::{start_waiting, with_loop_thread};
use crate::support::{Count, LIMIT, OnDrop, on_another_thread, turn, with_loop, with_watchdog};
use reveille::task::{CallError, MailboxLimit};
use reveille::{EventLoop, LoopThread};

/// A timeout that expires during the test.
const SHORT: Duration = Duration::from_millis(5);

// --- Timeouts

#[test]
fn a_call_that_timed_out_never_runs_its_task() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let (ran, drops) = (Count::default(), Count::default());
        for timeout in [Duration::ZERO, Duration::from_nanos(1), SHORT] {
            let (ran, token) = (ran.clone(), drops.drop_token());
            let task = move |_: &EventLoop| {
                token.keep();
                ran.add();
            };
            let start = Instant::now();
            let result = on_another_thread(|| handle.call_timeout(timeout, task));
            assert_eq!(result, Err(CallError::TimedOut));
            assert!(start.elapsed() >= timeout);
        }
        turn(event_loop);
        turn(event_loop);
        assert_eq!((ran.get(), drops.get()), (0, 3), "a task ran, or its captures were not dropped");
    });
}

#[test]
fn a_running_task_outlives_its_calls_timeout() {
    with_loop_thread(|handle| {
        let mut timeout = SHORT;
        loop {
            let (drops, started) = (Count::default(), Count::default());
            let has_timed_out = Arc::new(AtomicBool::new(false));
            let token = drops.drop_token();
            let (task_started, may_end) = (started.clone(), Arc::clone(&has_timed_out));
            let result = handle.call_timeout(timeout, move |_| {
                task_started.add();
                while !may_end.load(SeqCst) {
                    thread::yield_now();
                }
                token
            });
            assert_eq!(result.err(), Some(CallError::TimedOut));
            let had_started = started.get() == 1;
            if had_started {
                assert_eq!(drops.get(), 0, "the running task has dropped its captures");
            }
            has_timed_out.store(true, SeqCst);
            handle.call(|_| ()).unwrap();
            assert_eq!(drops.get(), 1, "the captured value was not dropped once");
            assert_eq!(handle.counters().panics, 0);
            if had_started {
                return;
            }
            // The call timed out before the task started.
            timeout *= 2;
        }
    });
}

#[test]
fn the_destructor_of_an_unclaimed_result_may_use_the_loop() {
    with_loop_thread(|handle| {
        let mut timeout = SHORT;
        loop {
            let (started, dropped) = (Count::default(), Count::default());
            let has_timed_out = Arc::new(AtomicBool::new(false));
            // The destructor calls into the same loop in each way that may take a lock.
            let (loop_handle, drops) = (handle.clone(), dropped.clone());
            let value = OnDrop::new(move || {
                assert_eq!(loop_handle.call(|_| 1), Ok(1), "the call on the loop's thread failed");
                loop_handle.queue_in_loop(|_| ()).unwrap();
                on_another_thread(|| loop_handle.queue_in_loop(|_| ()).unwrap());
                drops.add();
            });
            let (task_started, may_end) = (started.clone(), Arc::clone(&has_timed_out));
            let result = handle.call_timeout(timeout, move |_| {
                task_started.add();
                while !may_end.load(SeqCst) {
                    thread::yield_now();
                }
                value
            });
            assert_eq!(result.err(), Some(CallError::TimedOut));
            let had_started = started.get() == 1;
            has_timed_out.store(true, SeqCst);
            handle.call(|_| ()).unwrap();
            assert_eq!((dropped.get(), handle.counters().panics), (1, 0));
            if had_started {
                return;
            }
            // The call timed out before the task started.
            timeout *= 2;
        }
    });
}

#[test]
fn a_timeout_beyond_the_clocks_range_never_expires() {
    with_loop_thread(|handle| {
        for _ in 0..100 {
            assert_eq!(handle.call_timeout(Duration::MAX, |_| 1), Ok(1));
        }
    });
}

#[test]
fn timeouts_end_a_deadlock_of_two_calling_loops() {
    with_watchdog(LIMIT, || {
        let (one, other) = (LoopThread::spawn("one").unwrap(), LoopThread::spawn("other").unwrap());
        for _ in 0..5 {
            let barrier = Arc::new(Barrier::new(2));
            let ran = Count::default();
            let (sender, results) = mpsc::channel();
            for (from, to) in [(&one, &other), (&other, &one)] {
                let (to, barrier, ran, sender) =
                    (to.handle().clone(), Arc::clone(&barrier), ran.clone(), sender.clone());
                let call = move |_: &EventLoop| {
                    barrier.wait();
                    sender.send(to.call_timeout(SHORT, move |_| ran.add())).unwrap();
                };
                from.handle().queue_in_loop(call).unwrap();
            }
            drop(sender);
            let results: Vec<_> = results.iter().collect();
            assert_eq!(results.len(), 2);
            // Neither call can complete before the other has timed out.
            assert!(results.contains(&Err(CallError::TimedOut)), "{results:?}");
            assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(CallError::TimedOut))));
            assert_eq!(one.handle().call(|_| 1), Ok(1));
            assert_eq!(other.handle().call(|_| 2), Ok(2));
            assert!(ran.get() < 2, "the task of the call that timed out first was run");
        }
    });
}

// --- Full mailboxes

/// A loop with a full mailbox: its capacity is `tasks`, and as many tasks are queued.
fn full_loop(mailbox: fn(usize) -> MailboxLimit, tasks: usize) -> EventLoop {
    let event_loop = EventLoop::builder().mailbox(mailbox(tasks)).build().unwrap();
    let handle = event_loop.handle();
    on_another_thread(|| (0..tasks).for_each(|_| handle.queue_in_loop(|_| ()).unwrap()));
    event_loop
}

#[test]
fn a_call_to_a_full_rejecting_mailbox_fails() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Refuse, 3);
        let (handle, drops) = (event_loop.handle(), Count::default());
        let (first, second) = (drops.drop_token(), drops.drop_token());
        let call = || {
            assert_eq!(handle.call(move |_| first.keep()), Err(CallError::Full));
            assert_eq!(handle.call_timeout(Duration::MAX, move |_| second.keep()), Err(CallError::Full));
        };
        on_another_thread(call);
        assert_eq!(drops.get(), 2);
        assert_eq!(handle.call(|_| 1), Ok(1), "a call on the loop's own thread failed");
        turn(&event_loop);
        assert_eq!(handle.counters().tasks_run, 3);
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| 1));
            turn(&event_loop);
            assert_eq!(caller.join().unwrap(), Ok(1), "a call failed after the mailbox was emptied");
        });
    });
}

#[test]
fn a_zero_timeout_call_to_a_full_mailbox_fails_as_full() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Refuse, 3);
        let handle = event_loop.handle();
        let result = on_another_thread(|| handle.call_timeout(Duration::ZERO, |_| ()));
        assert_eq!(result, Err(CallError::Full));
    });
}

#[test]
fn a_call_times_out_while_the_mailbox_is_full() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Block, 2);
        let (handle, ran, drops) = (event_loop.handle(), Count::default(), Count::default());
        for timeout in [Duration::ZERO, SHORT] {
            let (task_ran, token, start) = (ran.clone(), drops.drop_token(), Instant::now());
            let task = move |_: &EventLoop| {
                token.keep();
                task_ran.add();
            };
            let result = on_another_thread(|| handle.call_timeout(timeout, task));
            assert_eq!(result, Err(CallError::TimedOut));
            assert!(start.elapsed() >= timeout);
        }
        assert_eq!(drops.get(), 2);
        turn(&event_loop);
        turn(&event_loop);
        assert_eq!((ran.get(), handle.counters().tasks_run), (0, 2));
    });
}

#[test]
fn a_call_that_waits_for_capacity_returns_its_result() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Block, 2);
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| 1));
            let caller_with_timeout = start_waiting(scope, || handle.call_timeout(Duration::MAX, |_| 2));
            assert_eq!(handle.counters().tasks_posted, 2);
            turn(&event_loop);
            while handle.counters().tasks_posted < 4 {
                thread::yield_now();
            }
            turn(&event_loop);
            assert_eq!((caller.join().unwrap(), caller_with_timeout.join().unwrap()), (Ok(1), Ok(2)));
        });
    });
}

#[test]
fn a_call_that_waits_for_capacity_fails_at_the_loops_drop() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Block, 2);
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| ()));
            let caller_with_timeout = start_waiting(scope, || handle.call_timeout(Duration::MAX, |_| ()));
            drop(event_loop);
            assert_eq!(caller.join().unwrap(), Err(CallError::LoopEnded));
            assert_eq!(caller_with_timeout.join().unwrap(), Err(CallError::LoopEnded));
        });
    });
}
