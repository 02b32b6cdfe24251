//! What an inspector shows of a server. Read on any thread.

use std::time::Duration;

use super::ServerHandle;
use crate::event_loop::LoopHandle;
use crate::net::connection::inspection::GroupId;
use crate::net::group::Stage;
use crate::net::group::admission::{OverflowPolicy, ServerCounters};

#[derive(Clone, Debug)]
pub(crate) struct ServerSample {
    pub(crate) addresses: Vec<String>,
    pub(crate) stage: &'static str,
    pub(crate) is_paused: bool,
    pub(crate) open: u64,
    pub(crate) handshakes: u64,
    pub(crate) buffered: usize,
    pub(crate) loops: usize,
    pub(crate) live_loops: usize,
    pub(crate) counters: ServerCounters,
    pub(crate) max_connections: Option<u64>,
    pub(crate) max_per_address: Option<u64>,
    pub(crate) max_handshakes: Option<u64>,
    pub(crate) overflow_policy: OverflowPolicy,
    /// Of the server, or of all servers and clients that have no limit of their own.
    pub(crate) max_buffered: usize,
    pub(crate) max_unsent: usize,
    pub(crate) max_unread: usize,
    pub(crate) idle_timeout: Option<Duration>,
}

impl ServerHandle {
    pub(crate) fn sample(&self) -> ServerSample {
        let group = &self.group;
        let quota = group.admission.quota();
        ServerSample {
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            stage: match group.stage() {
                Stage::Serving => "serving",
                Stage::Draining => "stopping",
                Stage::Aborting | Stage::Resetting => "stopped",
            },
            is_paused: group.admission.is_paused(),
            open: group.open(),
            handshakes: group.admission.handshakes(),
            buffered: group.buffered(),
            loops: group.shards(),
            live_loops: group.live_loops(),
            counters: group.admission.counters(),
            max_connections: quota.connections,
            max_per_address: quota.per_address,
            max_handshakes: quota.handshakes,
            overflow_policy: quota.overflow_policy,
            max_buffered: group.budget().limit(),
            max_unsent: group.limits.max_unsent,
            max_unread: group.limits.max_unread,
            idle_timeout: group.limits.idle_timeout,
        }
    }

    pub(crate) fn group_id(&self) -> GroupId {
        GroupId::of(&self.group)
    }

    /// The loop that the server was bound to, and those that serve its connections.
    pub(crate) fn all_loops(&self) -> impl Iterator<Item = &LoopHandle> {
        let serving = (0..self.group.shards()).map(|shard| self.group.event_loop(shard));
        std::iter::once(&self.home).chain(serving)
    }

    /// Whether the server has been stopped or dropped, and its last connection has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.group.stage() != Stage::Serving && self.group.open() == 0
    }

    /// Whether this is a forked child of the process that built the server.
    pub(crate) fn is_inherited(&self) -> bool {
        self.group.is_inherited()
    }
}
