//! Where a datagram was sent to, and where one is sent from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a received datagram was sent to, from [`UdpRef::destination`](crate::UdpRef::destination).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct UdpDestination {
    /// The address in the datagram: one of this machine, a multicast group, or a broadcast address. That of an IPv4 datagram is
    /// IPv4, also on an IPv6 socket.
    pub address: IpAddr,
    /// The number of the network interface that the datagram came through, and 0 on a socket that is bound to one address.
    pub interface: u32,
    pub(super) source: Option<UdpSource>,
}

impl UdpDestination {
    /// The source of a reply: the address that the datagram was sent to. `None` if that is a multicast group or a broadcast
    /// address, which no datagram may come from, and on a socket that is bound to one address, which needs no other.
    pub fn source(&self) -> Option<UdpSource> {
        self.source
    }
}

/// Where a datagram is sent from: an address of this machine.
///
/// Made from an [`IpAddr`], or returned by [`UdpDestination::source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpSource {
    address: IpAddr,
    interface: u32,
}

impl UdpSource {
    /// Has the datagram leave through the network interface with this number. By default the kernel's routes choose it. A link-local
    /// IPv6 address has a meaning on one interface only, so [`UdpDestination::source`] sets it for such an address.
    pub fn through(self, interface: u32) -> UdpSource {
        UdpSource { interface, ..self }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of the network interface, or 0 for the one that the routes choose.
    pub fn interface(&self) -> u32 {
        self.interface
    }
}

impl From<IpAddr> for UdpSource {
    fn from(address: IpAddr) -> UdpSource {
        UdpSource { address: address.to_canonical(), interface: 0 }
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
