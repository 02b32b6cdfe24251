//! The header of the PROXY protocol, versions 1 and 2, without I/O. It states the addresses of a
//! connection that is passed on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::{self, FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyVersion {
    V1,
    V2,
}

impl FromStr for ProxyVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<ProxyVersion, ()> {
        match text {
            "v1" => Ok(ProxyVersion::V1),
            "v2" => Ok(ProxyVersion::V2),
            _ => Err(()),
        }
    }
}

/// The content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Proxied {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// A connection of the sender's own, such as a health check, or one whose addresses are not
    /// known. The addresses of the connection itself apply.
    Local,
}

/// The first bytes of version 2. No text protocol begins with them.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The maximum length of a header of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// The maximum length of what follows the first 16 bytes in version 2. The protocol permits 65,535
/// bytes; senders use a few hundred at most, for certificates.
const LONGEST_BLOCK: usize = 4096;

impl Header {
    pub(crate) fn encode(self, version: ProxyVersion) -> Vec<u8> {
        match version {
            ProxyVersion::V1 => self.encode_v1(),
            ProxyVersion::V2 => self.encode_v2(),
        }
    }

    fn encode_v1(self) -> Vec<u8> {
        let Some((source, destination)) = self.of_one_family() else { return b"PROXY UNKNOWN\r\n".to_vec() };
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
    }

    fn encode_v2(self) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        let Some((source, destination)) = self.of_one_family() else {
            bytes.extend_from_slice(&[0x20, 0, 0, 0]);
            return bytes;
        };
        let (family, length) = if source.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
        bytes.extend_from_slice(&[0x21, family, 0, length]);
        for address in [source, destination] {
            match address.ip() {
                IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
            }
        }
        bytes.extend_from_slice(&source.port().to_be_bytes());
        bytes.extend_from_slice(&destination.port().to_be_bytes());
        bytes
    }

    /// The addresses, both of one family: a header cannot mix them. An IPv4-mapped address is the
    /// IPv4 address if the other one is too.
    fn of_one_family(self) -> Option<(SocketAddr, SocketAddr)> {
        let Header::Proxied { source, destination } = self else { return None };
        let with = |ip, address: SocketAddr| SocketAddr::new(ip, address.port());
        let pair = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (with(from.into(), source), with(to.into(), destination)),
            (from, to) => (with(mapped(from), source), with(mapped(to), destination)),
        };
        Some(pair)
    }

    /// Decodes the header at the front of `input`. Returns it with its length; `None` if it is
    /// incomplete.
    ///
    /// # Errors
    /// The input does not begin with a header.
    pub(crate) fn decode(input: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
        let signed = input.len().min(SIGNATURE.len());
        if input[..signed] == SIGNATURE[..signed] {
            return decode_v2(input);
        }
        let prefix = input.len().min(6);
        if input[..prefix] == b"PROXY "[..prefix] {
            decode_v1(input)
        } else {
            Err("there is no PROXY header")
        }
    }
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        ip => ip,
    }
}

fn decode_v1(input: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    const WRONG: &str = "the PROXY header is not valid";
    let line = &input[..input.len().min(LONGEST_LINE)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if line.len() == LONGEST_LINE { Err("the PROXY header is too long") } else { Ok(None) };
    };
    let line = str::from_utf8(&line[..end]).map_err(|_| WRONG)?;
    let words: Vec<&str> = line.split(' ').collect();
    let header = match *words {
        ["PROXY", "UNKNOWN", ..] => Header::Local,
        ["PROXY", family, from, to, source, destination] => {
            let (from, to): (IpAddr, IpAddr) = match family {
                "TCP4" => (address::<Ipv4Addr>(from)?, address::<Ipv4Addr>(to)?),
                "TCP6" => (address::<Ipv6Addr>(from)?, address::<Ipv6Addr>(to)?),
                _ => return Err(WRONG),
            };
            Header::Proxied {
                source: SocketAddr::new(from, port(source).ok_or(WRONG)?),
                destination: SocketAddr::new(to, port(destination).ok_or(WRONG)?),
            }
        }
        _ => return Err(WRONG),
    };
    Ok(Some((header, end + 2)))
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map(A::into).map_err(|_| "an address of the PROXY header is not valid")
}

/// A number without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

fn decode_v2(input: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    let Some((head, rest)) = input.split_at_checked(16) else { return Ok(None) };
    let (command, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > LONGEST_BLOCK {
        return Err("the PROXY header is too long");
    }
    if command >> 4 != 2 {
        return Err("the version of the PROXY header is unknown");
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    let header = match (command & 0xf, family) {
        (0, _) => Header::Local,
        (1, 0x11) => addresses::<4, Ipv4Addr>(block)?,
        (1, 0x21) => addresses::<16, Ipv6Addr>(block)?,
        // A Unix socket, or a protocol that the sender does not name.
        (1, _) => Header::Local,
        _ => return Err("the command of the PROXY header is unknown"),
    };
    Ok(Some((header, 16 + length)))
}

/// The addresses at the front of a block. What follows them is ignored.
fn addresses<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Result<Header, &'static str> {
    let parts = || {
        let (source, rest) = block.split_first_chunk::<N>()?;
        let (destination, rest) = rest.split_first_chunk::<N>()?;
        let (&[a, b, c, d], _) = rest.split_first_chunk::<4>()?;
        let at = |octets: &[u8; N], port| SocketAddr::new(A::from(*octets).into(), port);
        Some(Header::Proxied {
            source: at(source, u16::from_be_bytes([a, b])),
            destination: at(destination, u16::from_be_bytes([c, d])),
        })
    };
    parts().ok_or("the PROXY header is too short for its addresses")
}
