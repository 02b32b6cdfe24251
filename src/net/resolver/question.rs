//! What is looked up, and what is found.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::net::names::{Protocol, Service, addresses_of, name_of};

/// A question for the system's resolver. Equal questions share a lookup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// The addresses of a host, with the port of a service or with port 0.
    Addresses { host: String, service: Option<String> },
    /// The name of an address.
    Name(IpAddr),
}

/// The response to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Addresses(Vec<SocketAddr>),
    Name(String),
}

impl Question {
    /// Names that differ only in case are equal. The port is not part of the question, so all ports
    /// of a host share a lookup.
    pub(super) fn addresses(host: &str, service: &Service) -> Question {
        // The name of an interface, in a zone, depends on the case.
        let host = if host.contains('%') { host.to_owned() } else { host.to_ascii_lowercase() };
        Question::Addresses { host, service: service.name().map(str::to_owned) }
    }

    /// Calls the system's resolver, which blocks.
    ///
    /// # Errors
    /// The error of the resolver.
    pub(super) fn ask(&self) -> io::Result<Found> {
        match self {
            Question::Addresses { host, service } => {
                addresses_of(host, service.as_deref(), Protocol::Tcp).map(Found::Addresses)
            }
            Question::Name(address) => name_of(*address).map(Found::Name),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Addresses { host, service: None } => f.write_str(host),
            Question::Addresses { host, service: Some(service) } => write!(f, "{host}:{service}"),
            Question::Name(address) => address.fmt(f),
        }
    }
}

impl Found {
    pub(super) fn into_addresses(self) -> Vec<SocketAddr> {
        match self {
            Found::Addresses(addresses) => addresses,
            Found::Name(_) => unreachable!("the addresses were looked up"),
        }
    }

    pub(super) fn into_name(self) -> String {
        match self {
            Found::Name(name) => name,
            Found::Addresses(_) => unreachable!("the name was looked up"),
        }
    }
}
