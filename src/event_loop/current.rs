//! The loop of this thread.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::rc::Weak;
use std::time::Instant;

use super::{EventLoop, Inner};
use crate::event_loop::tasks::ready_queue;

thread_local! {
    /// The loop of this thread. It prevents a second one, and lets a handle find the loop when it
    /// is used on the loop's thread.
    ///
    /// It has no destructor, so it exists as long as the thread does: destructors of other
    /// thread-locals may still use the loop or create one. The drop of the loop clears it.
    pub(super) static CURRENT: RefCell<ManuallyDrop<Weak<Inner>>> = const { RefCell::new(ManuallyDrop::new(Weak::new())) };
}

impl EventLoop {
    /// The time of this thread's loop. On a thread without a loop, the time of the system's
    /// monotonic clock.
    pub(super) fn current_time() -> Instant {
        EventLoop::current().map_or_else(Instant::now, |event_loop| event_loop.now())
    }

    /// The loop of this thread, until it has been dropped.
    pub(super) fn current() -> Option<EventLoop> {
        CURRENT.with_borrow(|current| current.upgrade()).map(|inner| EventLoop { inner })
    }

    pub(super) fn set_current(inner: Weak<Inner>) {
        ready_queue::set_home(inner.upgrade().map_or(0, |inner| inner.shared.address()));
        drop(ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(inner))));
    }
}
