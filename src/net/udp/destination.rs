//! The destination of a received datagram, and the source of a sent one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The destination of a received datagram, from
/// [`UdpRef::destination`](crate::net::UdpRef::destination).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct UdpDestination {
    /// The destination address of the datagram: a local address, a multicast group, or a broadcast
    /// address. It is IPv4 for an IPv4 datagram, on an IPv6 socket too.
    pub ip: IpAddr,
    /// The index of the network interface that received the datagram; 0 on a socket that is bound
    /// to one address.
    pub interface: u32,
    pub(super) source: Option<UdpSource>,
}

impl UdpDestination {
    /// The source for a reply: the address that the datagram was sent to. `None` if that is a
    /// multicast group or a broadcast address, which cannot be a source, and on a socket that is
    /// bound to one address, which needs no other.
    pub fn source(&self) -> Option<UdpSource> {
        self.source
    }
}

/// The source of a datagram: a local address.
///
/// Made from an [`IpAddr`], or returned by [`UdpDestination::source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpSource {
    ip: IpAddr,
    interface: u32,
}

impl UdpSource {
    /// Sends the datagram through the network interface with this index. Default: the one that the
    /// kernel's routes choose. A link-local IPv6 address is specific to an interface, so
    /// [`UdpDestination::source`] sets the interface for such an address.
    pub fn through(self, interface: u32) -> UdpSource {
        UdpSource { interface, ..self }
    }

    /// The source address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The index of the network interface; 0 if the routes choose it.
    pub fn interface(&self) -> u32 {
        self.interface
    }
}

impl From<IpAddr> for UdpSource {
    fn from(ip: IpAddr) -> UdpSource {
        UdpSource { ip: ip.to_canonical(), interface: 0 }
    }
}

impl From<Ipv4Addr> for UdpSource {
    fn from(address: Ipv4Addr) -> UdpSource {
        UdpSource::from(IpAddr::V4(address))
    }
}

impl From<Ipv6Addr> for UdpSource {
    fn from(address: Ipv6Addr) -> UdpSource {
        UdpSource::from(IpAddr::V6(address))
    }
}
