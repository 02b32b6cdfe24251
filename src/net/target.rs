//! Addresses to connect to or to bind to, from text or from socket addresses.

mod text;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::address::{Address, AddressError, UnixAddress};
use super::names::{Protocol, Service, addresses_of};

/// The address that a client connects to, or that a server or a UDP socket binds to: one or more
/// socket addresses, a host name and a port, or a Unix socket.
///
/// Converts from text, from a pair of host and port, from one or more [`SocketAddr`]s, which are
/// tried in order, and from a [`UnixAddress`]. The methods that take a target take all of these.
/// Text is never the path of a Unix socket. A client resolves a host name on each connection
/// attempt; an address with a numeric port is never looked up.
///
/// | text | meaning |
/// |---|---|
/// | `10.1.2.3:80` | an IPv4 address |
/// | `[2001:db8::5]:80` | an IPv6 address; brackets are required in text and optional in a pair |
/// | `[fe80::1%eth0]:80`, `[fe80::1%2]:80` | IPv6 with a zone: interface name or index |
/// | `example.org:80` | a host name |
/// | `example.org:https`, `[::1]:https` | a service name, as in `/etc/services` |
///
/// A zone of digits is an interface index. An interface name is translated to its index on each
/// connection attempt, and when the client, server or socket is created.
///
/// Any other text is an [`AddressError`]: text without a host or a port, an IPv6 address without
/// brackets, a host that ends in a number and is not a complete IPv4 address, and anything before
/// or after an address. So is an empty list of addresses.
///
/// ```
/// use reveille::net::{AddressError, ConnectTarget, UnixAddress};
/// use std::net::SocketAddr;
///
/// # fn main() -> Result<(), AddressError> {
/// let [a, b]: [SocketAddr; 2] = ["10.1.2.3:80", "10.1.2.4:80"].map(|text| text.parse().unwrap());
/// let targets: [ConnectTarget; 5] = [
///     "example.org:80".parse()?,
///     ("example.org", 80).try_into()?,
///     "[fe80::1%eth0]:80".parse()?,
///     [a, b].try_into()?,
///     UnixAddress::path("/run/greeter.sock")?.into(),
/// ];
/// assert!("example.org".parse::<ConnectTarget>().is_err());
/// # let _ = targets;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConnectTarget {
    /// The target as it was given, for error messages.
    text: String,
    endpoint: Endpoint,
}

#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    Addresses(Vec<Address>),
    /// A host name, or any host with a service name. It has to be looked up.
    Host(String, Service),
    /// An address with the name of an interface. Its index may change.
    Zoned(Ipv6Addr, String, u16),
}

impl ConnectTarget {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Converts what a method of the API takes. `purpose` begins the message of an error, for
    /// example `connect to`.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not an address.
    pub(super) fn new(
        target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
        purpose: &str,
    ) -> io::Result<ConnectTarget> {
        target.try_into().map_err(|error| error.into().for_purpose(purpose))
    }

    /// Checks that the target can be connected to. Does not check that anything listens there.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for an unnamed Unix socket, or if no interface
    /// has the zone's name.
    pub(super) fn check(&self, purpose: &str) -> io::Result<()> {
        let checked = match &self.endpoint {
            Endpoint::Host(..) => Ok(()),
            Endpoint::Addresses(addresses) => addresses
                .iter()
                .filter_map(Address::as_unix)
                .try_for_each(|address| address.to_kernel().map(drop)),
            Endpoint::Zoned(_, zone, _) => interface_index(zone).map(drop),
        };
        checked.map_err(|error| self.error(purpose, error))
    }

    /// An error of the same kind that names the operation and the target.
    fn error(&self, purpose: &str, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("cannot {purpose} {:?}: {error}", self.text))
    }

    /// Returns the target's addresses. Resolves a host name and a service name, which may block.
    ///
    /// # Errors
    /// Same as [`check`](ConnectTarget::check), and the errors of the lookup.
    pub(super) fn resolve_blocking(&self, purpose: &str, protocol: Protocol) -> io::Result<Vec<Address>> {
        match &self.endpoint {
            // bind(2) checks whether the address of a Unix socket can be bound.
            Endpoint::Addresses(addresses) => Ok(addresses.clone()),
            Endpoint::Host(host, service) => {
                let found = addresses_of(host, service.name(), protocol);
                let found = found.map_err(|error| self.error(purpose, error))?.into_iter();
                Ok(found.map(|address| Address::Inet(service.complete(address))).collect())
            }
            Endpoint::Zoned(address, zone, port) => {
                self.check(purpose)?;
                Ok(vec![with_zone(*address, zone, *port)?])
            }
        }
    }
}

/// Combines an IPv6 address with the index of the interface `zone`.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if no interface has the name `zone`.
pub(super) fn with_zone(address: Ipv6Addr, zone: &str, port: u16) -> io::Result<Address> {
    Ok(Address::Inet(SocketAddrV6::new(address, port, 0, interface_index(zone)?).into()))
}

/// Returns the index of a network interface.
fn interface_index(zone: &str) -> io::Result<u32> {
    // The kernel stops reading a name at the first of these characters.
    let index = if zone.contains(['\0', ':']) {
        Err(Errno::NODEV)
    } else {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        rustix::net::netdevice::name_to_index(&socket, zone)
    };
    index.map_err(|error| match error {
        Errno::NODEV => {
            let message = format!("there is no network interface {zone:?}, as the zone requires");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        }
        error => error.into(),
    })
}

impl Endpoint {
    fn of_one(address: impl Into<Address>) -> Endpoint {
        Endpoint::Addresses(vec![address.into()])
    }
}

impl FromStr for ConnectTarget {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<ConnectTarget, AddressError> {
        let endpoint = text::endpoint(text).map_err(|reason| {
            // Probably the path of a socket, unless it is a URL.
            let is_path = text.contains('/') && !text.contains("://");
            let hint = if is_path { "; for a Unix socket pass a UnixAddress" } else { "" };
            AddressError::new(text, format!("{reason}{hint}"))
        })?;
        Ok(ConnectTarget { text: text.to_owned(), endpoint })
    }
}

impl TryFrom<&str> for ConnectTarget {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<ConnectTarget, AddressError> {
        text.parse()
    }
}

impl TryFrom<String> for ConnectTarget {
    type Error = AddressError;

    fn try_from(text: String) -> Result<ConnectTarget, AddressError> {
        text.parse()
    }
}

impl TryFrom<&String> for ConnectTarget {
    type Error = AddressError;

    fn try_from(text: &String) -> Result<ConnectTarget, AddressError> {
        text.parse()
    }
}

impl TryFrom<(&str, u16)> for ConnectTarget {
    type Error = AddressError;

    fn try_from((host, port): (&str, u16)) -> Result<ConnectTarget, AddressError> {
        let text = format!("{host}:{port}");
        match text::host(host, Service::Port(port)) {
            Ok(endpoint) => Ok(ConnectTarget { text, endpoint }),
            Err(reason) => Err(AddressError::new(text, reason)),
        }
    }
}

impl TryFrom<(String, u16)> for ConnectTarget {
    type Error = AddressError;

    fn try_from((host, port): (String, u16)) -> Result<ConnectTarget, AddressError> {
        (host.as_str(), port).try_into()
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
        ConnectTarget { text: address.to_string(), endpoint: Endpoint::of_one(address) }
    }
}

impl From<UnixAddress> for ConnectTarget {
    fn from(address: UnixAddress) -> ConnectTarget {
        ConnectTarget { text: address.to_string(), endpoint: Endpoint::of_one(address) }
    }
}

impl From<Address> for ConnectTarget {
    fn from(address: Address) -> ConnectTarget {
        ConnectTarget { text: address.to_string(), endpoint: Endpoint::of_one(address) }
    }
}

impl TryFrom<&[SocketAddr]> for ConnectTarget {
    type Error = AddressError;

    fn try_from(addresses: &[SocketAddr]) -> Result<ConnectTarget, AddressError> {
        let text = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        if addresses.is_empty() {
            return Err(AddressError::new(text, "the list of addresses is empty"));
        }
        let addresses = addresses.iter().copied().map(Address::Inet).collect();
        Ok(ConnectTarget { text, endpoint: Endpoint::Addresses(addresses) })
    }
}

impl TryFrom<Vec<SocketAddr>> for ConnectTarget {
    type Error = AddressError;

    fn try_from(addresses: Vec<SocketAddr>) -> Result<ConnectTarget, AddressError> {
        addresses.as_slice().try_into()
    }
}

impl<const N: usize> TryFrom<[SocketAddr; N]> for ConnectTarget {
    type Error = AddressError;

    fn try_from(addresses: [SocketAddr; N]) -> Result<ConnectTarget, AddressError> {
        addresses.as_slice().try_into()
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
