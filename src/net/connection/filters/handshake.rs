//! The handshakes of a connection's filters. Until they are done there is no handler, or it waits
//! for the upgrade of its connection, and output is held.

use std::io;

use super::Filtering;
use super::chain::Filters;
use crate::event_loop::EventLoop;
use crate::net::connection::{ConnectionCore, ConnectionState};
use crate::net::result::CloseReason;

/// Whether the filters can pass on the handler's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::net::connection) enum Handshake {
    /// A filter is not ready, or the filters are not created yet.
    #[default]
    InProgress,
    /// All filters are ready, and the handler is to be opened.
    Completed,
    Done,
}

impl Filtering {
    /// For a connection whose filters are created when it is established.
    pub(in crate::net::connection) fn expected() -> Box<Filtering> {
        Box::default()
    }

    /// For a connection that had no filters.
    pub(super) fn empty() -> Box<Filtering> {
        let filtering = Filtering::default();
        filtering.filters.set(Some(Filters::default()));
        filtering.handshake.set(Handshake::Done);
        Box::new(filtering)
    }
}

impl ConnectionCore {
    /// Creates the filters that the group's builder was given, and opens them. Returns whether the
    /// connection is still open.
    pub(in crate::net) fn open_filters(&self, event_loop: &EventLoop) -> bool {
        let Some(filtering) = self.filtering.get() else { return true };
        let factories = &self.membership.group().filters;
        let Some(filters) = event_loop.catch("the factory of a filter", || factories.create()) else {
            self.close(event_loop, CloseReason::Panicked);
            return false;
        };
        filtering.filters.set(Some(Filters::default()));
        self.begin_handshake(event_loop);
        self.run_filters(event_loop, |chain, event_loop, to_peer| {
            chain.add(self.id, filters, event_loop, to_peer)
        })
    }

    pub(super) fn begin_handshake(&self, event_loop: &EventLoop) {
        if let Some(filtering) = self.filtering.get() {
            filtering.handshake.set(Handshake::InProgress);
            self.set_frame_deadline(event_loop, Some(self.membership.group().limits.handshake_timeout));
        }
    }

    /// Whether a filter performs a handshake.
    pub(in crate::net) fn is_in_handshake(&self) -> bool {
        let handshake = self.filtering.get().map(|filtering| filtering.handshake.get());
        handshake == Some(Handshake::InProgress)
    }

    /// Checks, after the filters were called, whether the handshake is completed.
    pub(super) fn note_ready(&self, event_loop: &EventLoop) {
        let Some(filtering) = self.filtering.get().filter(|_| self.is_in_handshake()) else { return };
        let Some(filters) = filtering.filters.take() else { return };
        // User code, but it is given nothing to call back with.
        let are_ready = event_loop.catch_described("a filter", || self.describe(), || filters.are_ready());
        filtering.filters.set(Some(filters));
        match are_ready {
            Some(true) if self.state.get() != ConnectionState::Closed => {
                filtering.handshake.set(Handshake::Completed);
                self.set_frame_deadline(event_loop, None);
            }
            Some(_) => {}
            None => self.close(event_loop, CloseReason::Panicked),
        }
    }

    /// Returns `true` once after each handshake: the handler is to be opened, or notified of the
    /// upgrade.
    pub(in crate::net) fn take_completed_handshake(&self) -> bool {
        let Some(filtering) = self.filtering.get() else { return false };
        let is_completed = filtering.handshake.get() == Handshake::Completed;
        if is_completed {
            filtering.handshake.set(Handshake::Done);
        }
        is_completed && self.state.get() != ConnectionState::Closed
    }

    /// The deadline of the handshake has passed.
    pub(in crate::net) fn fail_handshake(&self, event_loop: &EventLoop) {
        let limit = self.membership.group().limits.handshake_timeout;
        let message = format!("the handshake was not completed within {limit:?}");
        self.close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::TimedOut, message)));
    }
}
