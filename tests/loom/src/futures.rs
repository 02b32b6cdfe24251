//! A model of a spawned future: its result, the waker of its joiner, and the three parties that
//! share them.
//!
//! The code under test is the library's `tasks/future_state.rs`. The result and the waker are in
//! cells of loom, which reports two threads that use one at the same time.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::epoll::Epoll;

/// The operations of a future's state that the models use. For documentation see
/// `future_state.rs`.
#[expect(missing_docs, reason = "documented in future_state.rs")]
pub trait State: 'static {
    fn new(is_arriving: bool) -> Self;
    fn wake(&self) -> bool;
    fn abort(&self) -> bool;
    fn deliver(&self);
    fn is_aborted(&self) -> bool;
    /// Returns whether the result is unclaimed, and whether there is a joiner.
    fn complete(&self) -> (bool, bool);
    fn is_complete(&self) -> bool;
    fn publish(&self) -> bool;
    fn withdraw(&self) -> bool;
    fn release(&self) -> bool;
}

/// Builds the copy of the state in the module `$source` on loom's atomics. The result is a type
/// `LoomState`, which implements [`State`].
macro_rules! state_on_loom {
    ($source:ident) => {
        use loom::sync::atomic::{
            AtomicU32,
            Ordering::{AcqRel, Acquire},
        };

        impl $source::Word for AtomicU32 {
            fn new(value: u32) -> Self {
                AtomicU32::new(value)
            }

            fn load(&self) -> u32 {
                AtomicU32::load(self, Acquire)
            }

            fn fetch_or(&self, bits: u32) -> u32 {
                AtomicU32::fetch_or(self, bits, AcqRel)
            }

            fn fetch_and(&self, bits: u32) -> u32 {
                AtomicU32::fetch_and(self, bits, AcqRel)
            }
        }

        /// This copy of the state, on loom's atomics.
        #[derive(Debug)]
        pub struct LoomState($source::FutureState<AtomicU32>);

        impl $crate::futures::State for LoomState {
            fn new(is_arriving: bool) -> Self {
                LoomState($source::FutureState::new(is_arriving))
            }

            fn wake(&self) -> bool {
                self.0.wake()
            }

            fn abort(&self) -> bool {
                self.0.abort()
            }

            fn deliver(&self) {
                self.0.deliver();
            }

            fn is_aborted(&self) -> bool {
                self.0.is_aborted()
            }

            fn complete(&self) -> (bool, bool) {
                let completion = self.0.complete();
                (completion.is_unclaimed, completion.has_joiner)
            }

            fn is_complete(&self) -> bool {
                self.0.is_complete()
            }

            fn publish(&self) -> bool {
                self.0.publish()
            }

            fn withdraw(&self) -> bool {
                self.0.withdraw()
            }

            fn release(&self) -> bool {
                self.0.release()
            }
        }
    };
}

/// A future, whose result is a number, and what its parties use.
#[derive(Debug)]
pub struct Future<S> {
    /// The state under test.
    pub state: S,
    result: UnsafeCell<Option<usize>>,
    joiner: UnsafeCell<Option<usize>>,
    /// Ends the sleep of the loop.
    pub to_loop: Epoll,
    /// Ends the sleep of the joiner.
    to_joiner: Epoll,
    /// How often the loop has been notified.
    pub notices: AtomicUsize,
    /// How many results have been taken.
    pub results: AtomicUsize,
    /// How many of the joiner's wakers have been taken by the loop, or dropped by the handle.
    pub joiners: AtomicUsize,
}

/// The result of each future.
pub const RESULT: usize = 7;

impl<S: State> Future<S> {
    /// A future that has not completed.
    pub fn new(is_arriving: bool) -> Arc<Future<S>> {
        Arc::new(Future {
            state: S::new(is_arriving),
            result: UnsafeCell::new(None),
            joiner: UnsafeCell::new(None),
            to_loop: Epoll::default(),
            to_joiner: Epoll::default(),
            notices: AtomicUsize::new(0),
            results: AtomicUsize::new(0),
            joiners: AtomicUsize::new(0),
        })
    }

    /// Notifies the loop, if a wake-up or an abort requires it.
    pub fn notify_if(&self, is_needed: bool) {
        if is_needed {
            self.notices.fetch_add(1, Relaxed);
            self.to_loop.write();
        }
    }

    /// On the loop: sleeps until it is notified, and takes the wake-ups.
    pub fn wait_and_deliver(&self) {
        self.to_loop.poll(true);
        self.to_loop.drain();
        self.state.deliver();
    }

    /// On the loop: stores the result and completes.
    pub fn complete(&self) {
        self.result.with_mut(|result| set(result, Some(RESULT)));
        let (is_unclaimed, has_joiner) = self.state.complete();
        if has_joiner {
            let joiner = self.joiner.with_mut(take);
            assert!(joiner.is_some(), "a published waker must be present");
            self.joiners.fetch_add(1, Relaxed);
            self.to_joiner.write();
        }
        if is_unclaimed {
            self.take_result();
        }
    }

    /// For the join handle: polls with the waker `number`. Returns whether it has the result.
    pub fn poll(&self, number: usize) -> bool {
        if !self.state.withdraw() {
            self.joiner.with_mut(|joiner| set(joiner, Some(number)));
            if !self.state.publish() {
                return false;
            }
        }
        self.take_result();
        true
    }

    /// For the join handle: polls until it has the result.
    pub fn join(&self, first_polls: usize) {
        for number in 0..first_polls {
            if self.poll(number) {
                return;
            }
        }
        while !self.poll(first_polls) {
            self.to_joiner.poll(true);
            self.to_joiner.drain();
        }
    }

    /// Ends the join handle.
    pub fn release(&self) {
        if self.state.release() {
            self.take_result();
        } else {
            let joiner = self.joiner.with_mut(take);
            self.joiners.fetch_add(usize::from(joiner.is_some()), Relaxed);
        }
    }

    fn take_result(&self) {
        assert_eq!(self.result.with_mut(take), Some(RESULT), "the result must be present");
        self.results.fetch_add(1, Relaxed);
    }
}

#[allow(unsafe_code, reason = "loom's cells lend pointers")]
fn set(place: *mut Option<usize>, value: Option<usize>) {
    // SAFETY: loom checks that no other thread uses the cell meanwhile.
    unsafe { *place = value }
}

#[allow(unsafe_code, reason = "loom's cells lend pointers")]
fn take(place: *mut Option<usize>) -> Option<usize> {
    // SAFETY: loom checks that no other thread uses the cell meanwhile.
    unsafe { (*place).take() }
}
