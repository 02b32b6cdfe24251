//! The back ends and the selection of one for each connection. Without I/O and without a clock.

use std::net::SocketAddr;
use std::str::FromStr;

/// How a back end is selected. Only those count that are up, not draining, and below their limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest connections; in turn among equals.
    LeastConnections,
}

impl FromStr for Policy {
    type Err = ();

    fn from_str(text: &str) -> Result<Policy, ()> {
        match text {
            "round-robin" => Ok(Policy::RoundRobin),
            "least-connections" => Ok(Policy::LeastConnections),
            _ => Err(()),
        }
    }
}

/// A back end of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The maximum number of connections.
    pub(crate) limit: Option<usize>,
}

/// Identifies a back end from its first configuration until it is removed. A later one with the
/// same address has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BackendId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) id: BackendId,
    pub(crate) address: SocketAddr,
    limit: Option<usize>,
    pub(crate) connections: usize,
    pub(crate) is_up: bool,
    /// Not in the configuration any more: its connections continue, and it gets no new ones.
    pub(crate) is_draining: bool,
}

impl Backend {
    fn is_eligible(&self, tried: &[BackendId]) -> bool {
        self.is_up
            && !self.is_draining
            && self.limit.is_none_or(|limit| self.connections < limit)
            && !tried.contains(&self.id)
    }
}

/// The back ends, in the order of the configuration; those that drain are last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backends {
    policy: Policy,
    list: Vec<Backend>,
    /// The position at which the next selection begins.
    next: usize,
    last_id: u64,
}

/// What a change of the configuration has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: usize,
    pub(crate) kept: usize,
    /// Removed, with connections that continue.
    pub(crate) draining: usize,
    /// Removed, without connections.
    pub(crate) removed: usize,
}

impl Backends {
    /// Selects a back end that is not among those `tried`, and counts a connection to it.
    pub(crate) fn select(&mut self, tried: &[BackendId]) -> Option<(BackendId, SocketAddr)> {
        let count = self.list.len();
        let in_turn = (0..count).map(|offset| (self.next + offset) % count);
        let mut eligible = in_turn.filter(|&at| self.list[at].is_eligible(tried));
        let at = match self.policy {
            Policy::RoundRobin => eligible.next(),
            // Of equals the first, which is the one that is due.
            Policy::LeastConnections => eligible.min_by_key(|&at| self.list[at].connections),
        }?;
        self.next = (at + 1) % count;
        let backend = &mut self.list[at];
        backend.connections += 1;
        Some((backend.id, backend.address))
    }

    /// Ends a connection that was counted. Returns the address of a back end that has drained by
    /// this, and is removed.
    pub(crate) fn release(&mut self, id: BackendId) -> Option<SocketAddr> {
        let at = self.list.iter().position(|backend| backend.id == id)?;
        let backend = &mut self.list[at];
        backend.connections = backend.connections.saturating_sub(1);
        if !backend.is_draining || backend.connections > 0 {
            return None;
        }
        let address = backend.address;
        self.list.remove(at);
        Some(address)
    }

    /// Records the health of a back end. Returns whether it has changed.
    pub(crate) fn set_up(&mut self, id: BackendId, is_up: bool) -> bool {
        match self.list.iter_mut().find(|backend| backend.id == id) {
            Some(backend) => std::mem::replace(&mut backend.is_up, is_up) != is_up,
            None => false,
        }
    }

    /// Whether the back end is in the configuration.
    pub(crate) fn is_configured(&self, id: BackendId) -> bool {
        self.list.iter().any(|backend| backend.id == id && !backend.is_draining)
    }

    pub(crate) fn list(&self) -> &[Backend] {
        &self.list
    }

    /// Takes a new configuration. A back end that stays keeps its connections and its health. A new
    /// one is up until a connection to it fails, and so is one that was draining: it was not probed
    /// meanwhile.
    pub(crate) fn configure(&mut self, policy: Policy, targets: &[Target]) -> Change {
        let mut change = Change::default();
        let mut old = std::mem::take(&mut self.list);
        for &Target { address, limit } in targets {
            let backend = match old.iter().position(|backend| backend.address == address) {
                Some(at) => {
                    change.kept += 1;
                    let before = old.remove(at);
                    let is_up = before.is_up || before.is_draining;
                    Backend { limit, is_up, is_draining: false, ..before }
                }
                None => {
                    change.added += 1;
                    self.last_id += 1;
                    let id = BackendId(self.last_id);
                    Backend { id, address, limit, connections: 0, is_up: true, is_draining: false }
                }
            };
            self.list.push(backend);
        }
        for backend in old {
            if backend.connections > 0 {
                change.draining += 1;
                self.list.push(Backend { is_draining: true, ..backend });
            } else {
                change.removed += 1;
            }
        }
        self.policy = policy;
        self.next = 0;
        change
    }
}
