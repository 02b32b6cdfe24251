//! Signals that interrupt the wait. They are sent to the process, so each test has its own.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::alone::alone_with_loop;
use crate::support::{Count, OnDrop, until_asleep};
use reveille::EventLoop;
use rustix::process::{Signal, kill_process};
use rustix::thread::{Pid, gettid};
use signal_hook::consts::SIGUSR1;
use signal_hook::flag;

/// How often the thread has gone to sleep.
fn sleeps(thread: Pid) -> u64 {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    let status = fs::read_to_string(path).expect("the thread lives");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("a count of switches").trim().parse().expect("a number")
}

/// Calls `call` while signals keep interrupting the sleep of this thread, with the count of those
/// that did.
///
/// A signal sent to the id of a thread is for the whole process, but Linux has that thread handle
/// it if it can.
fn under_signals(call: impl FnOnce(&Count)) {
    let (handled, interrupted) = (Arc::new(AtomicBool::new(false)), Count::default());
    let registered = flag::register(SIGUSR1, Arc::clone(&handled)).unwrap();
    let (done, thread) = (AtomicBool::new(false), gettid());
    thread::scope(|scope| {
        let _done = OnDrop::new(|| done.store(true, SeqCst));
        scope.spawn(|| {
            while !done.load(SeqCst) {
                until_asleep(thread);
                let before = sleeps(thread);
                // It is asleep, so when it sleeps again a signal has woken it, or it has done its
                // work and is joining us.
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
                let asked = Instant::now();
                event_loop.run_once(limit).unwrap();
                assert!(asked.elapsed() >= limit);
            }
        });
    });
}

#[test]
fn a_signal_does_not_end_a_wait_without_a_limit() {
    alone_with_loop(|event_loop| {
        let (handle, posted) = (event_loop.handle(), Count::default());
        under_signals(|interrupted| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    while interrupted.get() < 3 {
                        thread::yield_now();
                    }
                    let p = posted.clone();
                    handle.queue_in_loop(move |_| p.add()).unwrap();
                });
                event_loop.run_once(None).unwrap();
            });
        });
        assert_eq!(posted.get(), 1);
        assert_eq!(event_loop.iteration(), 1);
    });
}

#[test]
fn timers_and_tasks_are_served_among_signals() {
    alone_with_loop(|event_loop| {
        let ran = Count::default();
        under_signals(|interrupted| {
            let (handle, i, r) = (event_loop.handle(), interrupted.clone(), ran.clone());
            event_loop.run_every(Duration::from_millis(1), move |_| {
                let (i, r) = (i.clone(), r.clone());
                let task = move |event_loop: &EventLoop| {
                    r.add();
                    if r.get() >= 20 && i.get() >= 3 {
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
