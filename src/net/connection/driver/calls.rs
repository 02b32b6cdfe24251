//! Runs the calls of a connection's handler that are made from outside its callbacks.

use super::{Call, ConnectionDriver, ConnectionHandler};
use crate::event_loop::EventLoop;
use crate::net::connection::TcpConnection;
use crate::net::result::CloseReason;

impl<H: ConnectionHandler> ConnectionDriver<H> {
    /// Runs the requests of handles, and the calls that are waiting now, in order. While a callback
    /// is running, only the requests before the first call.
    pub(super) fn run_requests(&self, event_loop: &EventLoop) {
        let core = &self.core;
        // Calls that are made meanwhile wait for the next task, so that they starve nothing.
        let limit = if self.is_callable() { core.waiting_calls() } else { 0 };
        let mut is_running = false;
        for number in 0..=limit {
            let Some(call) = core.advance(event_loop, is_running, number < limit) else { break };
            self.run_call(event_loop, call);
            is_running = true;
        }
        // While there is no handler yet, the calls wait until the connection is open.
        if self.handler.try_borrow().map_or(true, |handler| handler.is_some()) {
            core.run_calls_later(event_loop);
        }
    }

    /// Whether there is a handler, and none of its callbacks is running.
    pub(super) fn is_callable(&self) -> bool {
        self.handler.try_borrow().is_ok_and(|handler| handler.is_some())
    }

    pub(super) fn run_call(&self, event_loop: &EventLoop, call: Call) {
        let returned = event_loop.catch_in("a call of a handler", self, || {
            let mut handler = self.handler.borrow_mut();
            let Some(handler) = handler.as_mut() else { return };
            let locate = H::locate(call.wanted()).expect("the type was checked when the call was accepted");
            let conn = TcpConnection::new(event_loop, &self.core);
            let call = || call.run(locate(handler), &conn);
            let returned = self.core.collecting_for_turn(event_loop, call);
            if let Err(error) = returned {
                self.core.end_with_error(event_loop, error);
            }
        });
        if returned.is_none() {
            self.core.close(event_loop, CloseReason::Panicked);
        }
    }
}
