//! Posts from other threads: their order, and the wake-up of a sleeping loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::HOUR;
use crate::support::{
    Count, LIMIT, Recorder, assert_posts_keep_their_order, turn, unread_wakes, wait_until_asleep, with_loop,
    with_watchdog,
};
use reveille::{EventLoop, LoopHandle, LoopThread};

#[test]
fn each_threads_posts_run_in_order_without_loss() {
    with_loop(|event_loop| {
        assert_posts_keep_their_order(event_loop, 100_000);
        assert_eq!(event_loop.handle().counters().tasks_dropped, 0);
    });
}

#[test]
fn a_post_wakes_a_loop_that_sleeps_without_a_limit() {
    with_loop(|event_loop| {
        let loops = rustix::thread::gettid();
        let (ran, has_run) = mpsc::channel();
        let handle = event_loop.handle();
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..200 {
                    wait_until_asleep(loops);
                    let ran = ran.clone();
                    handle.queue_in_loop(move |_| ran.send(()).unwrap()).unwrap();
                    has_run.recv().unwrap();
                }
                handle.quit();
            });
            event_loop.run().unwrap();
        });
    });
}

/// Runs a loop that sleeps until a distant timer. Once it sleeps, calls `wake` on another thread,
/// which must make the loop quit.
fn with_sleeping_loop(wake: impl FnOnce(LoopHandle) + Send + 'static) {
    with_loop(|event_loop| {
        event_loop.run_after(HOUR, |_| panic!("an hour is not over"));
        let (handle, loops) = (event_loop.handle(), rustix::thread::gettid());
        thread::scope(|scope| {
            scope.spawn(move || {
                wait_until_asleep(loops);
                wake(handle);
            });
            event_loop.run().unwrap();
        });
    });
}

#[test]
fn a_post_wakes_a_loop_that_sleeps_until_a_far_timer() {
    with_sleeping_loop(|handle| handle.queue_in_loop(EventLoop::quit).unwrap());
}

#[test]
fn a_timer_of_a_handle_shortens_the_sleep_of_the_loop() {
    with_sleeping_loop(|handle| {
        let start = Instant::now();
        let delay = Duration::from_millis(5);
        let due = move |event_loop: &EventLoop| {
            assert!(event_loop.now() >= start + delay);
            event_loop.quit();
        };
        handle.run_after(delay, due).unwrap();
    });
}

#[test]
fn many_tasks_wake_a_sleeping_loop_once() {
    with_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        for _ in 0..3 {
            assert_eq!(unread_wakes(event_loop), 0);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            let ran = ran.clone();
                            handle.queue_in_loop(move |_| ran.add()).unwrap();
                            handle.run_after(HOUR, |_| ()).unwrap();
                        }
                        handle.quit();
                    });
                }
            });
            assert_eq!(unread_wakes(event_loop), 1);
            event_loop.run().unwrap();
        }
        assert_eq!(ran.get(), 1_200);
    });
}

#[test]
fn a_loop_that_is_awake_is_not_woken() {
    with_loop(|event_loop| {
        let ran = Count::default();
        let r = ran.clone();
        event_loop.run_after(Duration::ZERO, move |event_loop| {
            let handle = event_loop.handle();
            let post = || {
                let r = r.clone();
                handle.queue_in_loop(move |_| r.add()).unwrap();
            };
            thread::scope(|scope| _ = scope.spawn(post));
            event_loop.queue_in_loop(|_| ());
            assert_eq!(unread_wakes(event_loop), 0);
        });
        turn(event_loop);
        assert_eq!(ran.get(), 1, "in the same turn");
        assert_eq!(unread_wakes(event_loop), 0, "and there is nothing left to wake it for");
    });
}

/// One direction of the ping-pong: posts a task to `to`, which posts one back to `from`, until
/// `left` reaches zero.
fn ping(from: LoopHandle, to: LoopHandle, left: u32) {
    let (here, there) = (from, to.clone());
    let posted = to.queue_in_loop(move |event_loop| {
        if left == 0 {
            here.quit();
            event_loop.quit();
        } else {
            ping(there, here, left - 1);
        }
    });
    posted.unwrap();
}

#[test]
fn two_loops_wake_each_other_ten_thousand_times() {
    const ROUND_TRIPS: u32 = 10_000;

    with_loop(|event_loop| {
        let other = LoopThread::spawn("other").unwrap();
        ping(event_loop.handle(), other.handle().clone(), 2 * ROUND_TRIPS);
        event_loop.run().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_post_at_any_moment_of_a_turn_is_not_slept_over() {
    // The delay before each post is swept over the length of a turn, so that some posts arrive
    // while the loop is about to sleep.
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let (ran, has_run) = mpsc::sync_channel(1);
        for round in 0..20_000 {
            for _ in 0..round % 500 {
                std::hint::spin_loop();
            }
            let ran = ran.clone();
            thread.handle().queue_in_loop(move |_| ran.send(round).unwrap()).unwrap();
            assert_eq!(has_run.recv().unwrap(), round);
        }
    });
}

#[test]
fn many_threads_wake_one_loop_together() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let count = Count::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let (ran, has_run) = mpsc::sync_channel(1);
                    for _ in 0..2_000 {
                        let (ran, count) = (ran.clone(), count.clone());
                        let task = move |_: &EventLoop| {
                            count.add();
                            ran.send(()).unwrap();
                        };
                        thread.handle().queue_in_loop(task).unwrap();
                        has_run.recv().unwrap();
                    }
                });
            }
        });
        assert_eq!(count.get(), 8_000);
    });
}

#[test]
fn sequential_posts_of_two_threads_run_in_order() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for number in 0..100 {
            let (handle, seen) = (handle.clone(), Arc::clone(&seen));
            let post = move || handle.queue_in_loop(move |_| seen.lock().unwrap().push(number)).unwrap();
            thread::spawn(post).join().unwrap();
        }
        event_loop.run_once(None).unwrap();
        assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn a_remote_task_can_use_the_loops_thread_locals() {
    thread_local! {
        static SEEN: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    }
    with_loop(|event_loop| {
        let seen = Recorder::new();
        SEEN.set(Some(seen.clone()));
        let (handle, home) = (event_loop.handle(), thread::current().id());
        let task = move |event_loop: &EventLoop| {
            assert_eq!(thread::current().id(), home);
            assert!(event_loop.handle().is_in_loop_thread());
            // Neither of these is `Send`; both can be used here.
            let seen = SEEN.take().unwrap();
            let shared = Rc::new(());
            seen.record("posted task");
            event_loop.queue_in_loop(move |event_loop| {
                drop(shared);
                seen.record("task of its own");
                event_loop.quit();
            });
        };
        let post = move || {
            assert!(!handle.is_in_loop_thread());
            handle.run_in_loop(task).unwrap();
        };
        thread::spawn(post).join().unwrap();
        assert_eq!(seen.take(), [""; 0], "the task ran on the posting thread");
        event_loop.run().unwrap();
        assert_eq!(seen.take(), ["posted task", "task of its own"]);
    });
}
