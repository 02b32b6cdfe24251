//! What a client is told to connect to.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::address::{Address, UnixAddress};

/// What a client connects to: one or more socket addresses, a name and a port, or a Unix socket.
///
/// Made from what there is: `"10.1.2.3:80"`, `"[::1]:80"`, `"example.org:80"`, a pair of host and port, a [`SocketAddr`], or several of
/// those, which are tried in turn; a [`UnixAddress`], as no text stands for one. A name is looked up each time that the client connects; what is an address already never is.
///
/// ```
/// use reveille::{Target, UnixAddress};
/// use std::net::SocketAddr;
///
/// let several: Vec<SocketAddr> = vec!["10.1.2.3:80".parse().unwrap(), "10.1.2.4:80".parse().unwrap()];
/// let targets: [Target; 3] = ["example.org:80".into(), ("example.org", 80).into(), several.into()];
/// let here: Target = UnixAddress::path("/run/greeter.sock").into();
/// # let _ = (targets, here);
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was told, for messages.
    text: String,
    place: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Addresses(Vec<Address>),
    Name(String, u16),
    /// It cannot be read, for this reason.
    Nowhere(&'static str),
}

impl Target {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// That it says where to connect to, though nothing may be there.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.place {
            Place::Name(..) => Ok(()),
            Place::Addresses(addresses) => {
                for address in addresses.iter().filter_map(Address::as_unix) {
                    address.to_kernel().map_err(|error| {
                        io::Error::new(error.kind(), format!("cannot connect to {:?}: {error}", self.text))
                    })?;
                }
                Ok(())
            }
            Place::Nowhere(reason) => {
                let message = format!("cannot connect to {:?}: {reason}", self.text);
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
        }
    }
}

impl Place {
    fn of_one(address: impl Into<Address>) -> Place {
        Place::Addresses(vec![address.into()])
    }

    fn of(host: &str, port: u16) -> Place {
        match host.parse::<IpAddr>() {
            Ok(address) => Place::of_one(SocketAddr::new(address, port)),
            Err(_) if host.is_empty() => Place::Nowhere("there is no name before the port"),
            Err(_) => Place::Name(host.to_owned(), port),
        }
    }
}

impl From<&str> for Target {
    fn from(text: &str) -> Target {
        let place = match (text.parse::<SocketAddr>(), text.rsplit_once(':')) {
            (Ok(address), _) => Place::of_one(address),
            (Err(_), None) => Place::Nowhere("a port is missing, as in example.org:80"),
            (Err(_), Some((host, port))) => match port.parse() {
                Ok(port) => Place::of(host, port),
                Err(_) => Place::Nowhere("what follows the last colon is not a port"),
            },
        };
        Target { text: text.to_owned(), place }
    }
}

impl From<String> for Target {
    fn from(text: String) -> Target {
        Target::from(text.as_str())
    }
}

impl From<&String> for Target {
    fn from(text: &String) -> Target {
        Target::from(text.as_str())
    }
}

impl From<(&str, u16)> for Target {
    fn from((host, port): (&str, u16)) -> Target {
        Target { text: format!("{host}:{port}"), place: Place::of(host, port) }
    }
}

impl From<(String, u16)> for Target {
    fn from((host, port): (String, u16)) -> Target {
        Target::from((host.as_str(), port))
    }
}

impl From<(IpAddr, u16)> for Target {
    fn from((address, port): (IpAddr, u16)) -> Target {
        Target::from(SocketAddr::new(address, port))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target { text: address.to_string(), place: Place::of_one(address) }
    }
}

impl From<UnixAddress> for Target {
    fn from(address: UnixAddress) -> Target {
        Target { text: address.to_string(), place: Place::of_one(address) }
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Target {
        Target { text: address.to_string(), place: Place::of_one(address) }
    }
}

impl From<&Address> for Target {
    fn from(address: &Address) -> Target {
        Target::from(address.clone())
    }
}

impl From<Vec<SocketAddr>> for Target {
    fn from(addresses: Vec<SocketAddr>) -> Target {
        let text = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let nowhere = Place::Nowhere("there is no address");
        let addresses: Vec<Address> = addresses.into_iter().map(Address::Inet).collect();
        let place = if addresses.is_empty() { nowhere } else { Place::Addresses(addresses) };
        Target { text, place }
    }
}

impl From<&[SocketAddr]> for Target {
    fn from(addresses: &[SocketAddr]) -> Target {
        Target::from(addresses.to_vec())
    }
}
