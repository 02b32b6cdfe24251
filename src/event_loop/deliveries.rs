//! Deliveries: data for several sources of a loop, which none of them holds yet.
//!
//! Such data must not outlast a source that it is for. So a delivery does not depend on its task:
//! a source that is about to end runs all deliveries of its loop first, and so does a loop that is
//! dropped.

use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;

use super::EventLoop;
use super::handle::LoopHandle;

/// Data on its way to a loop.
pub(crate) trait Deliver: Send + Sync {
    /// Passes the data to the sources on this loop. Calls no user code.
    fn deliver(&self, event_loop: &EventLoop);
}

/// The deliveries that a loop has not run yet.
#[derive(Default)]
pub(super) struct Deliveries {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    waiting: Vec<Arc<dyn Deliver>>,
    is_closed: bool,
}

impl Deliveries {
    /// Returns whether the delivery is the first, or `None` if the loop has ended.
    fn add(&self, delivery: Arc<dyn Deliver>) -> Option<bool> {
        let mut content = self.content.lock();
        if content.is_closed {
            return None;
        }
        content.waiting.push(delivery);
        Some(content.waiting.len() == 1)
    }

    /// Refuses all later deliveries.
    pub(super) fn close(&self) {
        self.content.lock().is_closed = true;
    }

    fn take(&self) -> Vec<Arc<dyn Deliver>> {
        mem::take(&mut self.content.lock().waiting)
    }
}

impl LoopHandle {
    /// Adds a delivery. Returns whether it is the first, so that the loop must be
    /// [notified](LoopHandle::notify_of_deliveries), or `None` if the loop has ended. Calls no user
    /// code. Must not be called in a forked child.
    pub(crate) fn add_delivery(&self, delivery: Arc<dyn Deliver>) -> Option<bool> {
        self.deliveries().add(delivery)
    }

    /// Makes the loop run its deliveries in the task phase. Must not be called under a lock.
    pub(crate) fn notify_of_deliveries(&self) {
        // A loop that has ended meanwhile has run them.
        self.post_internal(EventLoop::run_deliveries);
    }
}

impl EventLoop {
    /// Runs the deliveries that have been added so far. Without effect inside a delivery, which
    /// could otherwise be overtaken by a later one of the same sender.
    pub(crate) fn run_deliveries(&self) {
        let inner = &*self.inner;
        if !self.is_inherited() && !inner.is_delivering.replace(true) {
            for delivery in inner.shared.deliveries.take() {
                delivery.deliver(self);
            }
            inner.is_delivering.set(false);
        }
    }
}
