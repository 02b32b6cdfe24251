//! What a client has been given to send, or to call, while it has no session.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::event_loop::Refused;
use crate::net::connection::driver::Waiting;
use crate::net::result::{SendError, WithError};

/// The maximum numbers of bytes and of calls that wait for a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct QueueLimits {
    pub(in crate::net) bytes: usize,
    pub(in crate::net) calls: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits { bytes: 1024 * 1024, calls: 1024 }
    }
}

/// Sends and calls that wait for a session, in order.
pub(super) struct WaitingQueue {
    limits: QueueLimits,
    waiting: RefCell<VecDeque<Waiting>>,
    bytes: Cell<usize>,
    calls: Cell<usize>,
    /// The session has been given what waited, so later sends and calls go to it directly.
    pub(super) is_session_ready: Cell<bool>,
}

impl WaitingQueue {
    pub(super) fn new(limits: QueueLimits) -> WaitingQueue {
        WaitingQueue {
            limits,
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            calls: Cell::new(0),
            is_session_ready: Cell::new(false),
        }
    }

    pub(super) fn push_bytes(&self, bytes: Vec<u8>) -> Result<(), Refused<Vec<u8>, SendError>> {
        if bytes.len() > self.limits.bytes.saturating_sub(self.bytes.get()) {
            return Err(Refused::new(bytes, SendError::Full));
        }
        self.bytes.set(self.bytes.get() + bytes.len());
        self.waiting.borrow_mut().push_back(Waiting::Bytes(bytes));
        Ok(())
    }

    pub(super) fn push_call<F>(
        &self,
        call: F,
        convert: impl FnOnce(F) -> Waiting,
    ) -> Result<(), Refused<F, WithError>> {
        if self.calls.get() >= self.limits.calls {
            return Err(Refused::new(call, WithError::Full));
        }
        self.calls.set(self.calls.get() + 1);
        self.waiting.borrow_mut().push_back(convert(call));
        Ok(())
    }

    pub(super) fn take(&self) -> VecDeque<Waiting> {
        self.bytes.set(0);
        self.calls.set(0);
        self.waiting.take()
    }

    /// The numbers of bytes and of calls.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.bytes.get(), self.calls.get())
    }
}
