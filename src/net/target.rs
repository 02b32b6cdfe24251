//! Where to connect to, or where to be bound.

mod text;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::address::{Address, UnixAddress};

/// Where a client connects to, and where a server or a UDP socket is bound: one or more socket addresses, a name and a port, or a
/// Unix socket.
///
/// Made from text, from a pair of host and port, from one [`SocketAddr`] or several, which are tried in turn, or from a
/// [`UnixAddress`], which has no text. A client looks a name up each time that it connects; an address is never looked up.
///
/// | text | meaning |
/// |---|---|
/// | `10.1.2.3:80` | an IPv4 address |
/// | `[2001:db8::5]:80` | an IPv6 address; its brackets are required in a text, and allowed in a pair |
/// | `[fe80::1%eth0]:80`, `[fe80::1%2]:80` | an IPv6 address with a zone: the name or the number of a network interface |
/// | `example.org:80` | a name |
///
/// A zone that consists of digits is a number. A name of an interface is translated each time that the client connects. Any other
/// text is refused with [`InvalidInput`](io::ErrorKind::InvalidInput) when the client, server or socket is made: one without a
/// host or a port, an IPv6 address without brackets, a zone that is not the name of an interface, a host that ends in a number and
/// is not a complete IPv4 address, and anything before or behind an address.
///
/// ```
/// use reveille::{ConnectTarget, UnixAddress};
/// use std::net::SocketAddr;
///
/// let several: Vec<SocketAddr> = vec!["10.1.2.3:80".parse().unwrap(), "10.1.2.4:80".parse().unwrap()];
/// let targets: [ConnectTarget; 4] =
///     ["example.org:80".into(), ("example.org", 80).into(), "[fe80::1%eth0]:80".into(), several.into()];
/// let here: ConnectTarget = UnixAddress::path("/run/greeter.sock").into();
/// # let _ = (targets, here);
/// ```
#[derive(Clone, Debug)]
pub struct ConnectTarget {
    /// As it was given, for messages.
    text: String,
    place: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Addresses(Vec<Address>),
    Name(String, u16),
    /// An address with the name of an interface, whose number may change.
    Zoned(Ipv6Addr, String, u16),
    /// It cannot be read, for this reason.
    Nowhere(&'static str),
}

impl ConnectTarget {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Checks that it can be read, though nothing may be there. `purpose` begins the message of an error, as in `connect to`.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it cannot, or if there is no interface of the zone's name.
    pub(super) fn check(&self, purpose: &str) -> io::Result<()> {
        let checked = match &self.place {
            Place::Name(..) => Ok(()),
            Place::Addresses(addresses) => addresses
                .iter()
                .filter_map(Address::as_unix)
                .try_for_each(|address| address.to_kernel().map(drop)),
            Place::Zoned(_, zone, _) => zone_index(zone).map(drop),
            Place::Nowhere(reason) => Err(io::Error::new(io::ErrorKind::InvalidInput, *reason)),
        };
        checked.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot {purpose} {:?}: {error}", self.text))
        })
    }

    /// The addresses that it stands for. A name is looked up, which may block.
    ///
    /// # Errors
    /// As [`check`](ConnectTarget::check), and those of the lookup.
    pub(super) fn look_up_now(&self, purpose: &str) -> io::Result<Vec<Address>> {
        match &self.place {
            // Whether the name of a Unix socket can be bound is checked by the bind.
            Place::Addresses(addresses) => Ok(addresses.clone()),
            Place::Name(host, port) => {
                Ok((host.as_str(), *port).to_socket_addrs()?.map(Address::Inet).collect())
            }
            Place::Zoned(address, zone, port) => {
                self.check(purpose)?;
                Ok(vec![in_zone(*address, zone, *port)?])
            }
            Place::Nowhere(_) => self.check(purpose).map(|()| Vec::new()),
        }
    }
}

/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is no interface with the name `zone`.
pub(super) fn in_zone(address: Ipv6Addr, zone: &str, port: u16) -> io::Result<Address> {
    Ok(Address::Inet(SocketAddrV6::new(address, port, 0, zone_index(zone)?).into()))
}

/// The number of a network interface.
fn zone_index(zone: &str) -> io::Result<u32> {
    // The kernel reads a name to the first of these characters.
    let index = if zone.contains(['\0', ':']) {
        Err(Errno::NODEV)
    } else {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        rustix::net::netdevice::name_to_index(&socket, zone)
    };
    index.map_err(|error| match error {
        Errno::NODEV => {
            let message = format!("there is no network interface {zone:?}, which the zone names");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        }
        error => error.into(),
    })
}

impl Place {
    fn of_one(address: impl Into<Address>) -> Place {
        Place::Addresses(vec![address.into()])
    }
}

impl From<&str> for ConnectTarget {
    fn from(text: &str) -> ConnectTarget {
        ConnectTarget { text: text.to_owned(), place: text::endpoint(text).unwrap_or_else(Place::Nowhere) }
    }
}

impl From<String> for ConnectTarget {
    fn from(text: String) -> ConnectTarget {
        ConnectTarget::from(text.as_str())
    }
}

impl From<(&str, u16)> for ConnectTarget {
    fn from((host, port): (&str, u16)) -> ConnectTarget {
        let place = text::host(host, port).unwrap_or_else(Place::Nowhere);
        ConnectTarget { text: format!("{host}:{port}"), place }
    }
}

impl From<(String, u16)> for ConnectTarget {
    fn from((host, port): (String, u16)) -> ConnectTarget {
        ConnectTarget::from((host.as_str(), port))
    }
}

impl From<(IpAddr, u16)> for ConnectTarget {
    fn from((address, port): (IpAddr, u16)) -> ConnectTarget {
        ConnectTarget::from(SocketAddr::new(address, port))
    }
}

impl From<(Ipv4Addr, u16)> for ConnectTarget {
    fn from((address, port): (Ipv4Addr, u16)) -> ConnectTarget {
        ConnectTarget::from(SocketAddr::from((address, port)))
    }
}

impl From<(Ipv6Addr, u16)> for ConnectTarget {
    fn from((address, port): (Ipv6Addr, u16)) -> ConnectTarget {
        ConnectTarget::from(SocketAddr::from((address, port)))
    }
}

impl From<SocketAddrV4> for ConnectTarget {
    fn from(address: SocketAddrV4) -> ConnectTarget {
        ConnectTarget::from(SocketAddr::V4(address))
    }
}

impl From<SocketAddrV6> for ConnectTarget {
    fn from(address: SocketAddrV6) -> ConnectTarget {
        ConnectTarget::from(SocketAddr::V6(address))
    }
}

impl From<SocketAddr> for ConnectTarget {
    fn from(address: SocketAddr) -> ConnectTarget {
        ConnectTarget { text: address.to_string(), place: Place::of_one(address) }
    }
}

impl From<UnixAddress> for ConnectTarget {
    fn from(address: UnixAddress) -> ConnectTarget {
        ConnectTarget { text: address.to_string(), place: Place::of_one(address) }
    }
}

impl From<Address> for ConnectTarget {
    fn from(address: Address) -> ConnectTarget {
        ConnectTarget { text: address.to_string(), place: Place::of_one(address) }
    }
}

impl From<Vec<SocketAddr>> for ConnectTarget {
    fn from(addresses: Vec<SocketAddr>) -> ConnectTarget {
        let text = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let nowhere = Place::Nowhere("there is no address");
        let addresses: Vec<Address> = addresses.into_iter().map(Address::Inet).collect();
        let place = if addresses.is_empty() { nowhere } else { Place::Addresses(addresses) };
        ConnectTarget { text, place }
    }
}

impl From<&[SocketAddr]> for ConnectTarget {
    fn from(addresses: &[SocketAddr]) -> ConnectTarget {
        ConnectTarget::from(addresses.to_vec())
    }
}

impl<const N: usize> From<[SocketAddr; N]> for ConnectTarget {
    fn from(addresses: [SocketAddr; N]) -> ConnectTarget {
        ConnectTarget::from(Vec::from(addresses))
    }
}

impl<T: Clone> From<&T> for ConnectTarget
where
    ConnectTarget: From<T>,
{
    fn from(value: &T) -> ConnectTarget {
        ConnectTarget::from(value.clone())
    }
}
