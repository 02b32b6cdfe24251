//! The part of a spawned future that does not depend on its type: how it is woken.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::task::Waker;

use super::future_state::{Completion, FutureState, Word};
use super::future_table::FutureKey;
use super::ready_queue::{self, LoopAddress, Pushed};
use super::task::SendTask;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::{Contained, catch};
use crate::event_loop::shared::Shared;

impl Word for AtomicU32 {
    fn new(value: u32) -> Self {
        AtomicU32::new(value)
    }

    #[inline]
    fn load(&self) -> u32 {
        self.load(Acquire)
    }

    #[inline]
    fn fetch_or(&self, bits: u32) -> u32 {
        self.fetch_or(bits, AcqRel)
    }

    #[inline]
    fn fetch_and(&self, bits: u32) -> u32 {
        self.fetch_and(bits, AcqRel)
    }
}

/// See the [module](self). It is used on any thread, except where stated.
pub(super) struct Header {
    /// The loop. A late waker keeps this state alive, and finds that the future has ended.
    shared: Arc<Shared>,
    /// The key in the loop's table. Set on the loop's thread before the first delivery.
    key: AtomicU64,
    pub(super) state: FutureState<AtomicU32>,
    /// The future is in the ready queue, or has ended. Only the loop's thread uses it, so plain
    /// loads and stores are enough, and a wake-up there costs no locked instruction.
    is_queued: AtomicBool,
}

impl Header {
    /// On the loop's thread.
    pub(super) fn here(event_loop: &EventLoop) -> Header {
        Header::new(&event_loop.inner.shared, false)
    }

    /// On any thread.
    pub(super) fn arriving(shared: &Arc<Shared>) -> Header {
        Header::new(shared, true)
    }

    fn new(shared: &Arc<Shared>, is_arriving: bool) -> Header {
        Header {
            shared: Arc::clone(shared),
            key: AtomicU64::new(0),
            state: FutureState::new(is_arriving),
            is_queued: AtomicBool::new(false),
        }
    }

    fn home(&self) -> LoopAddress {
        self.shared.address()
    }

    /// Whether this is the loop's thread, and the loop has not ended.
    #[inline]
    pub(super) fn is_home(&self) -> bool {
        ready_queue::is_home(self.home())
    }

    #[inline]
    pub(super) fn assert_home(&self) {
        assert!(self.is_home(), "a spawned future is used on a thread that is not its loop's");
    }

    /// Whether this is a forked child of the loop's process.
    pub(super) fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// On the loop's thread.
    pub(super) fn set_key(&self, key: FutureKey) {
        self.key.store(key.to_bits(), Relaxed);
    }

    fn key(&self) -> FutureKey {
        FutureKey::from_bits(self.key.load(Relaxed))
    }

    /// Makes the loop poll the future.
    #[inline]
    pub(super) fn wake(&self) {
        if self.is_home() {
            self.queue();
        } else if !self.is_inherited() && self.state.wake() {
            self.notify();
        }
    }

    /// Makes the loop drop the future.
    pub(super) fn abort(&self) {
        if self.is_inherited() {
            return;
        }
        let must_notify = self.state.abort();
        if must_notify {
            if self.is_home() {
                self.state.deliver();
                self.queue();
            } else {
                self.notify();
            }
        }
    }

    #[cold]
    fn notify(&self) {
        let key = self.key();
        let task = SendTask::new(move |event_loop: &EventLoop| event_loop.deliver_wake(key));
        // A loop that has ended has dropped the future.
        if let Ok(wake) = self.shared.tasks.push_internal(task) {
            self.shared.wake(wake);
        }
    }

    /// On the loop's thread: puts the future into the ready queue, unless it is there.
    #[inline]
    pub(super) fn queue(&self) {
        if self.is_queued.load(Relaxed) {
            return;
        }
        self.is_queued.store(true, Relaxed);
        if ready_queue::push(self.key()) == Pushed::First {
            signal_work();
        }
    }

    /// On the loop's thread: the future has been taken from the ready queue.
    #[inline]
    pub(super) fn leave_queue(&self) {
        self.is_queued.store(false, Relaxed);
    }

    /// On the loop's thread.
    pub(super) fn complete(&self) -> Completion {
        // Later wake-ups of this thread have no effect.
        self.is_queued.store(true, Relaxed);
        self.state.complete()
    }

    /// On the loop's thread. A forked child does not call the waker, which may take a lock that a
    /// thread of the parent held.
    pub(super) fn wake_joiner(&self, joiner: Option<Contained<Waker>>) {
        let Some(joiner) = joiner.map(Contained::into_inner) else { return };
        if self.is_inherited() {
            std::mem::forget(joiner);
        } else if let Err(payload) = catch("a waker", || joiner.wake()) {
            EventLoop::observe_panic(payload);
        }
    }
}

/// The ready queue was empty. The loop may be between two turns.
fn signal_work() {
    if let Some(event_loop) = EventLoop::current() {
        event_loop.signal_work();
    }
}
