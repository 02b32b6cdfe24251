//! What a client has been given to send, or to call, while it has no session.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::Connector;
use crate::event_loop::{EventLoop, Refused};
use crate::net::connection::driver::{Call, Waiting};
use crate::net::connection::{ConnectionHandle, TcpConnection};
use crate::net::result::{IntoHandlerResult, SendError, WithError};

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

    /// Drops what waits. It is still counted.
    pub(super) fn release(&self) {
        let waiting = self.waiting.take();
        drop(waiting);
    }

    /// The numbers of bytes and of calls that wait, or were dropped in the end.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.bytes.get(), self.calls.get())
    }
}

impl Connector {
    /// The session, if it can be given sends and calls.
    fn ready_session(&self) -> Option<ConnectionHandle> {
        self.handle().filter(|_| self.waiting.is_session_ready.get())
    }

    /// The numbers of bytes and of calls that no session was given.
    pub(in crate::net) fn waiting(&self) -> (usize, usize) {
        self.waiting.len()
    }

    pub(in crate::net) fn send(&self, bytes: Vec<u8>) -> Result<(), Refused<Vec<u8>, SendError>> {
        match self.ready_session() {
            Some(session) => session.send(bytes),
            None if !self.expects_session() => Err(Refused::new(bytes, SendError::Closed)),
            None => self.waiting.push_bytes(bytes),
        }
    }

    pub(in crate::net) fn with<H, F, R>(
        &self,
        event_loop: &EventLoop,
        call: F,
    ) -> Result<(), Refused<F, WithError>>
    where
        H: 'static,
        F: FnOnce(&mut H, &TcpConnection<'_>) -> R + 'static,
        R: IntoHandlerResult,
    {
        if !(self.has_handler)(TypeId::of::<H>()) {
            return Err(Refused::new(call, WithError::WrongHandler));
        }
        match self.ready_session() {
            Some(session) => session.with_local(event_loop, call),
            None if !self.expects_session() => Err(Refused::new(call, WithError::Closed)),
            None => self.waiting.push_call(call, |call| Waiting::Call(Call::new(call))),
        }
    }
}
