//! Builder settings for accepting connections: limits, accept quota and load balancing.

use super::{MultiLoop, TcpServerBuilder};
use crate::net::group::admission::OverflowPolicy;
use crate::net::group::peer_key::Ipv6Prefix;
use crate::net::server::balancer::LoadBalancing;

impl<S> TcpServerBuilder<'_, S> {
    /// The maximum number of open connections, over all loops of the server. Default: no limit
    /// other than the number of file descriptors.
    ///
    /// [`overflow_policy`](TcpServerBuilder::overflow_policy) decides about further connections.
    /// With [`OverflowPolicy::Queue`] a server at the limit makes no system call, apart from the
    /// wake-ups by new connections. It accepts again as soon as a connection closes, on any loop.
    /// With 0 it accepts nothing.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.quota.connections = Some(connections as u64);
        self
    }

    /// The policy for connections that arrive at the [maximum](TcpServerBuilder::max_connections).
    /// Default: [`OverflowPolicy::Queue`].
    pub fn overflow_policy(mut self, policy: OverflowPolicy) -> Self {
        self.settings.quota.overflow_policy = policy;
        self
    }

    /// The maximum number of open connections per peer address, over all loops of the server.
    /// Further ones are [rejected](crate::net::ServerCounters::rejected_by_address). Default: no
    /// limit.
    ///
    /// The port is ignored. Clients behind one router share one address. Of an IPv6 address only
    /// the [prefix](TcpServerBuilder::ipv6_prefix) counts, since a host may have any number of
    /// addresses; an IPv4-mapped address counts as the IPv4 address. Peers of a Unix socket are
    /// counted per user.
    pub fn max_per_address(mut self, connections: usize) -> Self {
        self.settings.quota.per_address = Some(connections as u64);
        self
    }

    /// The number of leading bits of an IPv6 address that identify a peer, for
    /// [`max_per_address`](TcpServerBuilder::max_per_address) and [`LoadBalancing::PeerAddress`].
    /// Default: 64, the prefix of one network, of which a single host can use every address.
    /// Providers often assign 56 or 48 bits to one customer.
    ///
    /// # Panics
    /// If `bits` is not between 1 and 128.
    #[track_caller]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        let prefix = Ipv6Prefix::new(bits);
        self.settings.quota.ipv6_prefix = prefix.expect("the prefix of an IPv6 address has 1 to 128 bits");
        self
    }

    /// The maximum number of connections that a loop accepts per turn before it serves the open
    /// ones. Default: 128. 0 counts as 1.
    pub fn accepts_per_turn(mut self, connections: usize) -> Self {
        self.settings.accepts_per_turn = connections.max(1);
        self
    }
}

impl TcpServerBuilder<'_, MultiLoop> {
    /// How connections are distributed over the loops. Default: [`LoadBalancing::RoundRobin`].
    pub fn load_balancing(mut self, load_balancing: LoadBalancing) -> Self {
        self.loops.load_balancing = load_balancing;
        self
    }
}
