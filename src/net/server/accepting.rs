//! Builder settings for accepting connections: limits, accept quota and load balancing.

use std::time::Duration;

use super::{MultiLoop, TcpServerBuilder};
use crate::net::group::admission::{OverflowPolicy, Rate};
use crate::net::group::peer_key::Ipv6Prefix;
use crate::net::server::balancer::LoadBalancing;

impl<S> TcpServerBuilder<'_, S> {
    /// The maximum number of open connections, over all loops of the server. Default: no limit
    /// other than the number of file descriptors.
    ///
    /// [`overflow_policy`](TcpServerBuilder::overflow_policy) decides about further connections.
    /// With [`OverflowPolicy::Queue`] a server at the limit makes no system call, apart from the
    /// wake-ups by new connections. It accepts again as soon as a connection closes, on any loop.
    /// With 0 it serves no connection, and the policy decides about all of them.
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
    /// counted per user. With 0 all are rejected.
    pub fn max_per_address(mut self, connections: usize) -> Self {
        self.settings.quota.per_address = Some(connections as u64);
        self
    }

    /// The maximum number of connections whose [filters](crate::net::Filter) perform their
    /// handshakes, for example those of TLS, over all loops of the server. A server without filters
    /// ignores it. With 0 it accepts nothing.
    ///
    /// At the limit the server accepts no more connections. They wait in the kernel's
    /// [backlog](TcpServerBuilder::backlog), with each [overflow
    /// policy](TcpServerBuilder::overflow_policy), until a handshake is completed or fails. So the
    /// limit bounds the memory and the work of handshakes that have begun, and delays clients
    /// instead of rejecting them. The handshakes of open connections that are
    /// [upgraded](crate::TcpConnection::add_filter) do not count.
    ///
    /// Default: no limit other than that of [connections](TcpServerBuilder::max_connections). With
    /// a limit, that many silent clients delay all others for the [time of a
    /// handshake](crate::net::ConnectionLimits::handshake_timeout), so a limit [per
    /// address](TcpServerBuilder::max_per_address) should be set too.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.settings.quota.handshakes = Some(handshakes as u64);
        self
    }

    /// The maximum number of handshakes that a peer address may begin within the time `per`, over
    /// all loops of the server. Further connections are
    /// [rejected](crate::net::ServerCounters::rejected_by_handshake_rate). Default: no limit. A
    /// server without filters ignores it. With 0 it rejects all connections.
    ///
    /// The limit is a token bucket: an address may begin `handshakes` at once, and then one more
    /// after each `per / handshakes`. Addresses are those of
    /// [`max_per_address`](TcpServerBuilder::max_per_address). An address without handshakes is
    /// forgotten after twice the time `per`, and the memory for all of them is at most 3 MiB: of
    /// more than about 28,000 addresses in the time `per`, some are forgotten early.
    ///
    /// ```
    /// use reveille::net::{ConnectionLimits, Filter};
    /// use reveille::{EventLoop, TcpServer};
    /// use std::time::Duration;
    ///
    /// # struct Tls;
    /// # impl Filter for Tls {}
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let _server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .filter(|| Tls)
    ///     .limits(ConnectionLimits::new().handshake_timeout(Duration::from_secs(5)))
    ///     .max_per_address(100)
    ///     .max_handshakes(1000)
    ///     .max_handshakes_per_address(20, Duration::from_secs(1))
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If `per` is zero.
    #[track_caller]
    pub fn max_handshakes_per_address(mut self, handshakes: usize, per: Duration) -> Self {
        assert!(!per.is_zero(), "the time of a rate must be more than zero");
        let handshakes = u32::try_from(handshakes).unwrap_or(u32::MAX);
        self.settings.quota.handshake_rate = Some(Rate::new(handshakes, per));
        self
    }

    /// The number of leading bits of an IPv6 address that identify a peer, for
    /// [`max_per_address`](TcpServerBuilder::max_per_address),
    /// [`max_handshakes_per_address`](TcpServerBuilder::max_handshakes_per_address) and
    /// [`LoadBalancing::PeerAddress`]. Default: 64, the prefix of one network, of which a single
    /// host can use every address. Providers often assign 56 or 48 bits to one customer.
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
