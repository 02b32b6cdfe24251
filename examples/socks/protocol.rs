//! The SOCKS protocols, versions 4, 4a and 5 (RFC 1928, RFC 1929), without I/O: the handshake of a
//! client as a state machine, the replies, and the header of a datagram.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The maximum length of a name or user of version 4, which has no length field. A longer one is
/// refused, so that a client cannot make the proxy keep an endless name.
const LONGEST_TEXT: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 4 and 4a.
    V4,
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Connect,
    UdpAssociate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) version: Version,
    pub(crate) command: Command,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// The codes of a reply, with the numbers of version 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Succeeded = 0,
    Failed = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    /// Also for a time-out, for which RFC 1928 has no code.
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Code {
    /// The code for a failure to look up or to connect.
    pub(crate) fn of(error: &io::Error) -> Code {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Code::ConnectionRefused,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Code::NetworkUnreachable,
            // A name without an address is a host that cannot be reached.
            io::ErrorKind::HostUnreachable | io::ErrorKind::NotFound => Code::HostUnreachable,
            io::ErrorKind::TimedOut => Code::TtlExpired,
            // EPERM and EACCES of a firewall on this host.
            io::ErrorKind::PermissionDenied => Code::NotAllowed,
            _ => Code::Failed,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Code::Succeeded => "succeeded",
            Code::Failed => "failed",
            Code::NotAllowed => "not allowed by the rules",
            Code::NetworkUnreachable => "network unreachable",
            Code::HostUnreachable => "host unreachable",
            Code::ConnectionRefused => "connection refused",
            Code::TtlExpired => "timed out",
            Code::CommandNotSupported => "command not supported",
            Code::AddressTypeNotSupported => "address type not supported",
        })
    }
}

/// Encodes the reply to a request. `bound` is the address of this end of the new connection, or
/// that of the UDP relay. Version 4 has only one code for all failures.
pub(crate) fn reply(version: Version, code: Code, bound: Option<SocketAddr>) -> Vec<u8> {
    let bound = bound.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
    match version {
        Version::V4 => {
            let ip = match bound.ip().to_canonical() {
                IpAddr::V4(ip) => ip,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            let code = if code == Code::Succeeded { 90 } else { 91 };
            let mut reply = vec![0, code];
            reply.extend_from_slice(&bound.port().to_be_bytes());
            reply.extend_from_slice(&ip.octets());
            reply
        }
        Version::V5 => {
            let mut reply = vec![5, code as u8, 0];
            encode_address(bound, &mut reply);
            reply
        }
    }
}

/// One step of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// These bytes are to be sent.
    Send([u8; 2]),
    /// The client has sent a name and a password. [`admission`] is to be sent, and the handshake
    /// continues if they are right.
    Credentials { name: Vec<u8>, password: Vec<u8> },
    /// The last step. What follows in the input belongs to the connection that is requested.
    Request(Request),
}

/// The reply to a name and a password (RFC 1929).
pub(crate) fn admission(is_admitted: bool) -> [u8; 2] {
    [1, u8::from(!is_admitted)]
}

/// Why the handshake cannot continue. The bytes are to be sent before the close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reply: Vec<u8>,
    pub(crate) reason: &'static str,
}

impl Refusal {
    /// Of input that is not SOCKS. It gets no reply, since its protocol is unknown.
    fn silent(reason: &'static str) -> Refusal {
        Refusal { reply: Vec::new(), reason }
    }

    fn of_request(version: Version, code: Code, reason: &'static str) -> Refusal {
        Refusal { reply: reply(version, code, None), reason }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was received.
    Version,
    /// Version 5: a method that needs a name and a password was selected.
    Credentials,
    /// Version 5: the request follows.
    Request,
}

/// The handshake of one client, up to its request.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    stage: Stage,
    needs_password: bool,
}

impl Handshake {
    pub(crate) fn new(needs_password: bool) -> Handshake {
        Handshake { stage: Stage::Version, needs_password }
    }

    /// Takes the next step from the front of `input`, and returns it with its length; `None` if it
    /// is incomplete.
    ///
    /// # Errors
    /// The input is not valid, or requests what this server does not support.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<Option<(Step, usize)>, Refusal> {
        let Some(&version) = input.first() else { return Ok(None) };
        match (self.stage, version) {
            (Stage::Version, 4) => self.request_of_version_4(input),
            (Stage::Version, 5) => self.select_method(input),
            (Stage::Version, _) => Err(Refusal::silent("the input is not SOCKS")),
            (Stage::Credentials, 1) => Ok(self.credentials(input)),
            (Stage::Credentials, _) => Err(Refusal {
                reply: admission(false).to_vec(),
                reason: "the version of the password is not 1",
            }),
            (Stage::Request, 5) => request_of_version_5(input),
            (Stage::Request, _) => {
                Err(Refusal::of_request(Version::V5, Code::Failed, "the version of the request is not 5"))
            }
        }
    }

    fn select_method(&mut self, input: &[u8]) -> Result<Option<(Step, usize)>, Refusal> {
        let Some((&count, rest)) = input[1..].split_first() else { return Ok(None) };
        let Some(methods) = rest.get(..usize::from(count)) else { return Ok(None) };
        let (method, next) = if self.needs_password { (2, Stage::Credentials) } else { (0, Stage::Request) };
        if !methods.contains(&method) {
            let reason = if self.needs_password {
                "the client offers no name and password"
            } else {
                "the client demands authentication"
            };
            return Err(Refusal { reply: vec![5, 0xff], reason });
        }
        self.stage = next;
        Ok(Some((Step::Send([5, method]), 2 + methods.len())))
    }

    fn credentials(&mut self, input: &[u8]) -> Option<(Step, usize)> {
        let (name, rest) = with_length(&input[1..])?;
        let (password, _) = with_length(rest)?;
        self.stage = Stage::Request;
        let length = 3 + name.len() + password.len();
        Some((Step::Credentials { name: name.to_vec(), password: password.to_vec() }, length))
    }

    fn request_of_version_4(&self, input: &[u8]) -> Result<Option<(Step, usize)>, Refusal> {
        let refusal = |reason| Refusal::of_request(Version::V4, Code::Failed, reason);
        if self.needs_password {
            return Err(refusal("version 4 has no password"));
        }
        let &[_, command, high, low, a, b, c, d, ref rest @ ..] = input else { return Ok(None) };
        let too_long = "a text of the request is too long";
        let Some(user) = text(rest).map_err(|()| refusal(too_long))? else { return Ok(None) };
        let mut length = 8 + user.len() + 1;
        // 4a: with the address 0.0.0.x, the name follows.
        let host = match [a, b, c, d] {
            [0, 0, 0, 1..=255] => {
                let Some(name) = text(&input[length..]).map_err(|()| refusal(too_long))? else {
                    return Ok(None);
                };
                length += name.len() + 1;
                match host_name(name) {
                    Some(host) => host,
                    None => return Err(refusal("the name of the host is not valid")),
                }
            }
            octets => Host::Address(octets.into()),
        };
        if command != 1 {
            return Err(refusal("version 4 is served for CONNECT only"));
        }
        let port = u16::from_be_bytes([high, low]);
        let request = Request { version: Version::V4, command: Command::Connect, host, port };
        Ok(Some((Step::Request(request), length)))
    }
}

fn request_of_version_5(input: &[u8]) -> Result<Option<(Step, usize)>, Refusal> {
    let refuse = |code, reason| Err(Refusal::of_request(Version::V5, code, reason));
    let &[_, command, _, ref address @ ..] = input else { return Ok(None) };
    let (host, port, length) = match decode_address(address) {
        Ok(Some(decoded)) => decoded,
        Ok(None) => return Ok(None),
        Err(AddressProblem::Type) => {
            return refuse(Code::AddressTypeNotSupported, "the type of the address is unknown");
        }
        Err(AddressProblem::Name) => return refuse(Code::Failed, "the name of the host is not valid"),
    };
    let command = match command {
        1 => Command::Connect,
        3 => Command::UdpAssociate,
        2 => return refuse(Code::CommandNotSupported, "BIND is not supported"),
        _ => return refuse(Code::CommandNotSupported, "the command is unknown"),
    };
    Ok(Some((Step::Request(Request { version: Version::V5, command, host, port }), 3 + length)))
}

/// A datagram between a client and the relay (RFC 1928, section 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) payload: &'a [u8],
}

/// Decodes a datagram of a client. `None` if it is not valid, or is a fragment: a relay that does
/// not reassemble fragments must drop them.
pub(crate) fn decode_datagram(bytes: &[u8]) -> Option<Datagram<'_>> {
    let &[0, 0, 0, ref rest @ ..] = bytes else { return None };
    let (host, port, length) = decode_address(rest).ok()??;
    Some(Datagram { host, port, payload: &rest[length..] })
}

/// Encodes a datagram from `from` for a client.
pub(crate) fn encode_datagram(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 + 19 + payload.len());
    bytes.extend_from_slice(&[0, 0, 0]);
    encode_address(from, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// Appends type, address and port. An IPv4-mapped address is encoded as the IPv4 address.
fn encode_address(address: SocketAddr, into: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            into.push(1);
            into.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            into.push(4);
            into.extend_from_slice(&ip.octets());
        }
    }
    into.extend_from_slice(&address.port().to_be_bytes());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressProblem {
    Type,
    Name,
}

/// Returns the host, the port and their length from the type of the address on.
fn decode_address(input: &[u8]) -> Result<Option<(Host, u16, usize)>, AddressProblem> {
    let Some((&kind, rest)) = input.split_first() else { return Ok(None) };
    let (host, rest) = match kind {
        1 => match rest.split_first_chunk::<4>() {
            Some((octets, rest)) => (Host::Address(Ipv4Addr::from(*octets).into()), rest),
            None => return Ok(None),
        },
        4 => match rest.split_first_chunk::<16>() {
            Some((octets, rest)) => (Host::Address(Ipv6Addr::from(*octets).into()), rest),
            None => return Ok(None),
        },
        3 => match with_length(rest) {
            Some((name, rest)) => (host_name(name).ok_or(AddressProblem::Name)?, rest),
            None => return Ok(None),
        },
        _ => return Err(AddressProblem::Type),
    };
    let Some((port, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
    Ok(Some((host, u16::from_be_bytes(*port), input.len() - rest.len())))
}

/// A name that is written as an address is that address, so that it is not looked up. Characters
/// that no name has are refused here, for the log and for the resolver.
fn host_name(name: &[u8]) -> Option<Host> {
    let name = std::str::from_utf8(name).ok()?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    Some(name.parse().map_or_else(|_| Host::Name(name.to_owned()), Host::Address))
}

/// Returns the bytes that follow their length in one byte, and the rest.
fn with_length(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = input.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// Returns the text that ends with a zero byte; `None` if its end is missing.
fn text(input: &[u8]) -> Result<Option<&[u8]>, ()> {
    match input.iter().take(LONGEST_TEXT + 1).position(|&byte| byte == 0) {
        Some(end) => Ok(Some(&input[..end])),
        None if input.len() > LONGEST_TEXT => Err(()),
        None => Ok(None),
    }
}
