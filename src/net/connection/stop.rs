//! The stop of a server, as one of its connections sees it.

use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::group::Stage;
use crate::net::result::CloseReason;
use crate::readiness::Readiness;

/// How far the server's stop has been delivered to the connection's handler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// `on_stop` is due in a later callback.
    Deferred,
    Delivered,
}

impl ConnectionCore {
    /// The stage of the group's shutdown.
    pub(in crate::net) fn stage(&self) -> Stage {
        self.membership.group().stage()
    }

    /// The server is stopping. Defers the handler's `on_stop`, since this may run inside one of its
    /// callbacks.
    pub(in crate::net) fn defer_stop(&self, event_loop: &EventLoop) {
        if self.stop.get() == Stop::No {
            self.stop.set(Stop::Deferred);
            event_loop.add_ready(self.id, Readiness::SELF_WAKE);
        }
    }

    /// Returns whether `on_stop` is due; the drain begins after it.
    pub(in crate::net) fn take_deferred_stop(&self) -> bool {
        let is_due = self.stop.get() == Stop::Deferred && self.state.get() != ConnectionState::Closed;
        if is_due {
            self.stop.set(Stop::Delivered);
        }
        is_due
    }

    /// Ends the connection together with its group. After the deadline of a stop, the connection is
    /// reset in any state, even if the stop was not delivered to it. A graceful close in progress
    /// also ends by a reset, since the peer may not have all data.
    pub(in crate::net) fn abort(&self, event_loop: &EventLoop) {
        let deadline_passed = self.stage() == Stage::Resetting;
        if deadline_passed {
            self.send_fin_before_reset(event_loop);
        }
        if deadline_passed || self.is_draining() {
            self.reset(event_loop, CloseReason::Stopped);
        } else {
            self.close(event_loop, CloseReason::Stopped);
        }
    }
}
