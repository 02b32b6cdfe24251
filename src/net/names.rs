//! The system's resolver: getaddrinfo(3) and getnameinfo(3). Both block.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, getaddrinfo, getnameinfo};

/// A port, or the name of a service that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Port(u16),
    Name(String),
}

impl Service {
    /// The address with the port, if this is one.
    pub(super) fn complete(&self, mut address: SocketAddr) -> SocketAddr {
        if let Service::Port(port) = self {
            address.set_port(*port);
        }
        address
    }

    pub(super) fn name(&self) -> Option<&str> {
        if let Service::Name(name) = self { Some(name) } else { None }
    }
}

/// The protocol whose port a service name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

/// The addresses of a host, in the order of preference (RFC 6724), each once. Their port is that of
/// the service, or 0.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) if there is no such host or service, or the host has no
/// address. Otherwise the error of the resolver.
pub(super) fn addresses_of(
    host: &str,
    service: Option<&str>,
    protocol: Protocol,
) -> io::Result<Vec<SocketAddr>> {
    let socktype = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    let hints = AddrInfoHints { socktype, ..AddrInfoHints::default() };
    let mut addresses = Vec::new();
    let found = getaddrinfo(Some(host), service, Some(hints));
    for found in found.map_err(|error| error_of_lookup(error, service, protocol))? {
        let address = found?.sockaddr;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// The name of an address.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) if it has none. Otherwise the error of the resolver.
pub(super) fn name_of(address: IpAddr) -> io::Result<String> {
    let flags = libc::NI_NAMEREQD | libc::NI_NUMERICSERV;
    Ok(getnameinfo(&SocketAddr::new(address, 0), flags).map_err(error)?.0)
}

fn error_of_lookup(found: LookupError, service: Option<&str>, protocol: Protocol) -> io::Error {
    match service.filter(|_| matches!(found.kind(), LookupErrorKind::Service)) {
        // The system's own text is "Servname not supported for ai_socktype".
        Some(service) => {
            let message = format!("the {protocol} service {service:?} is unknown");
            io::Error::new(io::ErrorKind::NotFound, message)
        }
        None => error(found),
    }
}

fn error(error: LookupError) -> io::Error {
    match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData => {
            io::Error::new(io::ErrorKind::NotFound, error.to_string())
        }
        _ => error.into(),
    }
}
