//! Parses a host and a port from text.
//!
//! The grammar is unambiguous. An IPv6 address followed by a port is in brackets. A host that ends
//! in a number is an IPv4 address. A port is a number or the name of a service, which begins with a
//! letter. Nothing follows it. Every other text is an error and is not passed to the resolver,
//! which would look for a host named `2001:db8:` or take `127.1` for an address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use super::{Endpoint, Service};

/// Why a text is not an address.
type Reason = &'static str;

/// Parses `host:port` or `[host]:port`. The port may be the name of a service.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Reason> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
        let port = rest.strip_prefix(':').ok_or("the port after the bracket is missing, as in [::1]:80")?;
        return ipv6(address, service(port)?);
    }
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing, as in example.org:80")?;
    if host.contains(':') {
        return Err("a host contains no colon; an IPv6 address is in brackets, as in [::1]:80");
    }
    self::host(host, service(port)?)
}

/// Parses a host that is separate from its port. An IPv6 address may be in brackets.
pub(super) fn host(host: &str, service: Service) -> Result<Endpoint, Reason> {
    if let Some(rest) = host.strip_prefix('[') {
        return ipv6(rest.strip_suffix(']').ok_or("a bracket is not closed")?, service);
    }
    if host.contains(':') {
        return ipv6(host, service);
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        if let Service::Port(port) = service {
            return Ok(Endpoint::of_one(SocketAddrV4::new(address, port)));
        }
    } else {
        check_name(host)?;
    }
    Ok(Endpoint::Host(host.to_owned(), service))
}

/// Parses an IPv6 address with an optional zone.
fn ipv6(text: &str, service: Service) -> Result<Endpoint, Reason> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let address: Ipv6Addr = address.parse().map_err(|_| "it is not an IPv6 address")?;
    let scope = match zone {
        None => Ok(0),
        Some("") => return Err("the zone after the % is empty"),
        Some(zone) if is_number(zone) => Ok(zone.parse().map_err(|_| "the zone's number is too large")?),
        Some(zone) => Err(zone),
    };
    Ok(match (service, scope) {
        (Service::Port(port), Ok(scope)) => Endpoint::of_one(SocketAddrV6::new(address, port, 0, scope)),
        (Service::Port(port), Err(zone)) => Endpoint::Zoned(address, zone.to_owned(), port),
        (service, _) => Endpoint::Host(text.to_owned(), service),
    })
}

fn service(text: &str) -> Result<Service, Reason> {
    // `u16::from_str` also accepts a sign.
    if is_number(text) {
        return text.parse().map(Service::Port).map_err(|_| "the port is larger than 65535");
    }
    let is_part_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_part_of_name) {
        return Ok(Service::Name(text.to_owned()));
    }
    Err("the text after the last colon is neither a port nor the name of a service")
}

/// Rejects text that cannot be a host name. The resolver decides whether a host has that name.
fn check_name(name: &str) -> Result<(), Reason> {
    if name.is_empty() {
        return Err("there is no host before the port");
    }
    let is_foreign = |c: char| c.is_whitespace() || c.is_control() || "[]%/\\@?#".contains(c);
    if name.contains(is_foreign) {
        return Err("the host contains a character that host names cannot have");
    }
    let last = name.strip_suffix('.').unwrap_or(name).rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    if is_number(last) || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err("a host that ends in a number must be an IPv4 address of four decimal numbers");
    }
    Ok(())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
