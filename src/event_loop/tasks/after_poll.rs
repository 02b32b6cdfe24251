//! Sources that act when the present poll of a spawned future has returned: the output that the
//! future has sent leaves then, in one system call for each connection.

use std::cell::{Cell, RefCell};

use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;

#[derive(Debug, Default)]
pub(in crate::event_loop) struct AfterPoll {
    is_polling: Cell<bool>,
    has_due: Cell<bool>,
    due: RefCell<Vec<ChannelId>>,
}

impl EventLoop {
    /// Whether the loop is polling a spawned future, and calls sources after the poll.
    #[inline]
    pub(crate) fn is_polling(&self) -> bool {
        self.inner.after_poll.is_polling.get()
    }

    /// Schedules a call of the source's [`on_polled`](crate::event_loop::Source::on_polled). Only
    /// while a spawned future is [being polled](EventLoop::is_polling).
    pub(crate) fn call_after_poll(&self, id: ChannelId) {
        debug_assert!(self.is_polling());
        self.inner.after_poll.has_due.set(true);
        self.inner.after_poll.due.borrow_mut().push(id);
    }

    /// Withdraws the latest request to [call](EventLoop::call_after_poll) a source. Returns whether
    /// it was that of the source `id`.
    pub(crate) fn withdraw_after_poll(&self, id: ChannelId) -> bool {
        let mut due = self.inner.after_poll.due.borrow_mut();
        let is_latest = due.last() == Some(&id);
        if is_latest {
            due.pop();
        }
        self.inner.after_poll.has_due.set(!due.is_empty());
        is_latest
    }

    pub(super) fn begin_polling(&self) {
        self.inner.after_poll.is_polling.set(true);
    }

    pub(super) fn end_polling(&self) {
        self.inner.after_poll.is_polling.set(false);
    }

    /// Called after each poll.
    #[inline]
    pub(super) fn finish_poll(&self) {
        if self.inner.after_poll.has_due.replace(false) {
            self.call_polled();
        }
    }

    fn call_polled(&self) {
        loop {
            let due = self.inner.after_poll.due.borrow_mut().pop();
            let Some(id) = due else { return };
            let source = self.inner.channels.borrow().get(id).cloned();
            if let Some(source) = source {
                // A filter of the connection is user code.
                let returned = self.catch_in("a filter's output", &*source, || source.on_polled(self));
                if returned.is_none() {
                    self.close_after_panic(id, &source);
                }
            }
        }
    }
}
