//! Who is at the other end of a connection, for limits and for choosing a loop.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;

use crate::net::address::Address;
use crate::net::sys::tcp_info::peer_credentials;

/// Who is at the other end of a Unix socket, as the kernel noted it when that end connected, or began to listen (`SO_PEERCRED`,
/// unix(7)).
///
/// The user and the group can be relied on. The process may have ended since, and its number be another's by now; and whoever has
/// inherited the socket or was given it writes with the same credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process; `None` for one outside of this process's namespace.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl PeerCredentials {
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the socket is none of the Unix family, and what the kernel says.
    pub(in crate::net) fn of(socket: impl AsFd, peer: &Address) -> io::Result<PeerCredentials> {
        if !peer.is_unix() {
            let message = "only a Unix socket knows who is at its other end";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let [pid, uid, gid] = peer_credentials(socket)?;
        Ok(PeerCredentials { pid: (pid != 0).then_some(pid), uid, gid })
    }
}

/// Whose connection it is, as far as limits and the choice of a loop go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::net) enum Origin {
    /// An IPv4 address, also of a client whose address is mapped into IPv6, or the prefix of an IPv6 address.
    Host(IpAddr),
    /// A user of this machine; `None` if the kernel does not tell.
    User(Option<u32>),
}

/// How many leading bits of an IPv6 address say whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Ipv6Prefix(u8);

impl Default for Ipv6Prefix {
    /// That of one network: its hosts choose the other 64 bits themselves, and may use all of them.
    fn default() -> Ipv6Prefix {
        Ipv6Prefix(64)
    }
}

impl Ipv6Prefix {
    /// `None` if there are no such prefixes, or all addresses would have the same.
    pub(in crate::net) fn new(bits: u8) -> Option<Ipv6Prefix> {
        (1..=128).contains(&bits).then_some(Ipv6Prefix(bits))
    }

    fn of(self, address: Ipv6Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - self.0)))
    }
}

impl Origin {
    pub(in crate::net) fn host(address: IpAddr, prefix: Ipv6Prefix) -> Origin {
        Origin::Host(match address.to_canonical() {
            IpAddr::V6(address) => prefix.of(address).into(),
            address => address,
        })
    }

    /// That of an accepted socket. One system call if it is a Unix socket, none otherwise.
    pub(in crate::net) fn of(socket: impl AsFd, peer: &Address, prefix: Ipv6Prefix) -> Origin {
        match peer {
            Address::Inet(address) => Origin::host(address.ip(), prefix),
            Address::Unix(_) => Origin::User(PeerCredentials::of(socket, peer).ok().map(|peer| peer.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ipv6Prefix, Origin};

    fn are_one(bits: u8, one: &str, other: &str) -> bool {
        let prefix = Ipv6Prefix::new(bits).unwrap();
        let origin = |address: &str| Origin::host(address.parse().unwrap(), prefix);
        origin(one) == origin(other)
    }

    #[test]
    fn addresses_with_the_same_prefix_are_one_origin() {
        assert!(are_one(64, "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(!are_one(64, "2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(are_one(56, "2001:db8:1:2::1", "2001:db8:1:ff::1"));
        assert!(!are_one(56, "2001:db8:1:2::1", "2001:db8:1:102::1"));
        assert!(!are_one(128, "2001:db8::1", "2001:db8::2"));
        assert!(are_one(1, "::1", "2001:db8::2"));
        assert_eq!(Ipv6Prefix::default(), Ipv6Prefix::new(64).unwrap());
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address_whatever_the_prefix() {
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
