//! Loops and handles in the destructors of thread-locals. These destructors run when the thread
//! ends, in an unspecified order.

mod support;

use std::cell::RefCell;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use reveille::fs::{FileIo, FileIoBackend};
use reveille::task::CallError;
use reveille::{EventLoop, LoopHandle, LoopPool, LoopThread};
use support::{LIMIT, with_watchdog};

/// A closure to be called in the destructor of a thread-local.
struct AtExit(Box<dyn FnOnce()>);

/// One cell for a loop, and a cell for a closure on either side of it. The order of the destructors
/// depends on the order of the first uses.
mod locals {
    use super::{AtExit, EventLoop, RefCell};

    thread_local! {
        pub(super) static FIRST: RefCell<Option<super::Last>> = const { RefCell::new(None) };
        pub(super) static KEPT: RefCell<Option<EventLoop>> = const { RefCell::new(None) };
        pub(super) static SECOND: RefCell<Option<super::Last>> = const { RefCell::new(None) };
    }

    impl AtExit {
        pub(super) fn call(self) {
            (self.0)();
        }
    }
}

/// Calls its closure when it is dropped.
struct Last(Option<AtExit>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.take().expect("one drop").call();
    }
}

/// Runs `test` on a thread that then ends. The returned closure is called in the destructor of a
/// thread-local. The returned loop is kept in another thread-local. Runs twice: the closure is
/// called before the loop is dropped in one run, after it in the other.
fn at_exit(test: impl Fn() -> (Option<EventLoop>, AtExit) + Send + Clone + 'static) {
    with_watchdog(LIMIT, move || {
        for is_first in [true, false] {
            let test = test.clone();
            let thread = thread::spawn(move || {
                // The first use of each cell registers its destructor.
                locals::FIRST.with(|first| drop(first.borrow()));
                locals::KEPT.with(|kept| drop(kept.borrow()));
                locals::SECOND.with(|second| drop(second.borrow()));
                let (event_loop, last) = test();
                let cell = if is_first { &locals::FIRST } else { &locals::SECOND };
                cell.set(Some(Last(Some(last))));
                locals::KEPT.set(event_loop);
            });
            thread.join().unwrap();
        }
    });
}

fn last(call: impl FnOnce() + 'static) -> AtExit {
    AtExit(Box::new(call))
}

fn channel<T>() -> (Sender<T>, Receiver<T>) {
    mpsc::channel()
}

#[test]
fn a_handle_recognises_its_thread_until_the_loop_is_dropped() {
    let (sender, results) = channel();
    at_exit(move || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, sender) = (event_loop.handle(), sender.clone());
        let call = last(move || {
            let is_here = handle.is_in_loop_thread();
            let called = handle.call(|event_loop| event_loop.is_quitting());
            let posted = handle.queue_in_loop(|_| ()).is_ok();
            sender.send((is_here, called, posted)).unwrap();
        });
        (Some(event_loop), call)
    });
    let mut results: Vec<_> = results.iter().collect();
    results.sort_by_key(|(is_here, ..)| *is_here);
    // The loop is dropped before the closure is called in one of the two runs.
    assert_eq!(results, [(false, Err(CallError::LoopEnded), false), (true, Ok(false), true)]);
}

#[test]
fn a_loop_can_be_created_while_its_thread_ends() {
    let (sender, results) = channel();
    at_exit(move || {
        drop(EventLoop::new().unwrap());
        let sender = sender.clone();
        let call = last(move || {
            let event_loop = EventLoop::new().unwrap();
            let handle = event_loop.handle();
            assert!(EventLoop::new().is_err(), "the thread has two loops");
            event_loop.run_after(Duration::ZERO, |event_loop| event_loop.quit());
            event_loop.run().unwrap();
            let other = handle.clone();
            let poster = thread::spawn(move || other.call(|event_loop| event_loop.quit()));
            event_loop.run().unwrap();
            poster.join().unwrap().unwrap();
            let panicking = handle.call(|_| panic!("caught"));
            sender.send((handle.counters().panics, panicking)).unwrap();
        });
        (None, call)
    });
    assert_eq!(results.iter().collect::<Vec<_>>(), [(1, Err(CallError::Panicked)); 2]);
}

#[test]
fn a_loop_dropped_at_thread_end_permits_another_loop() {
    let (sender, results) = channel();
    at_exit(move || {
        let sender = sender.clone();
        (Some(EventLoop::new().unwrap()), last(move || sender.send(EventLoop::new().is_ok()).unwrap()))
    });
    let mut results: Vec<_> = results.iter().collect();
    results.sort_unstable();
    assert_eq!(results, [false, true]);
}

#[test]
fn loop_threads_can_be_created_while_a_thread_ends() {
    let (sender, results) = channel();
    at_exit(move || {
        let sender = sender.clone();
        let (kept, pool) = (LoopThread::spawn("kept").unwrap(), LoopPool::new(2, "pool"));
        let call = last(move || {
            let made = LoopThread::spawn("made").unwrap();
            let values =
                [made.handle().call(|_| 1), kept.handle().call(|_| 2), pool.unwrap().next().call(|_| 3)];
            made.join().unwrap();
            drop(kept);
            sender.send(values).unwrap();
        });
        (None, call)
    });
    assert_eq!(results.iter().collect::<Vec<_>>(), [[Ok(1), Ok(2), Ok(3)]; 2]);
}

#[test]
fn a_loop_thread_may_be_dropped_when_its_thread_ends() {
    with_watchdog(LIMIT, || {
        let (sender, handles) = channel::<LoopHandle>();
        let thread = LoopThread::spawn("own").unwrap();
        let handle = thread.handle().clone();
        let own = handle.clone();
        handle
            .queue_in_loop(move |_| {
                let (handle, sender) = (own, sender);
                locals::FIRST.set(Some(Last(Some(last(move || {
                    drop(thread);
                    sender.send(handle).unwrap();
                })))));
            })
            .unwrap();
        handle.quit();
        assert_eq!(handles.recv().unwrap().call(|_| 1), Err(CallError::LoopEnded));
    });
}

#[test]
fn files_can_be_read_while_a_thread_ends() {
    let (sender, results) = channel();
    at_exit(move || {
        let sender = sender.clone();
        let call = last(move || {
            let event_loop = EventLoop::new().unwrap();
            let files = FileIo::builder().backend(FileIoBackend::ThreadPool).build(&event_loop).unwrap();
            files.open("/dev/null", reveille::fs::OpenOptions::reading(), move |event_loop, opened| {
                sender.send(opened.is_ok()).unwrap();
                event_loop.quit();
            });
            event_loop.run().unwrap();
        });
        (None, call)
    });
    assert_eq!(results.iter().collect::<Vec<_>>(), [true, true]);
}
