//! A connection whose output has failed: what arrived before is still delivered.
//!
//! A write that fails says nothing about the other direction. The peer may have closed in order, and the kernel keeps what it had
//! received when a reset arrives. So the output is dropped and counted, later sends are refused, and the connection reads on until the
//! read itself reports the end or an error. Then it closes, with the first error.

use std::io;
use std::os::fd::AsFd;

use super::write::HighWater;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::result::CloseReason;
use crate::net::sys::stream::{self, Transferred};
use crate::readiness::Readiness;

impl ConnectionCore {
    /// Whether nothing more can be sent because a write has failed.
    pub(in crate::net) fn has_output_failed(&self) -> bool {
        self.output_failed.get()
    }

    /// Ends the output after a write that failed with `error`. Calls no user code; a handler that is being called goes on with the input
    /// that it has.
    ///
    /// An error that leaves the socket connected (no memory, a file that cannot be read) closes the connection at once: its peer may wait
    /// for the bytes that cannot be sent, and would not end the connection by itself.
    #[cold]
    pub(super) fn fail_output(&self, event_loop: &EventLoop, error: io::Error) {
        if self.state.get() == ConnectionState::Closed {
            return;
        }
        if self.discarding.get() || !stream::is_disconnected(&self.fd, &error) {
            return self.close(event_loop, CloseReason::Error(error));
        }
        self.record_error(error);
        self.output_failed.set(true);
        self.state.set(ConnectionState::Closing);
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.refuse_sends();
        }
        let dropped = self.unsent.take();
        self.count_lost(dropped.as_ref().map_or(0, |queue| queue.len()));
        // No callback may report as sent what was dropped.
        let wanted_drained = self.wants_drained.replace(false);
        self.high_water.set(HighWater::No);
        // A handler that has paused until its output is sent waits for a callback that does not come any more.
        let is_waiting = self.paused.get() && (dropped.is_some() || wanted_drained);
        drop(dropped);
        self.report_memory();
        self.publish_queued();
        if is_waiting {
            self.paused.set(false);
        }
        let was_held_back = self.throttled.replace(false) && !self.peer_finished.get();
        if is_waiting || was_held_back {
            // For input that a handler in its call is about to leave, and for what it has left before.
            self.resume_pending.set(true);
            self.redeliver_unread(event_loop);
        }
        self.resume_linked(event_loop);
        // The write may have taken the error before the poller reports it, and there may be no input left to report.
        event_loop.add_ready(self.id, Readiness::READABLE | Readiness::ERROR);
        self.update_wanted(event_loop);
    }

    /// What a connection that is to close for `reason` closes with instead, if there was an error before.
    pub(super) fn first_error_instead_of(&self, reason: &CloseReason) -> Option<CloseReason> {
        match (reason, self.first_error.take()) {
            (CloseReason::Error(_) | CloseReason::Finished | CloseReason::RelayEnded, Some(first)) => {
                Some(CloseReason::Error(first))
            }
            (CloseReason::Finished, None) if self.lost.get() > 0 => {
                let message = "bytes came from the linked connection after this one was shut down";
                Some(CloseReason::Error(io::Error::new(io::ErrorKind::BrokenPipe, message)))
            }
            _ => None,
        }
    }

    /// Keeps the first error, which is the one that the connection closes with.
    pub(super) fn record_error(&self, error: io::Error) {
        let first = self.first_error.take().unwrap_or(error);
        self.first_error.set(Some(first));
    }

    /// Counts bytes that were accepted for sending and are dropped.
    pub(super) fn count_lost(&self, bytes: usize) {
        self.lost.set(self.lost.get().saturating_add(bytes));
    }

    /// Whether a read of 0 bytes is not the peer's FIN: a write has taken the error that the read would have reported. `EPIPE` is the
    /// error of a socket whose peer had finished before.
    pub(super) fn has_taken_reset(&self) -> bool {
        let error = self.first_error.take();
        let is_reset = error.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
        self.first_error.set(error);
        self.has_output_failed() && is_reset
    }

    /// Takes the error that the socket has pending although the peer's FIN was reached: the reset that answers bytes sent to a peer that
    /// had closed. Not to be called before the end, or the read could not report the error itself.
    #[cold]
    pub(super) fn record_error_after_eof(&self) {
        if let Ok(Some(error)) = stream::take_error(&self.fd) {
            self.record_error(error);
        }
    }

    /// The poller has reported an error, and the connection does not read, or has just read all there is. Closes it if no input is left
    /// to deliver.
    ///
    /// While there is input before it, the error stays in the socket: the read reports it when it gets there, or a write before that.
    #[cold]
    pub(in crate::net) fn check_error(&self, event_loop: &EventLoop) {
        event_loop.clear_ready(self.id, Readiness::ERROR);
        let peeked = match self.peer_finished.get() {
            true => Ok(Transferred::Bytes(0)),
            false => stream::peek(self.fd.as_fd()),
        };
        match peeked {
            Ok(Transferred::Bytes(0)) => self.check_error_behind_end(event_loop),
            Ok(Transferred::Bytes(_)) => {}
            Ok(Transferred::WouldBlock) => match stream::take_error(&self.fd) {
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

    /// Notes what `error`, which is a read's, says of what was sent: the reset of a Unix socket is the peer's close with input unread.
    #[cold]
    pub(super) fn record_left_unread(&self, error: &io::Error) {
        if self.peer().is_unix() && error.kind() == io::ErrorKind::ConnectionReset {
            self.left_unread.set(true);
        }
    }

    /// As [`check_error`](ConnectionCore::check_error), of a socket that has no more bytes.
    fn check_error_behind_end(&self, event_loop: &EventLoop) {
        let has_taken_reset = self.has_taken_reset();
        if !has_taken_reset {
            self.record_error_after_eof();
        }
        // A read that goes on by itself delivers the end, which counts for a link in particular. One that a handler has paused may never
        // go on.
        let end_is_read =
            self.peer_finished.get() || has_taken_reset || (self.paused.get() && !self.is_linked());
        if self.has_error() && end_is_read && !self.holds_input() {
            // For the first error, which `close` puts in the place of this.
            self.close(event_loop, CloseReason::Finished);
        }
    }

    /// Whether there is an error that the connection is to close with.
    pub(super) fn has_error(&self) -> bool {
        let error = self.first_error.take();
        let has_error = error.is_some();
        self.first_error.set(error);
        has_error
    }

    /// Whether the handler is still to be offered input that the connection holds.
    pub(super) fn holds_input(&self) -> bool {
        self.redeliver.get() || ((self.paused.get() || self.throttled.get()) && self.unread_len() > 0)
    }
}
