//! Shutdown of a connection: the FIN after the queue, the end of its input, and the drain of a
//! connection that takes no more input.

use super::mailbox::Taken;
use super::read::{InputUse, ReadBlocks};
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendError};
use crate::readiness::Readiness;

impl ConnectionCore {
    pub(super) fn shutdown(&self, event_loop: &EventLoop) {
        if !self.drain_last_sends(event_loop) {
            return;
        }
        self.state.set(ConnectionState::Closing);
        if self.unsent.borrow().is_none() {
            self.send_fin(event_loop);
        }
    }

    /// Sends the FIN of a connection that is about to be reset, if everything is sent and it is not
    /// relayed. A peer that has received everything then reads a normal end of input; for any other
    /// peer the reset overtakes the FIN. A connection that was shut down when the stop began ends
    /// in the same way, so peers see no difference if the stop was noticed late.
    pub(super) fn send_fin_before_reset(&self, event_loop: &EventLoop) {
        // A forked child leaves the socket untouched.
        if self.membership.group().is_inherited() {
            return;
        }
        let is_whole = self.drain_last_sends(event_loop)
            && self.unsent.borrow().is_none()
            && !self.is_still_linked()
            && self.finish_filters(event_loop);
        // An error means that the peer has closed; the reset follows in any case.
        self.fin_sent.set(self.fin_sent.get() || (is_whole && self.transport.shutdown_write().is_ok()));
    }

    /// Drains the mailbox, and the payloads of groups that are on their way, whose bytes go out
    /// before the FIN. Refuses further sends. Returns
    /// whether the connection is still open.
    fn drain_last_sends(&self, event_loop: &EventLoop) -> bool {
        if self.state.get() != ConnectionState::Open {
            return false;
        }
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.refuse_sends(SendError::ShutDown);
            self.read_mailbox(event_loop, Taken::AllButCalls);
        }
        event_loop.run_deliveries();
        self.send_collected(event_loop);
        // The mailbox may have contained a shutdown or close.
        self.state.get() == ConnectionState::Open
    }

    /// Sends the FIN, after all other output.
    pub(super) fn send_fin(&self, event_loop: &EventLoop) {
        if self.ends_by_reset() {
            return self.finish_delivery(event_loop);
        }
        if !self.finish_filters(event_loop) {
            return;
        }
        if self.peer_finished.get() {
            // No more input can arrive and none is unread, so the close sends the FIN as well,
            // unless it has to wait for something.
            self.close_if_finished(event_loop);
            if self.state.get() == ConnectionState::Closed {
                return;
            }
        }
        match self.transport.shutdown_write() {
            Ok(()) => {
                self.fin_sent.set(true);
                self.close_if_finished(event_loop);
                self.finish_delivery(event_loop);
            }
            Err(error) => self.fail_output(event_loop, error),
        }
    }

    /// Starts an orderly end: the queue is sent, and input is discarded.
    pub(super) fn drain(&self, event_loop: &EventLoop) {
        self.discard_input();
        self.shutdown(event_loop);
        self.finish_drain(event_loop);
    }

    /// Same as [`drain`](ConnectionCore::drain), but the output remains open while work is
    /// outstanding.
    pub(super) fn drain_after_work(&self, event_loop: &EventLoop) {
        self.discard_input();
        self.shutdown_after_work(event_loop);
        self.finish_drain(event_loop);
    }

    /// Discards the input from now on. Its end is still delivered. Without effect on a connection
    /// that is relayed, whose input belongs to the other one, or that is draining.
    pub(super) fn shutdown_read(&self, event_loop: &EventLoop) {
        let is_usable = matches!(self.state.get(), ConnectionState::Open | ConnectionState::Closing);
        if !is_usable || self.was_ever_linked() || self.discards_input() {
            return;
        }
        self.input_use.set(InputUse::Shut);
        self.drop_input();
        // An output that has failed waited only for the input.
        if self.has_output_failed() {
            return self.close(event_loop, CloseReason::Finished);
        }
        self.update_wanted(event_loop);
        // The close for this error was delayed while reading was paused.
        if self.has_error() {
            event_loop.add_ready(self.id, Readiness::READABLE | Readiness::ERROR);
        }
    }

    fn discard_input(&self) {
        self.input_use.set(InputUse::Draining);
        self.drop_input();
    }

    /// Drops the unread input. Nothing blocks reading, as what is read is discarded.
    fn drop_input(&self) {
        self.read_blocks.set(ReadBlocks::NONE);
        self.unread.take();
        self.report_memory();
        self.redeliver.set(false);
    }

    fn finish_drain(&self, event_loop: &EventLoop) {
        // The connection may already have been shut down. Then only unconsumed input may have kept
        // it open.
        self.close_if_finished(event_loop);
        self.update_wanted(event_loop);
    }

    /// Closes the connection if both directions have ended and the queue is sent, or if the output
    /// has failed and all input is delivered.
    pub(super) fn close_if_finished(&self, event_loop: &EventLoop) {
        let input_ended = self.is_draining() || (self.peer_finished.get() && !self.holds_input());
        let is_finished = match self.has_output_failed() {
            true => input_ended,
            false => {
                self.state.get() == ConnectionState::Closing
                    && self.peer_finished.get()
                    && self.unsent.borrow().is_none()
            }
        };
        if !is_finished || self.has_pending_eof() {
            return;
        }
        if self.ends_by_reset() {
            self.finish_delivery(event_loop);
        } else if self.has_output_failed() || !self.must_await_acknowledgement(event_loop) {
            let is_delivered = self.is_delivering();
            let reason = if is_delivered { CloseReason::RelayEnded } else { CloseReason::Finished };
            self.close(event_loop, reason);
        }
    }
}
