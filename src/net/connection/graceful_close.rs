//! An orderly close that takes no longer than it may, and what can be said of it afterwards.

use std::any::Any;
use std::io;
use std::time::Duration;

use super::relay::LinkEnd;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::containment::logger;
use crate::event_loop::{EventLoop, TimerId};
use crate::net::result::CloseReason;
use crate::net::sys::stream;

/// How long the connection waits before it looks whether all has been acknowledged, which nothing reports: at first, and at most.
const FIRST_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_millis(100);

/// A close that is under way.
pub(super) struct GracefulClose {
    deadline: TimerId,
    /// Whether all has been acknowledged is to be looked at then.
    poll_timer: Option<TimerId>,
    interval: Duration,
}

/// What a timer says to its connection.
pub(super) enum CloseTimer {
    /// The time for an orderly close is up.
    Deadline,
    PollAcks,
    /// Whether a delivery has arrived is to be looked at.
    PollDelivery,
    /// The connection has been there for long enough.
    Delayed,
}

impl ConnectionCore {
    pub(super) fn close_gracefully(&self, event_loop: &EventLoop, within: Duration) {
        match self.state.get() {
            ConnectionState::Open | ConnectionState::Closing => {}
            ConnectionState::Connecting => return self.close(event_loop, CloseReason::Closed),
            ConnectionState::Closed => return,
        }
        match self.graceful.take() {
            Some(graceful) => {
                event_loop.reset(graceful.deadline, within);
                self.graceful.set(Some(graceful));
            }
            None => {
                let deadline = self.set_timer(event_loop, within, CloseTimer::Deadline);
                let graceful = GracefulClose { deadline, poll_timer: None, interval: FIRST_INTERVAL };
                self.graceful.set(Some(Box::new(graceful)));
            }
        }
        self.end_link(event_loop, LinkEnd::Gracefully(within));
        self.drain(event_loop);
    }

    pub(super) fn close_after(&self, event_loop: &EventLoop, delay: Duration) {
        self.set_timer(event_loop, delay, CloseTimer::Delayed);
    }

    pub(super) fn set_timer(
        &self,
        event_loop: &EventLoop,
        after: Duration,
        mut message: impl Any,
    ) -> TimerId {
        let id = self.id;
        event_loop.run_after(after, move |event_loop| _ = event_loop.tell(id, &mut message))
    }

    /// Whether a close in order is under way.
    pub(super) fn has_close_deadline(&self) -> bool {
        let graceful = self.graceful.take();
        let has_deadline = graceful.is_some();
        self.graceful.set(graceful);
        has_deadline
    }

    /// The close is over, or is no longer one in order.
    pub(super) fn cancel_graceful_close(&self, event_loop: &EventLoop) {
        if let Some(graceful) = self.graceful.take() {
            event_loop.cancel(graceful.deadline);
            if let Some(poll_timer) = graceful.poll_timer {
                event_loop.cancel(poll_timer);
            }
        }
    }

    pub(super) fn on_close_timer(&self, event_loop: &EventLoop, timer: &CloseTimer) {
        match timer {
            CloseTimer::Delayed => self.close(event_loop, CloseReason::Closed),
            CloseTimer::Deadline => self.reset(event_loop, CloseReason::DeadlinePassed),
            CloseTimer::PollDelivery => self.on_delivery_timer(event_loop),
            CloseTimer::PollAcks => {
                if let Some(mut graceful) = self.graceful.take() {
                    graceful.poll_timer = None;
                    graceful.interval = (graceful.interval * 2).min(MAX_INTERVAL);
                    self.graceful.set(Some(graceful));
                }
                self.close_if_finished(event_loop);
            }
        }
    }

    /// Whether an orderly close has to wait until the peer has acknowledged all. Sees to it that this is looked at again.
    pub(super) fn must_await_acknowledgement(&self, event_loop: &EventLoop) -> bool {
        let Some(mut graceful) = self.graceful.take() else { return false };
        let must_wait = self.undelivered().is_ok_and(|bytes| bytes > 0);
        if must_wait && graceful.poll_timer.is_none() {
            graceful.poll_timer = Some(self.set_timer(event_loop, graceful.interval, CloseTimer::PollAcks));
        }
        self.graceful.set(Some(graceful));
        must_wait
    }

    /// Ends the connection now, and such that the peer cannot take it for an orderly end.
    pub(super) fn reset(&self, event_loop: &EventLoop, reason: CloseReason) {
        if self.state.get() != ConnectionState::Closed {
            self.reset_when_closed();
            self.close(event_loop, reason);
        }
    }

    /// Not in a forked child, as the setting is one of the connection, which is the parent's.
    pub(super) fn reset_when_closed(&self) {
        if self.membership.group().is_inherited() {
            return;
        }
        if let Err(error) = stream::reset_when_closed(&self.fd) {
            logger::call(|| log::debug!("cannot set SO_LINGER: {error}"));
        }
    }

    /// How many bytes were accepted for sending and have not been acknowledged.
    pub(super) fn undelivered(&self) -> io::Result<usize> {
        // The FIN is the last to be acknowledged, and the kernel counts it as a byte.
        let fin = u32::from(self.fin_sent.get());
        let unacknowledged = stream::unacknowledged(&self.fd)?.saturating_sub(fin);
        let bytes = self.unsent().saturating_add(unacknowledged as usize);
        // The queue of a Unix socket whose peer has closed is empty; that it was not is all that the kernel tells.
        Ok(if self.left_unread.get() { bytes.max(1) } else { bytes })
    }
}
