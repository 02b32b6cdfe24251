//! What a connection sends.
//!
//! Bytes go to the kernel at once if nothing is queued before them, and else behind the queue. The queue is bounded: what
//! would pass the limit is refused whole, so that a stream never has a hole in it.

use std::os::fd::AsFd;

use super::{Core, OUTPUT, State};
use crate::event_loop::EventLoop;
use crate::net::outcome::{CloseReason, SendError, Sent};
use crate::net::socket::{self, Transferred};

impl Core {
    pub(super) fn send(&self, event_loop: &EventLoop, bytes: &[u8]) -> Result<Sent, SendError> {
        if self.state.get() != State::Open {
            return Err(SendError::Closed);
        }
        let mut unsent = self.unsent.borrow_mut();
        let limits = &self.membership.group().limits;
        if bytes.len() > limits.max_unsent - unsent.len() {
            return Err(SendError::Full);
        }
        let mut rest = bytes;
        if unsent.is_empty() {
            match socket::send(self.fd.as_fd(), bytes) {
                Ok(Transferred::Bytes(n)) => {
                    self.note_activity(event_loop);
                    if n == bytes.len() {
                        return Ok(Sent::Written);
                    }
                    rest = &bytes[n..];
                }
                Ok(Transferred::WouldBlock) => {}
                Err(error) => {
                    drop(unsent);
                    self.close(event_loop, CloseReason::Error(error));
                    return Err(SendError::Closed);
                }
            }
            // The kernel's buffer is full, and it will say when that is over.
            event_loop.clear_ready(self.id, OUTPUT);
        }
        unsent.append(rest);
        if unsent.len() > limits.high_water {
            self.held_back.set(!self.discarding.get());
        }
        drop(unsent);
        self.update_wanted(event_loop);
        Ok(Sent::Queued)
    }

    /// Whether there is anything to flush, or to say. Usually not: a socket is nearly always writable when it becomes
    /// readable.
    #[inline]
    pub(in crate::net) fn has_output(&self) -> bool {
        self.wants_drained.get() || !self.unsent.borrow().is_empty()
    }

    /// Sends what is queued, as far as the kernel takes it. Answers whether the handler is to be told that all is sent.
    pub(in crate::net) fn flush(&self, event_loop: &EventLoop) -> bool {
        let mut unsent = self.unsent.borrow_mut();
        if unsent.is_empty() {
            drop(unsent);
            let asked = self.wants_drained.replace(false);
            self.update_wanted(event_loop);
            return asked;
        }
        match socket::send(self.fd.as_fd(), unsent.readable()) {
            Ok(Transferred::Bytes(n)) => {
                unsent.consume(n);
                self.note_activity(event_loop);
            }
            Ok(Transferred::WouldBlock) => {}
            Err(error) => {
                drop(unsent);
                self.close(event_loop, CloseReason::Error(error));
                return false;
            }
        }
        let left = unsent.len();
        if left == 0 {
            unsent.release();
        }
        drop(unsent);
        if left <= self.membership.group().limits.low_water && self.held_back.replace(false) {
            // What the handler has left because its answers had nowhere to go. Input that was not complete at the peer's end
            // has been offered for the last time.
            if !self.peer_finished.get() {
                self.offer_unread(event_loop);
            }
        }
        if left > 0 {
            event_loop.clear_ready(self.id, OUTPUT);
        } else {
            self.wants_drained.set(false);
            if self.state.get() == State::Closing {
                self.finish(event_loop);
            }
        }
        self.update_wanted(event_loop);
        left == 0
    }

    pub(super) fn shutdown(&self, event_loop: &EventLoop) {
        if self.state.get() != State::Open {
            return;
        }
        // What other threads' sends have brought as far as the mailbox was accepted, and goes out before the FIN.
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.refuse_sends();
            self.read_mailbox(event_loop);
        }
        // One of those requests may have been to shut down or to close.
        if self.state.get() != State::Open {
            return;
        }
        self.state.set(State::Closing);
        if self.unsent.borrow().is_empty() {
            self.finish(event_loop);
        }
    }

    /// Sends the FIN, all else being sent.
    fn finish(&self, event_loop: &EventLoop) {
        match socket::finish(self.fd.as_fd()) {
            Ok(()) => self.close_if_finished(event_loop),
            Err(error) => self.close(event_loop, CloseReason::Error(error)),
        }
    }
}
