//! Connections with filters: their handshakes, and the input that passes through them.

use std::io;
use std::mem;

use super::{ConnectionDriver, ConnectionHandler, Dialer};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::logger;
use crate::net::connection::{ConnectionState, TcpConnection};
use crate::net::result::CloseReason;

impl<H: ConnectionHandler> ConnectionDriver<H> {
    /// Begins an established connection whose handler is created later: opens its filters, and then
    /// the handler if they perform no handshake.
    #[cold]
    pub(super) fn begin(&self, event_loop: &EventLoop) {
        if let Some(outgoing) = &self.outgoing {
            outgoing.has_begun.set(true);
        }
        self.core.start_idle_timeout(event_loop);
        if !self.core.has_filters() {
            self.open_handler(event_loop);
        } else if self.core.open_filters(event_loop) {
            self.advance_handshake(event_loop);
        }
    }

    /// Begins the handshake of a filter that was added, if that is possible now. Opens the handler
    /// after the first handshake, and notifies it of an upgrade.
    #[cold]
    pub(super) fn advance_handshake(&self, event_loop: &EventLoop) {
        self.core.advance_upgrade(event_loop);
        if !self.core.take_completed_handshake() {
            return;
        }
        match self.core.finish_upgrade(event_loop) {
            true => self.call(event_loop, |handler, conn| handler.on_upgrade(conn)),
            false => self.open_handler(event_loop),
        }
    }

    fn open_handler(&self, event_loop: &EventLoop) {
        let Some(outgoing) = &self.outgoing else { return };
        self.core.membership.end_handshake();
        outgoing.dialer.on_connected(&TcpConnection::new(event_loop, &self.core), self.core.id());
        let make = outgoing.make.take().filter(|_| self.core.state() != ConnectionState::Closed);
        if let Some(make) = make {
            self.open(event_loop, make);
        }
    }

    /// Passes `input` through the filters, and delivers the result.
    #[cold]
    pub(super) fn deliver_filtered(&self, event_loop: &EventLoop, input: &mut Buffer) {
        let core = &self.core;
        if input.is_empty() && core.take_end(event_loop) {
            return self.end_input(event_loop);
        }
        let is_redelivery = input.is_empty() && (core.was_ever_linked() || core.has_unread());
        let mut decoded = event_loop.lend_spare();
        let capacity = input.capacity();
        let is_open = core.decode(event_loop, input, &mut decoded);
        self.advance_handshake(event_loop);
        if is_open && (is_redelivery || !decoded.is_empty()) {
            self.deliver_if_reading(event_loop, &mut decoded);
        }
        // A filter that passes bytes on has moved the loop's own storage. A larger one is not
        // taken: the size of the loop's buffer is a setting, and bounds what filters get at once.
        if input.capacity() != capacity && decoded.capacity() == capacity {
            mem::swap(input, &mut decoded);
        }
        event_loop.return_spare(decoded);
    }

    /// Delivers decoded input. Before the handler is open, or after it has paused reading in the
    /// call before this, the input is kept.
    fn deliver_if_reading(&self, event_loop: &EventLoop, decoded: &mut Buffer) {
        let core = &self.core;
        if core.state() == ConnectionState::Closed || core.discards_input() {
            return decoded.clear();
        }
        let has_handler = self.handler.borrow().is_some();
        if has_handler && !core.is_blocked() {
            return self.deliver_decoded(event_loop, decoded);
        }
        let mut unread = core.take_unread().unwrap_or_default();
        unread.append(decoded.readable());
        if !unread.is_empty() {
            core.keep_unoffered(event_loop, unread);
        }
    }

    /// Decodes what the filters have left at the end of the input. Returns whether that is all, and
    /// the handler gets the end now.
    pub(super) fn decode_end(&self, event_loop: &EventLoop) -> bool {
        let core = &self.core;
        if core.is_draining() && !core.is_in_handshake() {
            return true;
        }
        let mut last = event_loop.lend_spare();
        let is_open = core.decode_end(event_loop, &mut last);
        self.advance_handshake(event_loop);
        if is_open && !last.is_empty() {
            self.deliver_if_reading(event_loop, &mut last);
        }
        event_loop.return_spare(last);
        let has_ended = is_open && core.has_peer_finished();
        if has_ended && core.is_in_handshake() {
            // Without more input no filter becomes ready.
            let message = "the peer ended its output during the handshake";
            core.close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
            return false;
        }
        has_ended
    }

    /// Counts and logs the end of an accepted or adopted connection, if it comes before the end of
    /// the handshake and the peer may have caused it. There is no handler to report it to.
    #[cold]
    pub(super) fn report_failed_handshake(&self, reason: &CloseReason, dialer: &dyn Dialer) {
        let is_own_end =
            matches!(reason, CloseReason::Closed | CloseReason::Stopped | CloseReason::LoopEnded);
        if is_own_end || self.handler.borrow().is_some() || !self.core.has_filters() {
            return;
        }
        let membership = &self.core.membership;
        if membership.is_in_handshake() {
            membership.group().admission.count_failed_handshake();
        } else if !self.core.is_in_handshake() || dialer.reports_failures() {
            return;
        }
        // A panic has been logged.
        let (Some(peer), false) = (self.core.known_peer(), matches!(reason, CloseReason::Panicked)) else {
            return;
        };
        logger::recurring("a failed handshake", |left_out| {
            log::info!("the handshake of a connection from {peer} failed: {reason}{left_out}");
        });
    }
}
