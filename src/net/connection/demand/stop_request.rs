//! The request to stop a byte stream, and the futures that wait for it.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use crate::event_loop::containment::Contained;

/// Whether a stream is to stop.
#[derive(Default)]
pub(in crate::net) struct StopRequest {
    is_made: Cell<bool>,
    /// A future waits for the request, or has waited. The stream then continues to read after it.
    is_expected: Cell<bool>,
    /// The futures that wait, each at a place of its own.
    waiting: RefCell<Vec<Option<Contained<Waker>>>>,
}

impl StopRequest {
    pub(in crate::net) fn expect(&self) {
        self.is_expected.set(true);
    }

    pub(in crate::net) fn is_expected(&self) -> bool {
        self.is_expected.get()
    }

    pub(in crate::net) fn is_made(&self) -> bool {
        self.is_made.get()
    }

    /// Makes the request and wakes the futures that wait.
    pub(in crate::net) fn make(&self) {
        self.is_made.set(true);
        // A waker may be of any executor.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.iter().flatten().for_each(|waker| waker.wake_by_ref());
    }

    /// Waits at `place`, which the first call assigns.
    pub(in crate::net) fn listen(&self, place: &mut Option<usize>, context: &Context<'_>) {
        let waker = Contained::new(context.waker().clone());
        let mut waiting = self.waiting.borrow_mut();
        let at = *place.get_or_insert_with(|| {
            let free = waiting.iter().position(Option::is_none);
            free.unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            })
        });
        let former = waiting[at].replace(waker);
        drop(waiting);
        drop(former);
    }

    /// Gives a place back.
    pub(in crate::net) fn leave(&self, place: usize) {
        let former = self.waiting.borrow_mut().get_mut(place).and_then(Option::take);
        drop(former);
    }
}
