//! `PeerKey`: identifies the peer of a connection, for limits and load balancing.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;

use crate::net::address::Address;
use crate::net::sys::tcp_info::peer_credentials;

/// The credentials of the peer of a Unix socket. The kernel records them when the peer connects or
/// starts to listen (`SO_PEERCRED`, unix(7)).
///
/// The user and the group are reliable. The process may have ended since, and its id may have been
/// reused. A process that has inherited or received the socket writes with the same credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process id; `None` for a process outside this process's PID namespace.
    pub pid: Option<u32>,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

impl PeerCredentials {
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the socket is not a Unix socket; the error of
    /// getsockopt(2).
    pub(in crate::net) fn of(socket: impl AsFd, peer: &Address) -> io::Result<PeerCredentials> {
        if !peer.is_unix() {
            let message = "only a Unix socket has peer credentials";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let [pid, uid, gid] = peer_credentials(socket)?;
        Ok(PeerCredentials { pid: (pid != 0).then_some(pid), uid, gid })
    }
}

/// The identity of a peer, as limits and load balancing see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::net) enum PeerKey {
    /// An IPv4 address, also for an IPv4-mapped one, or the prefix of an IPv6 address.
    Host(IpAddr),
    /// A user of this machine; `None` if the credentials cannot be read.
    User(Option<u32>),
}

/// The number of leading bits of an IPv6 address that identify a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Ipv6Prefix(u8);

impl Default for Ipv6Prefix {
    /// 64 bits, the prefix of one network. Its hosts choose the other 64 bits themselves and may
    /// use all values.
    fn default() -> Ipv6Prefix {
        Ipv6Prefix(64)
    }
}

impl Ipv6Prefix {
    /// `None` if `bits` is more than 128, or 0, with which all addresses would have the same
    /// prefix.
    pub(in crate::net) fn new(bits: u8) -> Option<Ipv6Prefix> {
        (1..=128).contains(&bits).then_some(Ipv6Prefix(bits))
    }

    fn of(self, address: Ipv6Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - self.0)))
    }
}

impl PeerKey {
    pub(in crate::net) fn host(address: IpAddr, prefix: Ipv6Prefix) -> PeerKey {
        PeerKey::Host(match address.to_canonical() {
            IpAddr::V6(address) => prefix.of(address).into(),
            address => address,
        })
    }

    /// The key of an accepted socket's peer. Makes one system call for a Unix socket, and none
    /// otherwise.
    pub(in crate::net) fn of(socket: impl AsFd, peer: &Address, prefix: Ipv6Prefix) -> PeerKey {
        match peer {
            Address::Inet(address) => PeerKey::host(address.ip(), prefix),
            Address::Unix(_) => PeerKey::User(PeerCredentials::of(socket, peer).ok().map(|peer| peer.uid)),
            // No server accepts such a socket.
            Address::Unaddressed => PeerKey::User(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ipv6Prefix, PeerKey};

    fn are_one(bits: u8, one: &str, other: &str) -> bool {
        let prefix = Ipv6Prefix::new(bits).unwrap();
        let key = |address: &str| PeerKey::host(address.parse().unwrap(), prefix);
        key(one) == key(other)
    }

    #[test]
    fn addresses_with_the_same_prefix_have_one_key() {
        assert!(are_one(64, "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(!are_one(64, "2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(are_one(56, "2001:db8:1:2::1", "2001:db8:1:ff::1"));
        assert!(!are_one(56, "2001:db8:1:2::1", "2001:db8:1:102::1"));
        assert!(!are_one(128, "2001:db8::1", "2001:db8::2"));
        assert!(are_one(1, "::1", "2001:db8::2"));
        assert_eq!(Ipv6Prefix::default(), Ipv6Prefix::new(64).unwrap());
    }

    #[test]
    fn a_mapped_address_counts_as_ipv4_with_any_prefix() {
        for bits in [1, 64, 128] {
            assert!(are_one(bits, "::ffff:10.0.0.1", "10.0.0.1"));
            assert!(!are_one(bits, "::ffff:10.0.0.1", "::ffff:10.0.0.2"));
            assert!(!are_one(bits, "::ffff:10.0.0.1", "::1"));
        }
    }

    #[test]
    fn a_prefix_has_between_1_and_128_bits() {
        for bits in [0, 129, 255] {
            assert_eq!(Ipv6Prefix::new(bits), None);
        }
    }
}
