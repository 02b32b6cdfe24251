//! What an inspector shows of a connection. Collected on the connection's loop.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ConnectionCore, ConnectionId, ConnectionState};
use crate::event_loop::Source;
use crate::net::address::Address;
use crate::net::group::Group;
use crate::net::sys::stream;
use crate::net::sys::tcp_info::TcpInfo;

/// Identifies the server that accepted a connection, among those that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupId(usize);

impl GroupId {
    pub(in crate::net) fn of(group: &Arc<Group>) -> GroupId {
        GroupId(Arc::as_ptr(group).addr())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ConnectionSample {
    pub(crate) id: ConnectionId,
    pub(crate) group: GroupId,
    /// `None` while the connection is not established.
    pub(crate) peer: Option<Address>,
    /// The type of the handler.
    pub(crate) handler: &'static str,
    pub(crate) age: Duration,
    pub(crate) state: ConnectionState,
    /// The bytes of TCP's payload, as the kernel counts them; `None` for other streams.
    pub(crate) received: Option<u64>,
    /// Without retransmissions.
    pub(crate) sent: Option<u64>,
    pub(crate) unsent: usize,
    pub(crate) unread: usize,
}

/// More about one connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionDetails {
    pub(crate) sample: ConnectionSample,
    pub(crate) local: Option<Address>,
    pub(crate) descriptor: Option<RawFd>,
    pub(crate) is_reading: bool,
    pub(crate) peer_has_finished: bool,
    pub(crate) is_in_handshake: bool,
    pub(crate) is_linked: bool,
    /// The bytes of all output, input and requests that the connection holds.
    pub(crate) memory: usize,
    pub(crate) tcp: Option<TcpInfo>,
}

/// Samples a source that is a connection. Makes at most one system call.
pub(crate) fn sample(source: &dyn Source, now: Instant) -> Option<ConnectionSample> {
    let core = core_of(source)?;
    let tcp = core.tcp_info();
    Some(core.sample(source, tcp.as_ref(), now))
}

pub(crate) fn details(source: &dyn Source, now: Instant) -> Option<ConnectionDetails> {
    let core = core_of(source)?;
    let tcp = core.tcp_info();
    Some(ConnectionDetails {
        sample: core.sample(source, tcp.as_ref(), now),
        local: core.transport.socket().and_then(stream::local_address).ok(),
        descriptor: core.transport.fd().map(|fd| fd.as_raw_fd()),
        is_reading: core.is_reading(),
        peer_has_finished: core.peer_finished.get(),
        is_in_handshake: core.membership.is_in_handshake(),
        is_linked: core.is_still_linked(),
        memory: core.reported_memory.get(),
        tcp,
    })
}

fn core_of(source: &dyn Source) -> Option<&ConnectionCore> {
    source.core()?.downcast_ref()
}

impl ConnectionCore {
    fn tcp_info(&self) -> Option<TcpInfo> {
        self.known_peer().filter(|peer| peer.is_inet())?;
        self.transport.socket().and_then(TcpInfo::of).ok()
    }

    fn sample(&self, source: &dyn Source, tcp: Option<&TcpInfo>, now: Instant) -> ConnectionSample {
        let sent = |tcp: &TcpInfo| Some(tcp.bytes_sent?.saturating_sub(tcp.bytes_retrans?));
        ConnectionSample {
            id: self.connection_id,
            group: GroupId::of(self.membership.group()),
            peer: self.known_peer().cloned(),
            handler: source.describe().handler_type().unwrap_or_default(),
            age: now.saturating_duration_since(self.created),
            state: self.state(),
            received: tcp.and_then(|tcp| tcp.bytes_received),
            sent: tcp.and_then(sent),
            unsent: self.unsent(),
            unread: self.unread_len(),
        }
    }
}
