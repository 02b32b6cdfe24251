//! [`KeepOpen`]: work that is outstanding when the peer has finished.

use std::fmt;

use super::ConnectionCore;
use super::handle::ConnectionHandle;
use super::mailbox::Request;
use crate::event_loop::EventLoop;

/// Declares outstanding work of a connection, such as a reply that another thread computes.
///
/// While a value exists, the peer's half-close does not end the connection: the default
/// [`on_peer_shutdown`](crate::ConnectionHandler::on_peer_shutdown) and the stop of a server shut
/// the connection down when the last value has been dropped, after everything sent before. Returned
/// by [`TcpConnection::keep_open`](super::TcpConnection::keep_open). Can be sent to any thread.
///
/// It does not prevent a close: a [`close`](super::TcpConnection::close), an error, a deadline.
#[must_use = "the work counts as finished when this is dropped"]
pub struct KeepOpen {
    handle: ConnectionHandle,
}

impl Drop for KeepOpen {
    fn drop(&mut self) {
        self.handle.end_work();
    }
}

impl fmt::Debug for KeepOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepOpen").field("connection", &self.handle.id()).finish()
    }
}

impl ConnectionHandle {
    fn end_work(&self) {
        // After a fork, a thread that exists only in the parent may hold the mailbox's lock.
        if !self.event_loop().is_inherited() && self.mailbox().end_work() {
            // A closed connection waits for nothing.
            let _ = self.request(Request::WorkEnded);
        }
    }
}

impl ConnectionCore {
    pub(super) fn keep_open(&self) -> KeepOpen {
        self.mailbox().begin_work();
        KeepOpen { handle: self.handle() }
    }

    /// Shuts the connection down when no work is outstanding.
    pub(super) fn shutdown_after_work(&self, event_loop: &EventLoop) {
        self.is_shutdown_due.set(true);
        self.shut_down_if_due(event_loop);
    }

    pub(super) fn shut_down_if_due(&self, event_loop: &EventLoop) {
        let must_wait = self.mailbox.get().is_some_and(|mailbox| mailbox.await_work());
        if self.is_shutdown_due.get() && !must_wait {
            self.shutdown(event_loop);
        }
    }
}
