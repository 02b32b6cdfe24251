//! The end of a filtered output: the last bytes of the filters, and how many bytes of the handler
//! are in what was sent.

use crate::event_loop::EventLoop;
use crate::net::connection::{ConnectionCore, ConnectionState};
use crate::net::result::{CloseReason, SendError};

impl ConnectionCore {
    /// Called before the FIN, when all output is sent: sends the last bytes of the filters. Returns
    /// whether the FIN may be sent; otherwise it follows when these bytes are sent.
    pub(in crate::net::connection) fn finish_filters(&self, event_loop: &EventLoop) -> bool {
        let Some(filtering) = self.filtering.get() else { return true };
        if filtering.has_finished.get() {
            return self.unsent.borrow().is_none();
        }
        if !self.can_encode() {
            self.defer_output();
            return false;
        }
        filtering.has_finished.set(true);
        let mut last = event_loop.lend_spare();
        match self.with_filters(event_loop, |filters| filters.finish(event_loop, &mut last)) {
            Some(Ok(())) => {
                filtering.last_bytes.set(last.len());
                self.send_encoded(event_loop, last, 0);
            }
            Some(Err(error)) => self.reset(event_loop, CloseReason::Error(error)),
            None => {}
        }
        self.state.get() != ConnectionState::Closed && self.unsent.borrow().is_none()
    }

    /// The connection is about to close for `reason`. If that loses no output, the last bytes of
    /// the filters are sent as far as the transport takes them: a peer that has received everything
    /// then sees a complete stream.
    pub(in crate::net::connection) fn send_last_bytes(&self, event_loop: &EventLoop, reason: &CloseReason) {
        let Some(filtering) = self.filtering.get() else { return };
        let is_orderly = match reason {
            // A filter may hold output back, which is lost.
            CloseReason::Panicked => return self.reset_when_closed(),
            CloseReason::Closed | CloseReason::Stopped | CloseReason::LoopEnded => true,
            CloseReason::Idle | CloseReason::TimedOut => true,
            // An error of the handler, not of the transport or of a filter.
            CloseReason::Error(_) => self.handler_failed.get(),
            _ => false,
        };
        let is_open = matches!(self.state.get(), ConnectionState::Open | ConnectionState::Closing);
        if !is_orderly || !is_open || self.fin_sent.get() {
            return;
        }
        let is_whole =
            self.lost.get() == 0 && self.unsent.borrow().is_none() && !self.close_mailbox_to_sends();
        if !is_whole || !self.can_encode() || filtering.has_finished.replace(true) {
            return;
        }
        let mut last = event_loop.lend_spare();
        match self.with_filters(event_loop, |filters| filters.finish(event_loop, &mut last)) {
            // The connection closes whether they are taken or not.
            Some(Ok(())) => _ = self.transport.send(last.readable()),
            // The filter may hold output back, which is lost.
            Some(Err(_)) => self.reset_when_closed(),
            None => {}
        }
        event_loop.return_spare(last);
    }

    /// Refuses sends of handles. Returns whether bytes were accepted before: they are lost.
    fn close_mailbox_to_sends(&self) -> bool {
        let Some(mailbox) = self.mailbox.get() else { return false };
        mailbox.refuse_sends(SendError::Closed);
        mailbox.in_transit() > 0
    }

    pub(super) fn count_encoded(&self, from: usize, to: usize) {
        if let Some(filtering) = self.filtering.get() {
            filtering.encoded_from.set(filtering.encoded_from.get().saturating_add(from as u64));
            filtering.encoded_to.set(filtering.encoded_to.get().saturating_add(to as u64));
        }
    }

    /// About how many bytes of the handler the last `sent` bytes on the transport stand for: at the
    /// ratio of all bytes so far, and at least one if any of them belongs to the handler.
    pub(in crate::net::connection) fn decoded_len(&self, sent: usize) -> usize {
        let Some(filtering) = self.filtering.get() else { return sent };
        let encoded = sent.saturating_sub(filtering.last_bytes.get()) as u128;
        let (from, to) = (filtering.encoded_from.get(), filtering.encoded_to.get());
        if to == 0 {
            return 0;
        }
        let decoded = (encoded * u128::from(from)).div_ceil(u128::from(to));
        usize::try_from(decoded.min(u128::from(from))).unwrap_or(usize::MAX)
    }
}
