//! The idle timeout of a connection.
//!
//! Activity stores its time in the connection and does nothing else. The connection's one timer is
//! not moved: when it fires it checks that time, and waits for the remainder. A busy connection
//! therefore costs one timer expiry per timeout, not per message.

use std::time::{Duration, Instant};

use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;

impl ConnectionCore {
    /// Records that bytes were received or sent. Without an idle timeout the clock is not read.
    #[inline]
    pub(super) fn record_activity(&self, event_loop: &EventLoop) {
        if self.idle_timeout.get().is_some() {
            self.last_active.set(Some(event_loop.now()));
        }
    }

    /// Starts the idle timeout of the group's limits, if there is one.
    pub(in crate::net) fn start_idle_timeout(&self, event_loop: &EventLoop) {
        if let Some(timeout) = self.membership.group().limits.idle_timeout {
            self.set_idle_timeout(event_loop, Some(timeout));
        }
    }

    #[track_caller]
    pub(super) fn set_idle_timeout(&self, event_loop: &EventLoop, timeout: Option<Duration>) {
        assert!(timeout != Some(Duration::ZERO), "an idle timeout must be more than zero");
        self.idle_timeout.set(timeout);
        self.cancel_idle_timer(event_loop);
        if self.state.get() != ConnectionState::Closed {
            self.record_activity(event_loop);
            self.arm_idle_timer(event_loop);
        }
    }

    /// The timer has fired. Returns whether the handler's `on_idle` is due.
    pub(in crate::net) fn check_idle(&self, event_loop: &EventLoop) -> bool {
        self.idle_timer.set(None);
        if self.state.get() == ConnectionState::Closed {
            return false;
        }
        let idle = self.idle_deadline().is_some_and(|deadline| deadline <= event_loop.now());
        if idle {
            // Restarts the timeout, for a handler that keeps the connection.
            self.record_activity(event_loop);
        }
        self.arm_idle_timer(event_loop);
        // A connection that discards input has a deadline of its own, unless it does so because its
        // link has ended.
        idle && (!self.discarding.get() || (self.is_linked() && !self.has_close_deadline()))
    }

    pub(super) fn cancel_idle_timer(&self, event_loop: &EventLoop) {
        if let Some(timer) = self.idle_timer.take() {
            event_loop.cancel_deadline(timer);
        }
    }

    fn arm_idle_timer(&self, event_loop: &EventLoop) {
        if let Some(deadline) = self.idle_deadline() {
            self.idle_timer.set(Some(event_loop.set_deadline(self.id, deadline)));
        }
    }

    /// When the connection becomes idle if there is no further activity; `None` without a timeout.
    fn idle_deadline(&self) -> Option<Instant> {
        self.last_active.get()?.checked_add(self.idle_timeout.get()?)
    }
}
