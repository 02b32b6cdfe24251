//! Loops and handles in the destructors of thread-locals, which run when their thread ends, in an
//! order that nobody chooses.

mod support;

use std::cell::RefCell;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use reveille::fs::{FileIo, FileIoBackend};
use reveille::task::CallError;
use reveille::{EventLoop, LoopHandle, LoopPool, LoopThread};
use support::{LIMIT, with_watchdog};

/// Calls a closure in a destructor of a thread-local.
struct AtExit(Box<dyn FnOnce()>);

/// Two cells of each kind, as destructors run in an order that depends on which was used first.
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

/// Calls when it is dropped.
struct Last(Option<AtExit>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.take().expect("one drop").call();
    }
}

/// Runs `test` on a thread, with what it returns called in a thread-local's destructor: both before
/// and after the destructor of one that keeps the loop that `test` returns.
fn at_exit(test: impl Fn() -> (Option<EventLoop>, AtExit) + Send + Clone + 'static) {
    with_watchdog(LIMIT, move || {
        for is_first in [true, false] {
            let test = test.clone();
            let thread = thread::spawn(move || {
                // The first use registers the destructor.
                locals::FIRST.with(|first| drop(first.borrow()));
                locals::KEPT.with(|kept| drop(kept.borrow()));
                locals::SECOND.with(|second| drop(second.borrow()));
                let (event_loop, last) = test();
                let place = if is_first { &locals::FIRST } else { &locals::SECOND };
                place.set(Some(Last(Some(last))));
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
fn a_handle_knows_its_thread_until_the_loop_has_gone() {
    let (tell, told) = channel();
    at_exit(move || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, tell) = (event_loop.handle(), tell.clone());
        let call = last(move || {
            let is_here = handle.is_in_loop_thread();
            let called = handle.call(|event_loop| event_loop.is_quitting());
            let posted = handle.queue_in_loop(|_| ()).is_ok();
            tell.send((is_here, called, posted)).unwrap();
        });
        (Some(event_loop), call)
    });
    let mut told: Vec<_> = told.iter().collect();
    told.sort_by_key(|(is_here, ..)| *is_here);
    // One of the two orders has the loop dropped first.
    assert_eq!(told, [(false, Err(CallError::LoopGone), false), (true, Ok(false), true)]);
}

#[test]
fn a_loop_can_be_made_and_run_while_its_thread_ends() {
    let (tell, told) = channel();
    at_exit(move || {
        drop(EventLoop::new().unwrap());
        let tell = tell.clone();
        let call = last(move || {
            let event_loop = EventLoop::new().unwrap();
            let handle = event_loop.handle();
            assert!(EventLoop::new().is_err(), "the thread has one");
            event_loop.run_after(Duration::ZERO, |event_loop| event_loop.quit());
            event_loop.run().unwrap();
            let other = handle.clone();
            let poster = thread::spawn(move || other.call(|event_loop| event_loop.quit()));
            event_loop.run().unwrap();
            poster.join().unwrap().unwrap();
            let panicking = handle.call(|_| panic!("caught"));
            tell.send((handle.counters().panics, panicking)).unwrap();
        });
        (None, call)
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), [(1, Err(CallError::Panicked)); 2]);
}

#[test]
fn a_loop_dropped_by_the_end_of_its_thread_leaves_room_for_another() {
    let (tell, told) = channel();
    at_exit(move || {
        let tell = tell.clone();
        (Some(EventLoop::new().unwrap()), last(move || tell.send(EventLoop::new().is_ok()).unwrap()))
    });
    let mut told: Vec<_> = told.iter().collect();
    told.sort_unstable();
    assert_eq!(told, [false, true]);
}

#[test]
fn threads_with_loops_can_be_made_and_dropped_while_a_thread_ends() {
    let (tell, told) = channel();
    at_exit(move || {
        let tell = tell.clone();
        let (kept, pool) = (LoopThread::spawn("kept").unwrap(), LoopPool::new(2.try_into().unwrap(), "pool"));
        let call = last(move || {
            let made = LoopThread::spawn("made").unwrap();
            let answers =
                [made.handle().call(|_| 1), kept.handle().call(|_| 2), pool.unwrap().next().call(|_| 3)];
            made.join().unwrap();
            drop(kept);
            tell.send(answers).unwrap();
        });
        (None, call)
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), [[Ok(1), Ok(2), Ok(3)]; 2]);
}

#[test]
fn a_loop_thread_may_be_dropped_by_the_end_of_its_own_thread() {
    with_watchdog(LIMIT, || {
        let (tell, told) = channel::<LoopHandle>();
        let thread = LoopThread::spawn("own").unwrap();
        let handle = thread.handle().clone();
        let own = handle.clone();
        handle
            .queue_in_loop(move |_| {
                let (handle, tell) = (own, tell);
                locals::FIRST.set(Some(Last(Some(last(move || {
                    drop(thread);
                    tell.send(handle).unwrap();
                })))));
            })
            .unwrap();
        handle.quit();
        assert_eq!(told.recv().unwrap().call(|_| 1), Err(CallError::LoopGone));
    });
}

#[test]
fn files_can_be_read_while_a_thread_ends() {
    let (tell, told) = channel();
    at_exit(move || {
        let tell = tell.clone();
        let call = last(move || {
            let event_loop = EventLoop::new().unwrap();
            let files = FileIo::builder().backend(FileIoBackend::ThreadPool).build(&event_loop).unwrap();
            files.open("/dev/null", reveille::fs::OpenOptions::reading(), move |event_loop, opened| {
                tell.send(opened.is_ok()).unwrap();
                event_loop.quit();
            });
            event_loop.run().unwrap();
        });
        (None, call)
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), [true, true]);
}
