//! The end of a connection after its link has ended, while relayed bytes are still in
//! flight.
//!
//! The linked connection has ended with an error. Closing this one immediately would lose its
//! queue, and a reset would lose the bytes that only the kernel holds. So it takes no more input,
//! sends its queue, and closes once the peer's system has acknowledged all of it.

use std::time::Duration;

use super::graceful_close::CloseTimer;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::{EventLoop, TimerId};
use crate::net::result::CloseReason;

/// The first and the longest interval of polling SIOCOUTQ. Polling is needed because epoll does not
/// report acknowledgements.
const FIRST_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_secs(1);

/// The time that a peer has to send its own FIN after it has received everything, including ours.
/// After an earlier close, the kernel would respond to further data of the peer with a reset. Some
/// systems then discard data that the peer's program has not read.
const LINGER: Duration = Duration::from_secs(2);

/// The number of bytes that a peer may send in this time. One that sends more is not about to
/// finish, such as a server whose client has cancelled a download, and its bytes would be
/// discarded for the whole time.
const MAX_DISCARDED: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The FIN is sent: the peer has received a complete stream.
    Fin,
    /// The connection is reset, so that the peer detects the missing bytes.
    Reset,
}

/// A delivery in progress.
pub(super) struct Delivery {
    ending: Ending,
    timer: Option<TimerId>,
    interval: Duration,
    /// Everything has been acknowledged, and the peer has time to send its FIN.
    lingers: bool,
    /// The number of bytes that the peer has sent in this time.
    discarded: usize,
}

impl ConnectionCore {
    /// Sends the queue and the FIN, and closes when they have been acknowledged: the linked
    /// connection forwarded its input to the end.
    pub(super) fn deliver_and_finish(&self, event_loop: &EventLoop) {
        self.start_delivery(event_loop, Ending::Fin);
    }

    /// Sends the queue, and resets the connection when it has been acknowledged: the input of the
    /// linked connection was cut short.
    pub(super) fn deliver_and_reset(&self, event_loop: &EventLoop) {
        self.start_delivery(event_loop, Ending::Reset);
    }

    fn start_delivery(&self, event_loop: &EventLoop, ending: Ending) {
        if self.state.get() == ConnectionState::Closed {
            return;
        }
        if self.has_output_failed() {
            return self.reset(event_loop, CloseReason::RelayEnded);
        }
        if ending == Ending::Reset {
            // Applies to every later close.
            self.reset_when_closed();
        }
        let delivery =
            Delivery { ending, timer: None, interval: FIRST_INTERVAL, lingers: false, discarded: 0 };
        self.delivery.set(Some(Box::new(delivery)));
        self.drain(event_loop);
        self.finish_delivery(event_loop);
    }

    pub(super) fn is_delivering(&self) -> bool {
        let delivery = self.delivery.take();
        let is_delivering = delivery.is_some();
        self.delivery.set(delivery);
        is_delivering
    }

    /// Whether the connection ends by a reset instead of a FIN.
    pub(super) fn ends_by_reset(&self) -> bool {
        let delivery = self.delivery.take();
        let ends_by_reset = delivery.as_ref().is_some_and(|delivery| delivery.ending == Ending::Reset);
        self.delivery.set(delivery);
        ends_by_reset
    }

    /// Closes the connection if everything has been acknowledged; otherwise arms the timer for the
    /// next poll.
    pub(super) fn finish_delivery(&self, event_loop: &EventLoop) {
        if self.state.get() == ConnectionState::Closed || self.unsent.borrow().is_some() {
            return;
        }
        let Some(mut delivery) = self.delivery.take() else { return };
        let must_wait = delivery.timer.is_some() || {
            // Bytes that any other stream has taken, such as a Unix socket, are in the peer's
            // receive queue, and a close leaves them there.
            let has_arrived = !self.peer_address().is_inet()
                || self.transport.unacknowledged().is_ok_and(|bytes| bytes == 0);
            let wait = match has_arrived {
                false => Some(delivery.interval),
                true if delivery.ending == Ending::Fin && !delivery.lingers => Some(LINGER),
                true => None,
            };
            delivery.lingers = has_arrived;
            delivery.interval = (delivery.interval * 2).min(MAX_INTERVAL);
            delivery.timer = wait.map(|wait| self.set_timer(event_loop, wait, CloseTimer::PollDelivery));
            wait.is_some()
        };
        self.delivery.set(Some(delivery));
        if !must_wait {
            self.close(event_loop, CloseReason::RelayEnded);
        }
    }

    /// Closes the connection if a peer that has time to send its FIN sends much else.
    pub(super) fn count_discarded(&self, event_loop: &EventLoop, bytes: usize) {
        let Some(mut delivery) = self.delivery.take() else { return };
        if delivery.lingers {
            delivery.discarded = delivery.discarded.saturating_add(bytes);
        }
        let is_exceeded = delivery.discarded > MAX_DISCARDED;
        self.delivery.set(Some(delivery));
        if is_exceeded {
            self.close(event_loop, CloseReason::RelayEnded);
        }
    }

    /// Polls again.
    pub(super) fn on_delivery_timer(&self, event_loop: &EventLoop) {
        if let Some(mut delivery) = self.delivery.take() {
            delivery.timer = None;
            self.delivery.set(Some(delivery));
            self.finish_delivery(event_loop);
        }
    }

    pub(super) fn cancel_delivery(&self, event_loop: &EventLoop) {
        if let Some(timer) = self.delivery.take().and_then(|delivery| delivery.timer) {
            event_loop.cancel(timer);
        }
    }
}
