//! Claims about a spawned future: no wake-up is lost, and its result and the joiner's waker each
//! have one owner at a time.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;

use super::explore;
use crate::futures::{Future, State};

/// Two threads each store a value and wake the future. The loop polls until it has seen both, so a
/// lost wake-up is a deadlock. Two wake-ups cause two notices at most.
pub fn a_poll_after_a_wake_up_sees_what_preceded_it<S: State>() {
    explore(Some(3), &["one notice", "two notices"], |outcomes| {
        let future = Future::<S>::new(false);
        let values = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads = [0, 1].map(|number| {
            let (future, values) = (Arc::clone(&future), Arc::clone(&values));
            thread::spawn(move || {
                values[number].store(1, Relaxed);
                future.notify_if(future.state.wake());
            })
        });
        while values.iter().map(|value| value.load(Relaxed)).sum::<usize>() < 2 {
            future.wait_and_deliver();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        outcomes.note(["no notice", "one notice", "two notices"][future.notices.load(Relaxed)]);
    });
}

/// Wake-ups that the loop has not taken are coalesced, and one after the completion has no effect.
pub fn wake_ups_are_coalesced_until_they_are_taken<S: State>() {
    explore(None, &[], |_| {
        let future = Future::<S>::new(false);
        let waking = Arc::clone(&future);
        let thread = thread::spawn(move || {
            waking.notify_if(waking.state.wake());
            waking.notify_if(waking.state.wake());
        });
        thread.join().unwrap();
        assert_eq!(future.notices.load(Relaxed), 1, "two wake-ups must cause one notice");
        future.wait_and_deliver();
        future.notify_if(future.state.wake());
        assert_eq!(future.notices.load(Relaxed), 2, "a later wake-up must cause another one");
        future.wait_and_deliver();
        future.complete();
        future.notify_if(future.state.wake());
        future.notify_if(future.state.abort());
        assert_eq!(future.notices.load(Relaxed), 2, "an ended future must not be woken");
    });
}

/// An abort reaches the loop: with the arrival of the future, or by a notice. A notice needs the
/// key that the loop has stored before.
pub fn an_abort_is_found_by_the_loop<S: State>() {
    explore(None, &["with the arrival", "by a notice"], |outcomes| {
        let (future, key) = (Future::<S>::new(true), Arc::new(AtomicUsize::new(0)));
        let (aborting, stored) = (Arc::clone(&future), Arc::clone(&key));
        let thread = thread::spawn(move || {
            let must_notify = aborting.state.abort();
            assert!(!must_notify || stored.load(Relaxed) == 1, "a notice before the arrival");
            aborting.notify_if(must_notify);
        });
        key.store(1, Relaxed);
        future.state.deliver();
        let is_aborted = future.state.is_aborted();
        outcomes.note(if is_aborted { "with the arrival" } else { "by a notice" });
        while !future.state.is_aborted() {
            future.wait_and_deliver();
        }
        thread.join().unwrap();
    });
}

/// A join handle on another thread gets the result once, however often it changes its waker.
pub fn a_join_handle_gets_the_result<S: State>() {
    explore(Some(3), &[], |_| {
        let future = Future::<S>::new(false);
        let joining = Arc::clone(&future);
        let thread = thread::spawn(move || joining.join(1));
        future.complete();
        thread.join().unwrap();
        assert!(future.state.is_complete());
        assert_eq!(future.results.load(Relaxed), 1, "the result must be taken once");
    });
}

/// If the join handle is dropped while the future completes, one of the two takes the result, and
/// one of the two takes a published waker.
pub fn a_result_without_a_handle_is_dropped_once<S: State>() {
    explore(None, &["waker taken", "waker left"], |outcomes| {
        let future = Future::<S>::new(false);
        let joining = Arc::clone(&future);
        let thread = thread::spawn(move || {
            if !joining.poll(0) {
                joining.release();
            }
        });
        future.complete();
        thread.join().unwrap();
        assert_eq!(future.results.load(Relaxed), 1, "the result must be taken once");
        // A waker that was stored too late to be published is dropped with the allocation.
        let joiners = future.joiners.load(Relaxed);
        assert!(joiners <= 1, "a waker must be taken once");
        outcomes.note(if joiners == 1 { "waker taken" } else { "waker left" });
    });
}
