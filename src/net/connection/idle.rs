//! How long a connection may be idle.
//!
//! What happens on a connection is noted in the connection, a store and nothing else. Its one timer is not moved: when it comes due it
//! looks at the note, and waits for the rest of the time. So a busy connection costs a timer's firing a timeout, not a message.

use std::time::{Duration, Instant};

use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;

impl ConnectionCore {
    /// Notes that bytes have come, or gone, if that matters to anybody: a turn for which nobody asks the time does not read the clock.
    #[inline]
    pub(super) fn record_activity(&self, event_loop: &EventLoop) {
        if self.idle_timeout.get().is_some() {
            self.last_active.set(Some(event_loop.now()));
        }
    }

    /// Begins to watch, as the group's limits say.
    pub(in crate::net) fn start_idle_timeout(&self, event_loop: &EventLoop) {
        if let Some(timeout) = self.membership.group().limits.idle_timeout {
            self.set_idle_timeout(event_loop, Some(timeout));
        }
    }

    #[track_caller]
    pub(super) fn set_idle_timeout(&self, event_loop: &EventLoop, timeout: Option<Duration>) {
        assert!(timeout != Some(Duration::ZERO), "a connection cannot be idle for no time at all");
        self.idle_timeout.set(timeout);
        self.cancel_idle_timer(event_loop);
        if self.state.get() != ConnectionState::Closed {
            self.record_activity(event_loop);
            self.arm_idle_timer(event_loop);
        }
    }

    /// The timer has come due. Answers whether the handler is to be told that nothing has happened for so long.
    pub(in crate::net) fn check_idle(&self, event_loop: &EventLoop) -> bool {
        self.idle_timer.set(None);
        if self.state.get() == ConnectionState::Closed {
            return false;
        }
        let idle = self.idle_deadline().is_some_and(|deadline| deadline <= event_loop.now());
        if idle {
            // The time begins anew, for a handler that keeps the connection.
            self.record_activity(event_loop);
        }
        self.arm_idle_timer(event_loop);
        // A connection that throws input away has a deadline besides, unless it does so because its link is over.
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

    /// From when on the connection counts as idle, if nothing happens. `None` if it never does.
    fn idle_deadline(&self) -> Option<Instant> {
        self.last_active.get()?.checked_add(self.idle_timeout.get()?)
    }
}
