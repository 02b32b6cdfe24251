//! The eventfd writes of a post: one if the loop sleeps, none if the loop checks for work by
//! itself.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::support::{LIMIT, turn, unread_wakes, wait_until_asleep, wakes, with_loop, with_watchdog};
use reveille::{EventLoop, LoopThread};

const MILLION: usize = 1_000_000;
const PRODUCERS: usize = 4;

#[test]
fn posts_to_a_loop_blocked_in_a_task_write_nothing() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let before_and_after = Rc::new(Cell::new(None));
        let result = Rc::clone(&before_and_after);
        event_loop.queue_in_loop(move |event_loop| {
            let handle = event_loop.handle();
            // The turn has ended the announced sleep and read the eventfd.
            let before = (wakes(&handle), unread_wakes(event_loop));
            thread::scope(|scope| {
                for _ in 0..PRODUCERS {
                    scope.spawn(|| {
                        (0..MILLION / PRODUCERS).for_each(|_| handle.queue_in_loop(|_| ()).unwrap());
                    });
                }
            });
            result.set(Some((before, (wakes(&handle), unread_wakes(event_loop)))));
        });
        turn(event_loop);
        let (before, after) = before_and_after.get().expect("the task has run");
        assert_eq!(before.1, 0);
        assert_eq!(after, before);
        turn(event_loop);
        assert_eq!(handle.counters().longest_batch, MILLION as u64);
        assert_eq!(handle.counters().tasks_run, 1 + MILLION as u64);
    });
}

#[test]
fn posts_to_a_busy_loop_write_nothing() {
    with_loop(|event_loop| {
        /// Leaves the loop work of its own after every turn, so that it never announces a sleep.
        fn keep_busy(event_loop: &EventLoop, until: Arc<AtomicBool>) {
            if until.load(SeqCst) {
                event_loop.quit();
            } else {
                event_loop.queue_in_loop(move |event_loop| keep_busy(event_loop, until));
            }
        }
        let handle = event_loop.handle();
        let enough = Arc::new(AtomicBool::new(false));
        keep_busy(event_loop, Arc::clone(&enough));
        thread::scope(|scope| {
            let (handle, enough) = (&handle, &enough);
            scope.spawn(move || {
                while handle.counters().batches == 0 {
                    thread::yield_now();
                }
                let before = wakes(handle);
                thread::scope(|scope| {
                    for _ in 0..PRODUCERS {
                        scope.spawn(|| {
                            (0..MILLION / PRODUCERS).for_each(|_| handle.queue_in_loop(|_| ()).unwrap());
                        });
                    }
                });
                assert_eq!(wakes(handle) - before, 0);
                enough.store(true, SeqCst);
            });
            event_loop.run().unwrap();
        });
        assert!(handle.counters().tasks_run > MILLION as u64);
    });
}

#[test]
fn posts_of_many_threads_between_turns_write_once() {
    const ROUNDS: u64 = 200;
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let (before, after) = (Barrier::new(PRODUCERS + 1), Barrier::new(PRODUCERS + 1));
        thread::scope(|scope| {
            for _ in 0..PRODUCERS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        before.wait();
                        (0..5).for_each(|_| handle.queue_in_loop(|_| ()).unwrap());
                        after.wait();
                    }
                });
            }
            for round in 0..ROUNDS {
                turn(event_loop);
                assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round, 0));
                before.wait();
                after.wait();
                assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round + 1, 1));
            }
        });
        turn(event_loop);
        assert_eq!(handle.counters().tasks_run, ROUNDS * 5 * PRODUCERS as u64);
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (ROUNDS, 0));
    });
}

#[test]
fn local_tasks_between_two_turns_write_once() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        for round in 0..20 {
            assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round, 0));
            for _ in 0..5 {
                event_loop.queue_in_loop(|_| ());
                handle.queue_in_loop(|_| ()).unwrap();
            }
            assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round + 1, 1));
            turn(event_loop);
        }
    });
}

#[test]
fn posts_of_many_threads_to_a_sleeping_loop_write_once() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle();
        let loops = handle.call(|_| rustix::thread::gettid()).unwrap();
        let (before, after) = (Barrier::new(PRODUCERS + 1), Barrier::new(PRODUCERS + 1));
        let posted = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..PRODUCERS {
                scope.spawn(|| {
                    for round in 1..=50 {
                        before.wait();
                        let all_posted = Arc::clone(&posted);
                        // The first task to run keeps the loop awake until the last one has been
                        // posted.
                        let hold = move |_: &EventLoop| {
                            while all_posted.load(SeqCst) < round * PRODUCERS {
                                thread::yield_now();
                            }
                        };
                        handle.queue_in_loop(hold).unwrap();
                        posted.fetch_add(1, SeqCst);
                        after.wait();
                    }
                });
            }
            for _ in 0..50 {
                wait_until_asleep(loops);
                let wakes_before = wakes(handle);
                before.wait();
                after.wait();
                assert_eq!(wakes(handle), wakes_before + 1);
            }
        });
        thread.join().unwrap();
    });
}

#[test]
fn internal_tasks_and_quit_end_a_sleep_with_one_write() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let post_all = || {
            handle.run_after(Duration::MAX, |_| ()).unwrap();
            handle.quit();
            handle.queue_in_loop(|_| ()).unwrap();
            handle.quit();
        };
        thread::scope(|scope| scope.spawn(post_all).join().unwrap());
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (1, 1));
        event_loop.run().unwrap();
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (1, 0));
        handle.quit();
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (2, 1));
    });
}

#[test]
fn a_post_in_a_turn_started_by_a_timer_writes_nothing() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        for round in 1..=20 {
            // The loop has announced that it sleeps, and a timer instead of a post ends the sleep.
            // If the time passes before the call returns, the call itself writes.
            let fired = Rc::new(Cell::new(None));
            let (f, h) = (Rc::clone(&fired), handle.clone());
            event_loop.run_after(Duration::from_micros(200), move |event_loop| {
                let before = wakes(&h);
                thread::scope(|scope| scope.spawn(|| h.queue_in_loop(|_| ()).unwrap()).join().unwrap());
                event_loop.queue_in_loop(|_| ());
                f.set(Some((wakes(&h) - before, unread_wakes(event_loop))));
            });
            event_loop.run_once(None).unwrap();
            assert_eq!(fired.get(), Some((0, 0)));
            assert_eq!(handle.counters().tasks_run, 2 * round);
        }
    });
}
