//! The settings of whom a server takes, and how it shares its connections out.

use super::{MultiLoop, TcpServerBuilder};
use crate::net::group::admission::OverflowPolicy;
use crate::net::group::peer_key::Ipv6Prefix;
use crate::net::server::balancer::LoadBalancing;

impl<S> TcpServerBuilder<'_, S> {
    /// How many connections the server may have at a time, on all its loops. Usually there is no limit but that of descriptors.
    ///
    /// What becomes of others is said by [`at_maximum`](TcpServerBuilder::overflow_policy). A server that lets them wait makes no
    /// system call for it, apart from the wait that their coming ends, and goes on as soon as a connection has closed,
    /// on whichever loop. With 0 it takes nobody.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.quota.connections = Some(connections as u64);
        self
    }

    /// What becomes of connections that come while there are [as many as there may be](TcpServerBuilder::max_connections). Usually they
    /// wait.
    pub fn overflow_policy(mut self, policy: OverflowPolicy) -> Self {
        self.settings.quota.overflow_policy = policy;
        self
    }

    /// How many connections of one address the server may have at a time, on all its loops; others are closed as soon as they are
    /// accepted, and [counted](crate::ServerCounters::refused_by_address). Usually there is no limit.
    ///
    /// What counts is the address without the port. Clients behind one router share one. Of an IPv6 address only the
    /// [prefix](TcpServerBuilder::ipv6_prefix) counts, as a host may have any number of addresses; one that stands for an IPv4 address
    /// counts as that. Of a Unix socket's peers it is the user that counts.
    pub fn max_per_address(mut self, connections: usize) -> Self {
        self.settings.quota.per_address = Some(connections as u64);
        self
    }

    /// How many leading bits of an IPv6 address count as the address: for [`max_per_address`](TcpServerBuilder::max_per_address), and
    /// for the loop that [`LoadBalancing::PeerAddress`] chooses. Default: 64, the prefix of one network, of which a single host can use
    /// every address. Providers often assign 56 or 48 bits to one customer.
    ///
    /// # Panics
    /// If `bits` is not between 1 and 128.
    #[track_caller]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        let prefix = Ipv6Prefix::new(bits);
        self.settings.quota.ipv6_prefix = prefix.expect("the prefix of an IPv6 address has 1 to 128 bits");
        self
    }

    /// How many connections a loop accepts in one turn before it sees to those that are open. Usually 128; 0 counts as 1.
    pub fn accepts_per_turn(mut self, connections: usize) -> Self {
        self.settings.accepts_per_turn = connections.max(1);
        self
    }
}

impl TcpServerBuilder<'_, MultiLoop> {
    /// How the connections are shared out over the loops. Usually [in turn](LoadBalancing::RoundRobin).
    pub fn load_balancing(mut self, distribution: LoadBalancing) -> Self {
        self.spread.distribution = distribution;
        self
    }
}
