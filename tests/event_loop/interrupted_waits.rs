//! Signals that interrupt the wait of a loop. They are sent to the process, so each test runs in a
//! separate process.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::alone::alone_with_loop;
use crate::support::{Count, OnDrop, wait_until_asleep};
use reveille::EventLoop;
use rustix::process::{Signal, kill_process};
use rustix::thread::{Pid, gettid};
use signal_hook::consts::SIGUSR1;
use signal_hook::flag;

/// The number of times that the thread has gone to sleep.
fn sleeps(thread: Pid) -> u64 {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    let status = fs::read_to_string(path).expect("a running thread");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("a count of switches").trim().parse().expect("a number")
}

/// Runs `call` while another thread sends signals that interrupt the sleep of this thread. The
/// argument of `call` counts the interrupted sleeps.
///
/// kill(2) with the id of a thread signals the whole process, but Linux prefers that thread for the
/// delivery.
fn under_signals(call: impl FnOnce(&Count)) {
    let (handled, interrupted) = (Arc::new(AtomicBool::new(false)), Count::default());
    let registered = flag::register(SIGUSR1, Arc::clone(&handled)).unwrap();
    let (done, thread) = (AtomicBool::new(false), gettid());
    thread::scope(|scope| {
        let _done = OnDrop::new(|| done.store(true, SeqCst));
        scope.spawn(|| {
            while !done.load(SeqCst) {
                wait_until_asleep(thread);
                let before = sleeps(thread);
                // The thread is asleep. When it sleeps again, a signal has interrupted it, or it
                // has completed `call` and is joining this thread.
                while sleeps(thread) == before && !done.load(SeqCst) {
                    kill_process(thread, Signal::USR1).unwrap();
                    while !handled.swap(false, SeqCst) {
                        thread::yield_now();
                    }
                }
                interrupted.add();
            }
        });
        call(&interrupted);
    });
    signal_hook::low_level::unregister(registered);
}

#[test]
fn a_signal_does_not_end_a_wait_early() {
    alone_with_loop(|event_loop| {
        let limit = Duration::from_millis(100);
        under_signals(|interrupted| {
            while interrupted.get() == 0 {
                let start = Instant::now();
                event_loop.run_once(limit).unwrap();
                assert!(start.elapsed() >= limit, "the wait ended early");
            }
        });
    });
}

#[test]
fn a_signal_does_not_end_an_unlimited_wait() {
    alone_with_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        under_signals(|interrupted| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    while interrupted.get() < 3 {
                        thread::yield_now();
                    }
                    let in_task = ran.clone();
                    handle.queue_in_loop(move |_| in_task.add()).unwrap();
                });
                event_loop.run_once(None).unwrap();
            });
        });
        assert_eq!(ran.get(), 1);
        assert_eq!(event_loop.iteration(), 1);
    });
}

#[test]
fn timers_and_tasks_run_despite_signals() {
    alone_with_loop(|event_loop| {
        let ran = Count::default();
        under_signals(|interrupted| {
            let (handle, interrupted, ran) = (event_loop.handle(), interrupted.clone(), ran.clone());
            event_loop.run_every(Duration::from_millis(1), move |_| {
                let (interrupted, ran) = (interrupted.clone(), ran.clone());
                let task = move |event_loop: &EventLoop| {
                    ran.add();
                    if ran.get() >= 20 && interrupted.get() >= 3 {
                        event_loop.quit();
                    }
                };
                thread::scope(|scope| _ = scope.spawn(|| handle.queue_in_loop(task).unwrap()));
            });
            event_loop.run().unwrap();
        });
        assert!(ran.get() >= 20);
    });
}
