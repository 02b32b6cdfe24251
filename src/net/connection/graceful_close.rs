//! Graceful close: an orderly close with a deadline, and its result.

use std::any::Any;
use std::io;
use std::time::Duration;

use super::relay::LinkEnd;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::containment::logger;
use crate::event_loop::{EventLoop, TimerId};
use crate::net::result::CloseReason;

/// The first and the longest interval of polling SIOCOUTQ. Polling is needed because epoll does not
/// report acknowledgements.
const FIRST_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_millis(100);

/// A graceful close in progress.
pub(super) struct GracefulClose {
    deadline: TimerId,
    /// The timer of the next poll for acknowledgements.
    poll_timer: Option<TimerId>,
    interval: Duration,
}

/// A timer of a closing connection has fired.
pub(super) enum CloseTimer {
    /// The deadline of a graceful close.
    Deadline,
    /// Poll whether all data has been acknowledged.
    PollAcks,
    /// Poll whether a delivery has been acknowledged.
    PollDelivery,
    /// The delay of `close_after` has passed.
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

    /// Closes the connection after `delay`, which replaces an earlier delay.
    pub(super) fn close_after(&self, event_loop: &EventLoop, delay: Duration) {
        self.cancel_close(event_loop);
        if self.state.get() != ConnectionState::Closed {
            let timer = self.set_timer(event_loop, delay, CloseTimer::Delayed);
            self.change_timers(|timers| timers.close = Some(timer));
        }
    }

    /// Cancels [`close_after`](ConnectionCore::close_after). Returns whether it was in effect.
    pub(super) fn cancel_close(&self, event_loop: &EventLoop) -> bool {
        let Some(mut timers) = self.timers.take() else { return false };
        let timer = timers.close.take();
        self.timers.set(Some(timers));
        timer.is_some_and(|timer| event_loop.cancel(timer))
    }

    /// The handler has returned `error`. Output that was accepted before is sent, as by a graceful
    /// close, and then the connection closes with the error.
    #[cold]
    pub(super) fn end_with_error(&self, event_loop: &EventLoop, error: io::Error) {
        if self.state.get() == ConnectionState::Closed {
            return;
        }
        self.handler_failed.set(true);
        event_loop.run_deliveries();
        self.send_collected(event_loop);
        let limit = self.membership.group().limits.drain_timeout;
        let has_output = self.unsent.borrow().is_some() && !self.has_output_failed();
        if !has_output || self.was_ever_linked() || limit.is_zero() {
            return self.close(event_loop, CloseReason::Error(error));
        }
        self.record_error(error);
        self.cancel_handler_timers(event_loop);
        match self.has_close_deadline() {
            true => self.drain(event_loop),
            false => self.close_gracefully(event_loop, limit),
        }
    }

    /// Whether the handler has returned an error.
    pub(in crate::net) fn has_handler_failed(&self) -> bool {
        self.handler_failed.get()
    }

    /// Sends `message` to this connection after a delay.
    pub(super) fn set_timer(
        &self,
        event_loop: &EventLoop,
        after: Duration,
        mut message: impl Any,
    ) -> TimerId {
        let id = self.id;
        event_loop.run_after(after, move |event_loop| _ = event_loop.send_control(id, &mut message))
    }

    /// Whether a graceful close is in progress.
    pub(super) fn has_close_deadline(&self) -> bool {
        let graceful = self.graceful.take();
        let has_deadline = graceful.is_some();
        self.graceful.set(graceful);
        has_deadline
    }

    /// Ends a graceful close in progress, and cancels its timers.
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

    /// Whether a graceful close still waits for the peer's acknowledgements. Arms the timer for the
    /// next poll if so.
    pub(super) fn must_await_acknowledgement(&self, event_loop: &EventLoop) -> bool {
        let Some(mut graceful) = self.graceful.take() else { return false };
        let must_wait = self.undelivered().is_ok_and(|bytes| bytes > 0);
        if must_wait && graceful.poll_timer.is_none() {
            graceful.poll_timer = Some(self.set_timer(event_loop, graceful.interval, CloseTimer::PollAcks));
        }
        self.graceful.set(Some(graceful));
        must_wait
    }

    /// Closes the connection now, by a reset, which the peer can distinguish from an orderly end.
    pub(super) fn reset(&self, event_loop: &EventLoop, reason: CloseReason) {
        if self.state.get() != ConnectionState::Closed {
            self.reset_when_closed();
            self.close(event_loop, reason);
        }
    }

    /// Resets the connection for the user. All output that has not been offered to the kernel is
    /// dropped and counted.
    pub(super) fn reset_by_user(&self, event_loop: &EventLoop) {
        if self.state.get() == ConnectionState::Closed {
            return;
        }
        if let Some(collected) = self.collected.take() {
            self.count_lost(collected.len());
            event_loop.return_output(collected);
        }
        self.reset(event_loop, CloseReason::Reset);
    }

    /// Makes a later close reset the connection. Has no effect in a forked child, where the socket
    /// option would apply to the parent's connection.
    pub(super) fn reset_when_closed(&self) {
        if self.membership.group().is_inherited() {
            return;
        }
        if let Err(error) = self.transport.reset_on_close() {
            logger::call(|| log::debug!("cannot set SO_LINGER: {error}"));
        }
    }

    /// The number of bytes that were accepted for sending and have not been acknowledged.
    pub(super) fn undelivered(&self) -> io::Result<usize> {
        // The FIN is acknowledged last, and the kernel counts it as a byte.
        let fin = u32::from(self.fin_sent.get());
        let unacknowledged = self.transport.unacknowledged()?.saturating_sub(fin);
        let bytes = self.unsent().saturating_add(self.decoded_len(unacknowledged as usize));
        // The queue of a Unix socket whose peer has closed is empty. The kernel reports only that
        // unread data was discarded, not how much.
        Ok(if self.left_unread.get() { bytes.max(1) } else { bytes })
    }
}
