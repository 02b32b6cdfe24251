//! The clients of an inspector.

use std::time::Instant;

use crate::net::ConnectionId;
use crate::net::connection::ConnectionHandle;

/// The number of clients that stay connected.
pub(super) const MAX_CLIENTS: usize = 64;

/// The connected clients. If there are too many, the one that has been silent longest is
/// disconnected: idle connections cannot keep a new client out.
#[derive(Default)]
pub(super) struct Clients(Vec<(ConnectionHandle, Instant)>);

impl Clients {
    pub(super) fn add(&mut self, client: ConnectionHandle, now: Instant) {
        if self.0.len() >= MAX_CLIENTS {
            let silent = (0..self.0.len()).min_by_key(|n| self.0[*n].1);
            let (silent, _) = self.0.swap_remove(silent.unwrap_or_default());
            silent.close();
        }
        self.0.push((client, now));
    }

    /// The client has sent a request.
    pub(super) fn note_request(&mut self, client: ConnectionId, now: Instant) {
        if let Some((_, last)) = self.0.iter_mut().find(|(known, _)| known.id() == client) {
            *last = now;
        }
    }

    pub(super) fn remove(&mut self, client: ConnectionId) {
        self.0.retain(|(known, _)| known.id() != client);
    }
}
