//! `call_timeout`, and a call to a loop whose mailbox is full: which calls wait, which time out,
//! and whether the task runs.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::calls::{start_waiting, with_loop_thread};
use crate::support::{Count, LIMIT, OnDrop, on_another_thread, turn, with_loop, with_watchdog};
use reveille::task::{CallError, MailboxLimit};
use reveille::{EventLoop, LoopThread};

/// Short enough to expire before anything else happens, on a loop that is not run.
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
            let answer = on_another_thread(|| handle.call_timeout(timeout, task));
            assert_eq!(answer, Err(CallError::TimedOut));
            assert!(start.elapsed() >= timeout);
        }
        turn(event_loop);
        turn(event_loop);
        assert_eq!((ran.get(), drops.get()), (0, 3), "and what it has captured is dropped");
    });
}

#[test]
fn a_running_task_outlives_its_calls_timeout() {
    with_loop_thread(|handle| {
        let mut timeout = SHORT;
        loop {
            let (drops, begun) = (Count::default(), Count::default());
            let given_up = Arc::new(AtomicBool::new(false));
            let (result, b, g) = (drops.drop_token(), begun.clone(), Arc::clone(&given_up));
            let answer = handle.call_timeout(timeout, move |_| {
                b.add();
                while !g.load(SeqCst) {
                    thread::yield_now();
                }
                result
            });
            assert_eq!(answer.err(), Some(CallError::TimedOut));
            let had_begun = begun.get() == 1;
            if had_begun {
                assert_eq!(drops.get(), 0, "it is still under way");
            }
            given_up.store(true, SeqCst);
            handle.call(|_| ()).unwrap();
            assert_eq!(drops.get(), 1, "with the captures, or as a result that nobody wants");
            assert_eq!(handle.counters().panics, 0);
            if had_begun {
                return;
            }
            timeout *= 2;
        }
    });
}

#[test]
fn the_destructor_of_an_unclaimed_result_may_use_the_loop() {
    with_loop_thread(|handle| {
        let mut timeout = SHORT;
        loop {
            let (begun, spoke) = (Count::default(), Count::default());
            let given_up = Arc::new(AtomicBool::new(false));
            // The destructor calls into the same loop in every way that might need a lock.
            let (h, s) = (handle.clone(), spoke.clone());
            let result = OnDrop::new(move || {
                assert_eq!(h.call(|_| 1), Ok(1), "at once, on the loop's thread");
                h.queue_in_loop(|_| ()).unwrap();
                on_another_thread(|| h.queue_in_loop(|_| ()).unwrap());
                s.add();
            });
            let (b, g) = (begun.clone(), Arc::clone(&given_up));
            let answer = handle.call_timeout(timeout, move |_| {
                b.add();
                while !g.load(SeqCst) {
                    thread::yield_now();
                }
                result
            });
            assert_eq!(answer.err(), Some(CallError::TimedOut));
            let had_begun = begun.get() == 1;
            given_up.store(true, SeqCst);
            handle.call(|_| ()).unwrap();
            assert_eq!((spoke.get(), handle.counters().panics), (1, 0));
            if had_begun {
                return;
            }
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
            let together = Arc::new(Barrier::new(2));
            let ran = Count::default();
            // Sent when each call has returned.
            let (answers, received) = mpsc::channel();
            for (from, to) in [(&one, &other), (&other, &one)] {
                let (to, together, ran, answers) =
                    (to.handle().clone(), Arc::clone(&together), ran.clone(), answers.clone());
                let call = move |_: &EventLoop| {
                    together.wait();
                    answers.send(to.call_timeout(SHORT, move |_| ran.add())).unwrap();
                };
                from.handle().queue_in_loop(call).unwrap();
            }
            drop(answers);
            let answers: Vec<_> = received.iter().collect();
            assert_eq!(answers.len(), 2);
            // Neither call can complete before the other has timed out.
            assert!(answers.contains(&Err(CallError::TimedOut)), "{answers:?}");
            assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(CallError::TimedOut))));
            assert_eq!(one.handle().call(|_| 1), Ok(1));
            assert_eq!(other.handle().call(|_| 2), Ok(2));
            assert!(ran.get() < 2, "the first to give up has its task not run");
        }
    });
}

// --- Full mailboxes

/// A loop whose mailbox has a capacity of `tasks` and is full.
fn full_loop(mailbox: fn(usize) -> MailboxLimit, tasks: usize) -> EventLoop {
    let event_loop = EventLoop::builder().mailbox(mailbox(tasks)).build().unwrap();
    let handle = event_loop.handle();
    on_another_thread(|| (0..tasks).for_each(|_| handle.queue_in_loop(|_| ()).unwrap()));
    event_loop
}

#[test]
fn a_call_to_a_full_rejecting_mailbox_is_refused() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Reject, 3);
        let (handle, drops) = (event_loop.handle(), Count::default());
        let (first, second) = (drops.drop_token(), drops.drop_token());
        let call = || {
            assert_eq!(handle.call(move |_| first.keep()), Err(CallError::Full));
            assert_eq!(handle.call_timeout(Duration::MAX, move |_| second.keep()), Err(CallError::Full));
        };
        on_another_thread(call);
        assert_eq!(drops.get(), 2);
        assert_eq!(handle.call(|_| 1), Ok(1), "on the loop's own thread it need not be queued");
        turn(&event_loop);
        assert_eq!(handle.counters().tasks_run, 3);
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| 1));
            turn(&event_loop);
            assert_eq!(caller.join().unwrap(), Ok(1), "there is room again");
        });
    });
}

#[test]
fn a_zero_timeout_call_to_a_full_mailbox_is_refused() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Reject, 3);
        let handle = event_loop.handle();
        let answer = on_another_thread(|| handle.call_timeout(Duration::ZERO, |_| ()));
        assert_eq!(answer, Err(CallError::Full), "it was refused, and not for want of time");
    });
}

#[test]
fn a_call_times_out_while_the_mailbox_is_full() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Block, 2);
        let (handle, ran, drops) = (event_loop.handle(), Count::default(), Count::default());
        for timeout in [Duration::ZERO, SHORT] {
            let (r, token, start) = (ran.clone(), drops.drop_token(), Instant::now());
            let task = move |_: &EventLoop| {
                token.keep();
                r.add();
            };
            let answer = on_another_thread(|| handle.call_timeout(timeout, task));
            assert_eq!(answer, Err(CallError::TimedOut));
            assert!(start.elapsed() >= timeout);
        }
        assert_eq!(drops.get(), 2);
        turn(&event_loop);
        turn(&event_loop);
        assert_eq!((ran.get(), handle.counters().tasks_run), (0, 2));
    });
}

#[test]
fn a_call_that_waits_for_capacity_gets_its_result() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Block, 2);
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| 1));
            let patient = start_waiting(scope, || handle.call_timeout(Duration::MAX, |_| 2));
            assert_eq!(handle.counters().tasks_posted, 2);
            turn(&event_loop);
            while handle.counters().tasks_posted < 4 {
                thread::yield_now();
            }
            turn(&event_loop);
            assert_eq!((caller.join().unwrap(), patient.join().unwrap()), (Ok(1), Ok(2)));
        });
    });
}

#[test]
fn a_call_that_waits_for_capacity_fails_on_drop() {
    with_watchdog(LIMIT, || {
        let event_loop = full_loop(MailboxLimit::Block, 2);
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let caller = start_waiting(scope, || handle.call(|_| ()));
            let patient = start_waiting(scope, || handle.call_timeout(Duration::MAX, |_| ()));
            drop(event_loop);
            assert_eq!(caller.join().unwrap(), Err(CallError::LoopGone));
            assert_eq!(patient.join().unwrap(), Err(CallError::LoopGone));
        });
    });
}
