//! The end of a connection whose link is over, while what came through the link is still on its way to the peer.
//!
//! The other connection of the link has ended with an error. Closing this one at once would lose what it has queued, and a reset what
//! only the kernel has. So it takes no more input, sends its queue, and ends when the peer's system has acknowledged all of it.

use std::time::Duration;

use super::graceful_close::CloseTimer;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::{EventLoop, TimerId};
use crate::net::result::CloseReason;
use crate::net::sys::stream;

/// How long the connection waits before it looks again whether all has been acknowledged, which nothing reports: at first, and at most.
const FIRST_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_secs(1);

/// How long a peer that has been sent all, and the FIN, has for its own FIN. A close before that answers what the peer still sends with a
/// reset, for which some systems throw away what their program has not read.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The peer is sent the FIN: nothing is missing of what it was to be sent.
    Fin,
    /// The peer is to see that something is missing.
    Reset,
}

/// A delivery that is under way.
pub(super) struct Delivery {
    ending: Ending,
    timer: Option<TimerId>,
    interval: Duration,
    /// All has been acknowledged, and the peer has time to finish.
    lingers: bool,
}

impl ConnectionCore {
    /// Sends what is queued and the FIN, and ends the connection when that has arrived: the other one passed on its input to the end.
    pub(super) fn deliver_and_finish(&self, event_loop: &EventLoop) {
        self.start_delivery(event_loop, Ending::Fin);
    }

    /// Sends what is queued, and resets the connection when that has arrived: the other one's input was cut off.
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
            // However it is closed from now on.
            self.reset_when_closed();
        }
        let delivery = Delivery { ending, timer: None, interval: FIRST_INTERVAL, lingers: false };
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

    /// Whether the connection ends without a FIN.
    pub(super) fn ends_by_reset(&self) -> bool {
        let delivery = self.delivery.take();
        let ends_by_reset = delivery.as_ref().is_some_and(|delivery| delivery.ending == Ending::Reset);
        self.delivery.set(delivery);
        ends_by_reset
    }

    /// Ends the connection if all has arrived. Sees to it that this is looked at again.
    pub(super) fn finish_delivery(&self, event_loop: &EventLoop) {
        if self.state.get() == ConnectionState::Closed || self.unsent.borrow().is_some() {
            return;
        }
        let Some(mut delivery) = self.delivery.take() else { return };
        let must_wait = delivery.timer.is_some() || {
            // What a Unix socket has taken lies with the peer already, and a close leaves it there.
            let has_arrived =
                self.peer().is_unix() || stream::unacknowledged(&self.fd).is_ok_and(|bytes| bytes == 0);
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

    /// The time has come to look again.
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
