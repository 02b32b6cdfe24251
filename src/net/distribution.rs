//! Which of a server's loops a connection goes to.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use super::group::Group;
use super::origin::Origin;

/// How a server over several loops [deals its connections out](crate::TcpServerBuilder::distribute).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Distribution {
    /// To one loop after the other. Even, as long as connections last about as long as each other.
    #[default]
    RoundRobin,
    /// To the loop that has the fewest connections; of several in turn. Evens out what has become uneven.
    LeastConnections,
    /// By the address of the peer, without the port, so that all connections of one client are on one loop, for as long as the
    /// server lasts. Of an IPv6 address the [prefix](crate::TcpServerBuilder::ipv6_prefix) counts. Of a Unix socket's peers those of one user are on one loop. Clients are spread at random; few of them, or many behind one address, are spread unevenly.
    PeerAddress,
    /// Each loop has a listening socket of its own (`SO_REUSEPORT`, socket(7)), and the kernel chooses one for each connection by a
    /// hash of both addresses and ports.
    ///
    /// No connection passes between threads, which suits many short ones; but the kernel knows nothing of how busy a loop is,
    /// and one that is held up keeps those waiting which it has been given. Another process of the same user can listen on the port
    /// as well. Unix sockets do not have this; to make such a server is an error.
    ListenerPerLoop,
}

/// Chooses for one listener.
pub(super) enum Dealer {
    RoundRobin(Cell<usize>),
    LeastConnections(Cell<usize>),
    PeerAddress(RandomState),
    /// That of the listener itself.
    One(usize),
}

impl Dealer {
    pub(super) fn new(distribution: Distribution) -> Dealer {
        match distribution {
            Distribution::RoundRobin => Dealer::RoundRobin(Cell::new(0)),
            Distribution::LeastConnections => Dealer::LeastConnections(Cell::new(0)),
            Distribution::PeerAddress => Dealer::PeerAddress(RandomState::new()),
            Distribution::ListenerPerLoop => Dealer::One(0),
        }
    }

    pub(super) fn choose(&self, group: &Group, peer: Origin) -> usize {
        let shards = group.shards();
        match self {
            Dealer::RoundRobin(next) => next.replace((next.get() + 1) % shards),
            Dealer::LeastConnections(next) => {
                let in_turn = (next.get()..shards).chain(0..next.get());
                let fewest = in_turn.min_by_key(|shard| group.open_on(*shard)).unwrap_or(0);
                next.set((fewest + 1) % shards);
                fewest
            }
            Dealer::PeerAddress(state) => {
                let shards = u64::try_from(shards).unwrap_or(u64::MAX);
                (state.hash_one(peer) % shards) as usize
            }
            Dealer::One(shard) => *shard,
        }
    }
}
