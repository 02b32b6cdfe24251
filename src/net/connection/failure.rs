//! Failure of a connection's output: earlier input is still delivered.
//!
//! A failed write does not affect the other direction. The peer may have closed normally, and the
//! kernel keeps the data that it received before a reset. So the queue is dropped and counted,
//! later sends are refused, and the connection keeps reading until a read returns the end of input
//! or an error. Then it closes, with the first error.

use std::io;

use super::read::ReadBlocks;
use super::write::HighWater;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendError};
use crate::net::sys::transport::Transferred;
use crate::readiness::Readiness;

impl ConnectionCore {
    /// Whether the output has ended because a write has failed.
    pub(in crate::net) fn has_output_failed(&self) -> bool {
        self.output_failed.get()
    }

    /// Ends the output after a write that failed with `error`. Calls no user code; a callback in
    /// progress continues with its input.
    ///
    /// An error that leaves the socket connected (no memory, an unreadable file) closes the
    /// connection at once: its peer may be waiting for the bytes that cannot be sent, and would not
    /// close by itself.
    #[cold]
    pub(super) fn fail_output(&self, event_loop: &EventLoop, error: io::Error) {
        if self.state.get() == ConnectionState::Closed {
            return;
        }
        if self.discards_input() || !self.transport.is_disconnected(&error) {
            return self.close(event_loop, CloseReason::Error(error));
        }
        self.record_error(error);
        self.output_failed.set(true);
        self.state.set(ConnectionState::Closing);
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.refuse_sends(SendError::Closed);
        }
        let dropped = self.unsent.take();
        self.count_lost(dropped.as_ref().map_or(0, |queue| queue.len()));
        // No callback may report dropped bytes as sent.
        let wanted_drained = self.wants_drained.replace(false);
        self.high_water.set(HighWater::Below);
        // A handler that has paused until its output is sent would wait for a callback that never
        // comes.
        let is_waiting = self.is_blocked_by(ReadBlocks::USER) && (dropped.is_some() || wanted_drained);
        drop(dropped);
        self.report_memory();
        self.publish_queued();
        if is_waiting {
            self.unblock_reading(ReadBlocks::USER);
        }
        // The reserved places are dropped with the queue.
        let [awaited_low_mark, awaited_slot] =
            [ReadBlocks::HIGH_WATER, ReadBlocks::REPLIES].map(|reason| self.unblock_reading(reason));
        let was_throttled = (awaited_low_mark || awaited_slot) && !self.peer_finished.get();
        if is_waiting || was_throttled {
            // Covers the input that a handler in its callback is about to leave, and the input that
            // it left before.
            self.resume_pending.set(true);
            self.redeliver_unread(event_loop);
        }
        self.resume_linked(event_loop);
        // The write may have consumed the error before the poller reports it, and no input may be
        // left to carry it.
        event_loop.add_ready(self.id, Readiness::READABLE | Readiness::ERROR);
        self.update_wanted(event_loop);
    }

    /// Returns the first error, which replaces `reason`, if there was one before.
    pub(super) fn first_error_instead_of(&self, reason: &CloseReason) -> Option<CloseReason> {
        match (reason, self.first_error.take()) {
            (CloseReason::Error(_) | CloseReason::Finished | CloseReason::RelayEnded, Some(first)) => {
                Some(CloseReason::Error(first))
            }
            // The deadline was set because of the handler's error.
            (CloseReason::DeadlinePassed, Some(first)) if self.handler_failed.get() => {
                Some(CloseReason::Error(first))
            }
            (CloseReason::Finished, None) if self.lost.get() > 0 => {
                let message = "the linked connection sent bytes after this one was shut down";
                Some(CloseReason::Error(io::Error::new(io::ErrorKind::BrokenPipe, message)))
            }
            _ => None,
        }
    }

    /// Keeps the first error, with which the connection will close.
    pub(super) fn record_error(&self, error: io::Error) {
        let first = self.first_error.take().unwrap_or(error);
        self.first_error.set(Some(first));
    }

    /// Counts bytes that were accepted for sending and are dropped.
    pub(super) fn count_lost(&self, bytes: usize) {
        self.lost.set(self.lost.get().saturating_add(bytes));
    }

    /// Whether a read of 0 bytes is not the peer's FIN, because a write has consumed the error that
    /// the read would have returned. `EPIPE` is excluded: it is the error of a socket whose peer
    /// had already sent its FIN.
    pub(super) fn has_taken_reset(&self) -> bool {
        let error = self.first_error.take();
        let is_reset = error.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
        self.first_error.set(error);
        self.has_output_failed() && is_reset
    }

    /// Takes the error that is pending behind the peer's FIN: the reset in response to bytes sent
    /// to a closed peer. Must not be called before the end of input, or the read would miss the
    /// error.
    #[cold]
    pub(super) fn record_error_after_eof(&self) {
        if let Ok(Some(error)) = self.transport.take_error() {
            self.record_error(error);
        }
    }

    /// Handles an error event while the connection is not reading, or has just drained the socket.
    /// Closes the connection if no input is left to deliver.
    ///
    /// While there is input before the error, the error stays in the socket. The read that reaches
    /// it, or an earlier write, returns it.
    #[cold]
    pub(in crate::net) fn check_error(&self, event_loop: &EventLoop) {
        event_loop.clear_ready(self.id, Readiness::ERROR);
        let peeked = match self.peer_finished.get() {
            true => Ok(Transferred::Bytes(0)),
            false => self.transport.peek(),
        };
        match peeked {
            Ok(Transferred::Bytes(0)) => self.check_error_after_eof(event_loop),
            Ok(Transferred::Bytes(_)) => {}
            Ok(Transferred::WouldBlock) => match self.transport.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => self.fail_output(event_loop, error),
            },
            Err(error) => {
                self.record_left_unread(&error);
                match self.holds_input() {
                    true => self.fail_output(event_loop, error),
                    false => self.close(event_loop, CloseReason::Error(error)),
                }
            }
        }
    }

    /// Records that the peer has left bytes unread, if the read error `error` shows it: a Unix
    /// socket is reset when the peer closes with unread input.
    #[cold]
    pub(super) fn record_left_unread(&self, error: &io::Error) {
        if self.peer_address().is_unix() && error.kind() == io::ErrorKind::ConnectionReset {
            self.left_unread.set(true);
        }
    }

    /// Same as [`check_error`](ConnectionCore::check_error), for a socket that has no more bytes.
    fn check_error_after_eof(&self, event_loop: &EventLoop) {
        let has_taken_reset = self.has_taken_reset();
        if !has_taken_reset {
            self.record_error_after_eof();
        }
        // A read that is not paused delivers the end of input, which a relay depends on. A handler
        // that has paused may never resume.
        let end_is_read = self.peer_finished.get()
            || has_taken_reset
            || (self.is_blocked_by(ReadBlocks::USER) && !self.was_ever_linked());
        if self.has_error() && end_is_read && !self.holds_input() {
            // `close` replaces this reason by the first error.
            self.close(event_loop, CloseReason::Finished);
        }
    }

    /// Whether an error is recorded that the connection will close with.
    pub(super) fn has_error(&self) -> bool {
        let error = self.first_error.take();
        let has_error = error.is_some();
        self.first_error.set(error);
        has_error
    }

    /// Whether the connection holds input that is still to be delivered to the handler.
    pub(super) fn holds_input(&self) -> bool {
        self.redeliver.get() || (!self.read_blocks.get().is_empty() && self.unread_len() > 0)
    }
}
