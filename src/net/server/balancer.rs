//! Which of a server's loops a connection goes to.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use crate::net::group::Group;
use crate::net::group::peer_key::Origin;

/// How a server over several loops [deals its connections out](crate::TcpServerBuilder::load_balancing).
///
/// A loop that has [ended](crate::LoopHandle::is_terminated) gets no more connections, and what was on its way there goes to another one. The
/// end of each is logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LoadBalancing {
    /// To one loop after the other. Even, as long as connections last about as long as each other.
    #[default]
    RoundRobin,
    /// To the loop that has the fewest connections; of several in turn. Evens out what has become uneven.
    LeastConnections,
    /// By the address of the peer, without the port, so that all connections of one client are on one loop, for as long as that
    /// lasts. Of an IPv6 address the [prefix](crate::TcpServerBuilder::ipv6_prefix) counts. Of a Unix socket's peers those of one user are on one loop. Clients are spread at random; few of them, or many behind one address, are spread unevenly.
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
pub(in crate::net) enum Dealer {
    RoundRobin(Cell<usize>),
    LeastConnections(Cell<usize>),
    PeerAddress(RandomState),
    /// That of the listener itself, and another one only when that is ending.
    One(usize),
}

impl Dealer {
    pub(in crate::net) fn new(distribution: LoadBalancing) -> Dealer {
        match distribution {
            LoadBalancing::RoundRobin => Dealer::RoundRobin(Cell::new(0)),
            LoadBalancing::LeastConnections => Dealer::LeastConnections(Cell::new(0)),
            LoadBalancing::PeerAddress => Dealer::PeerAddress(RandomState::new()),
            LoadBalancing::ListenerPerLoop => Dealer::One(0),
        }
    }

    /// A loop that has not ended. `None` if all have.
    pub(in crate::net) fn choose(&self, group: &Group, peer: Origin) -> Option<usize> {
        let shards = group.shards();
        match self {
            Dealer::RoundRobin(next) => {
                let found = in_turn(next.get(), shards).find(|shard| group.is_alive(*shard))?;
                next.set((found + 1) % shards);
                Some(found)
            }
            Dealer::LeastConnections(next) => {
                let alive = in_turn(next.get(), shards).filter(|shard| group.is_alive(*shard));
                let fewest = alive.min_by_key(|shard| group.open_on(*shard))?;
                next.set((fewest + 1) % shards);
                Some(fewest)
            }
            Dealer::PeerAddress(state) => {
                let usual = (state.hash_one(peer) % shards as u64) as usize;
                if group.is_alive(usual) {
                    return Some(usual);
                }
                // Of the others each peer has its own order, so that the end of one more loop moves only those that it has served.
                (0..shards)
                    .filter(|shard| group.is_alive(*shard))
                    .max_by_key(|shard| state.hash_one((peer, shard)))
            }
            Dealer::One(shard) => in_turn(*shard, shards).find(|shard| group.is_alive(*shard)),
        }
    }
}

/// All shards, from `first` on.
fn in_turn(first: usize, shards: usize) -> impl Iterator<Item = usize> {
    (first..shards).chain(0..first)
}
