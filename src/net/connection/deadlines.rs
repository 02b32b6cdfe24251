//! The deadlines of a connection: its idle timeout, the deadline of its handler, and that of an
//! incomplete frame.
//!
//! Activity, and a new deadline, store a time in the connection and do nothing else. The one timer
//! of the connection is moved only to an earlier time. When it fires, it checks the deadlines and
//! waits for the next. A connection that moves its deadline with every message therefore costs one
//! timer expiry per deadline, not per message.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::event_loop::timers::timer_queue::TimerKey;

#[derive(Default)]
pub(super) struct Deadlines {
    /// The idle timeout, if there is one.
    idle_timeout: Cell<Option<Duration>>,
    /// When bytes were last received or sent.
    last_active: Cell<Option<Instant>>,
    handler: Cell<Option<Instant>>,
    frame: Cell<Option<Instant>>,
    /// The armed timer, and when it fires.
    timer: Cell<Option<(TimerKey, Instant)>>,
}

/// The deadlines that have passed.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Passed {
    pub(in crate::net) idle: bool,
    pub(in crate::net) handler: bool,
    pub(in crate::net) frame: bool,
}

impl Deadlines {
    /// When the connection becomes idle if there is no further activity; `None` without a timeout.
    fn idle(&self) -> Option<Instant> {
        self.last_active.get()?.checked_add(self.idle_timeout.get()?)
    }

    fn next(&self) -> Option<Instant> {
        [self.idle(), self.handler.get(), self.frame.get()].into_iter().flatten().min()
    }
}

impl ConnectionCore {
    /// Records that bytes were received or sent. Without an idle timeout the clock is not read.
    #[inline]
    pub(super) fn record_activity(&self, event_loop: &EventLoop) {
        if self.deadlines.idle_timeout.get().is_some() {
            self.deadlines.last_active.set(Some(event_loop.now()));
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
        self.deadlines.idle_timeout.set(timeout);
        self.record_activity(event_loop);
        self.arm_timer(event_loop);
    }

    /// Sets the deadline of the handler. A deadline beyond the range of the clock never passes.
    pub(super) fn set_deadline(&self, event_loop: &EventLoop, within: Option<Duration>) {
        self.deadlines.handler.set(within.and_then(|within| event_loop.now().checked_add(within)));
        self.arm_timer(event_loop);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.handler.get()
    }

    /// Sets the deadline of an incomplete frame.
    pub(super) fn set_frame_deadline(&self, event_loop: &EventLoop, within: Option<Duration>) {
        self.deadlines.frame.set(within.and_then(|within| event_loop.now().checked_add(within)));
        self.arm_timer(event_loop);
    }

    /// The timer has fired. Returns the deadlines that have passed, for the handler.
    pub(in crate::net) fn take_passed_deadlines(&self, event_loop: &EventLoop) -> Passed {
        self.deadlines.timer.set(None);
        if self.state.get() == ConnectionState::Closed {
            return Passed::default();
        }
        let now = event_loop.now();
        let has_passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let Deadlines { handler, frame, .. } = &self.deadlines;
        let passed = Passed {
            idle: has_passed(self.deadlines.idle()),
            handler: has_passed(handler.get()),
            frame: has_passed(frame.get()),
        };
        if passed.idle {
            // Restarts the timeout, for a handler that keeps the connection.
            self.record_activity(event_loop);
        }
        if passed.handler {
            handler.set(None);
        }
        if passed.frame {
            frame.set(None);
        }
        self.arm_timer(event_loop);
        // A connection that discards input has a deadline of its own, unless it does so because its
        // link has ended.
        let is_ending = self.is_draining() && (!self.is_linked() || self.has_close_deadline());
        if is_ending { Passed::default() } else { passed }
    }

    pub(super) fn cancel_deadlines(&self, event_loop: &EventLoop) {
        if let Some((timer, _)) = self.deadlines.timer.take() {
            event_loop.cancel_deadline(timer);
        }
    }

    /// Makes sure that the timer fires at the next deadline, or before it.
    fn arm_timer(&self, event_loop: &EventLoop) {
        let Some(next) = self.deadlines.next() else { return };
        if self.state.get() == ConnectionState::Closed {
            return;
        }
        match self.deadlines.timer.get() {
            Some((_, at)) if at <= next => return,
            Some((timer, _)) => event_loop.cancel_deadline(timer),
            None => {}
        }
        self.deadlines.timer.set(Some((event_loop.set_deadline(self.id, next), next)));
    }
}
