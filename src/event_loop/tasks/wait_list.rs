//! The futures of this thread that wait for one condition.
//!
//! The list allocates only if it grows: the storage of the last waits is kept for the next ones.

use std::cell::{Cell, RefCell};
use std::mem;
use std::task::{Context, Waker};

use crate::event_loop::EventLoop;
use crate::event_loop::containment::{Contained, catch};

/// The wakers of the waiting futures, in the order in which they began to wait.
#[derive(Default)]
pub(crate) struct WaitList {
    waiting: RefCell<Vec<Waiting>>,
    next: Cell<u64>,
}

struct Waiting {
    number: u64,
    waker: Contained<Waker>,
}

/// The place of a future in a [`WaitList`]. Empty before the first wait.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

impl Place {
    /// Whether the future has ever waited.
    pub(crate) fn is_taken(&self) -> bool {
        self.0.is_some()
    }
}

impl WaitList {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Adds the caller of a poll, or replaces its waker.
    pub(crate) fn wait(&self, place: &mut Place, context: &Context<'_>) {
        let has = |waiting: &Waiting| Some(waiting.number) == place.0;
        let position = self.waiting.borrow().iter().position(has);
        match position {
            Some(at) if self.waiting.borrow()[at].waker.will_wake(context.waker()) => {}
            Some(_) => {
                // Wakers are user code, so they are cloned and dropped with nothing borrowed.
                let waker = Contained::new(context.waker().clone());
                let mut waiting = self.waiting.borrow_mut();
                let waiting_again = waiting.iter_mut().find(|waiting| has(waiting));
                let replaced = waiting_again.map(|waiting| mem::replace(&mut waiting.waker, waker));
                drop((waiting, replaced));
            }
            None => {
                let waker = Contained::new(context.waker().clone());
                let number = self.next.get();
                self.next.set(number + 1);
                self.waiting.borrow_mut().push(Waiting { number, waker });
                place.0 = Some(number);
            }
        }
    }

    /// Removes a future that no longer waits. It may have been woken before.
    pub(crate) fn leave(&self, place: &mut Place) {
        let Some(number) = place.0.take() else { return };
        let mut waiting = self.waiting.borrow_mut();
        let position = waiting.iter().position(|waiting| waiting.number == number);
        let removed = position.map(|at| waiting.remove(at));
        drop(waiting);
        drop(removed);
    }

    /// Wakes all futures that are waiting now. They are no longer in the list.
    pub(crate) fn wake_all(&self) {
        let mut woken = self.waiting.take();
        for waiting in woken.drain(..) {
            wake(waiting.waker);
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.capacity() == 0 {
            *waiting = woken;
        }
    }
}

/// Calls a waker, which is user code.
pub(super) fn wake(waker: Contained<Waker>) {
    if let Err(payload) = catch("a waker", || waker.into_inner().wake()) {
        EventLoop::observe_panic(payload);
    }
}

/// Same as [`wake`], for a waker that is kept.
pub(crate) fn wake_by_ref(waker: &Waker) {
    if let Err(payload) = catch("a waker", || waker.wake_by_ref()) {
        EventLoop::observe_panic(payload);
    }
}
