//! `Balancer`: selects the loop that serves a connection.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use crate::net::group::Group;
use crate::net::group::peer_key::PeerKey;

/// How a server [distributes its connections](crate::net::TcpServerBuilder::load_balancing) over
/// several loops.
///
/// A loop that has [ended](crate::LoopHandle::is_terminated) gets no more connections, and those on
/// their way to it go to another loop. The end of each loop is logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LoadBalancing {
    /// Each loop in turn. The distribution is even if connections last about equally long.
    #[default]
    RoundRobin,
    /// The loop with the fewest connections; in turn among equals. Evens out an uneven
    /// distribution.
    LeastConnections,
    /// By the address of the peer, without the port: all connections of one client are on one loop
    /// until that loop ends.
    ///
    /// Of an IPv6 address the [prefix](crate::net::TcpServerBuilder::ipv6_prefix) counts, of a Unix
    /// socket's peer the user. The hash is random. Few clients, or many behind one address, are
    /// distributed unevenly.
    PeerAddress,
    /// Each loop has a listening socket of its own (`SO_REUSEPORT`, socket(7)). The kernel selects
    /// one for each connection by a hash of both addresses and ports.
    ///
    /// No connection passes between threads, which suits many short ones. But the kernel does not
    /// know how busy a loop is, and a blocked loop delays the connections in its backlog. Another
    /// process of the same user can listen on the port as well. Unix sockets and [adopted
    /// sockets](crate::net::TcpServerBuilder::listener) do not support this: building such a server
    /// is an error.
    ListenerPerLoop,
}

/// Selects loops for one listener.
pub(in crate::net) enum Balancer {
    RoundRobin(Cell<usize>),
    LeastConnections(Cell<usize>),
    PeerAddress(RandomState),
    /// The listener's own loop, or another one if that is ending.
    Own(usize),
}

impl Balancer {
    pub(in crate::net) fn new(load_balancing: LoadBalancing) -> Balancer {
        match load_balancing {
            LoadBalancing::RoundRobin => Balancer::RoundRobin(Cell::new(0)),
            LoadBalancing::LeastConnections => Balancer::LeastConnections(Cell::new(0)),
            LoadBalancing::PeerAddress => Balancer::PeerAddress(RandomState::new()),
            LoadBalancing::ListenerPerLoop => Balancer::Own(0),
        }
    }

    /// Returns a loop that has not ended; `None` if all have.
    pub(in crate::net) fn pick(&self, group: &Group, peer: PeerKey) -> Option<usize> {
        let shards = group.shards();
        match self {
            Balancer::RoundRobin(next) => {
                let found = in_turn(next.get(), shards).find(|shard| group.is_alive(*shard))?;
                next.set((found + 1) % shards);
                Some(found)
            }
            Balancer::LeastConnections(next) => {
                let alive = in_turn(next.get(), shards).filter(|shard| group.is_alive(*shard));
                let fewest = alive.min_by_key(|shard| group.open_on(*shard))?;
                next.set((fewest + 1) % shards);
                Some(fewest)
            }
            Balancer::PeerAddress(state) => {
                let preferred = (state.hash_one(peer) % shards as u64) as usize;
                if group.is_alive(preferred) {
                    return Some(preferred);
                }
                // Each peer has its own order of the other loops (rendezvous hashing), so the end
                // of another loop moves only the peers that it served.
                (0..shards)
                    .filter(|shard| group.is_alive(*shard))
                    .max_by_key(|shard| state.hash_one((peer, shard)))
            }
            Balancer::Own(shard) => in_turn(*shard, shards).find(|shard| group.is_alive(*shard)),
        }
    }
}

/// All shards in cyclic order, starting at `first`.
fn in_turn(first: usize, shards: usize) -> impl Iterator<Item = usize> {
    (first..shards).chain(0..first)
}
