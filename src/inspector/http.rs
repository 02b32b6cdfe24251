//! The requests that an inspector accepts, and its responses. No I/O.
//!
//! The inspector reads no request body: a request that announces one is refused, and ends its
//! connection. So the end of each head is the beginning of the next request.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The maximum length of a head, in bytes.
pub(super) const MAX_HEAD: usize = 8 * 1024;

/// The maximum number of fields in a head.
const MAX_FIELDS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16);

impl Status {
    pub(super) const OK: Status = Status(200);
    pub(super) const BAD_REQUEST: Status = Status(400);
    pub(super) const NOT_FOUND: Status = Status(404);
    pub(super) const METHOD_NOT_ALLOWED: Status = Status(405);
    pub(super) const MISDIRECTED: Status = Status(421);
    pub(super) const HEAD_TOO_LARGE: Status = Status(431);
    pub(super) const UNAVAILABLE: Status = Status(503);
    pub(super) const UNSUPPORTED_VERSION: Status = Status(505);

    pub(super) fn phrase(self) -> &'static str {
        match self.0 {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "HTTP Version Not Supported",
        }
    }
}

/// How a response is sent: without its body for HEAD, and whether further requests may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) is_head: bool,
    pub(super) keeps_alive: bool,
    /// A client of HTTP/1.0 that requested a persistent connection has to be informed.
    is_old_client: bool,
}

impl Manner {
    /// For a response after which nothing can follow.
    pub(super) const CLOSE: Manner = Manner { is_head: false, keeps_alive: false, is_old_client: false };
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) manner: Manner,
    pub(super) path: String,
    /// The part after the question mark.
    pub(super) query: String,
    /// The value of the field Host, or the authority of the request target.
    pub(super) host: Option<String>,
    /// The length of the head.
    pub(super) length: usize,
}

impl Request {
    /// The value of a parameter of the query. The values that the inspector knows need no decoding.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Incomplete,
    Request(Request),
    /// The connection is to be closed after a response with this status.
    Refused(Status),
}

/// Parses the head at the beginning of `input`.
pub(super) fn parse(input: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let length = match head.parse(&input[..input.len().min(MAX_HEAD)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() >= MAX_HEAD => {
            return Parsed::Refused(Status::HEAD_TOO_LARGE);
        }
        Ok(httparse::Status::Partial) => return Parsed::Incomplete,
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(Status::HEAD_TOO_LARGE),
        Err(httparse::Error::Version) => return Parsed::Refused(Status::UNSUPPORTED_VERSION),
        Err(_) => return Parsed::Refused(Status::BAD_REQUEST),
    };
    request(&head, length).map_or_else(Parsed::Refused, Parsed::Request)
}

fn request(head: &httparse::Request<'_, '_>, length: usize) -> Result<Request, Status> {
    let values = |name: &'static str| {
        let named = head.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| std::str::from_utf8(field.value).map_err(|_| Status::BAD_REQUEST))
    };
    let is_http_1_1 = head.version == Some(1);
    let mut hosts = values("host");
    let host = hosts.next().transpose()?;
    if hosts.next().is_some() || (is_http_1_1 && host.is_none()) {
        return Err(Status::BAD_REQUEST);
    }
    if values("transfer-encoding").next().is_some() || values("content-length").any(|n| n != Ok("0")) {
        return Err(Status::BAD_REQUEST);
    }
    let is_head = match head.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Status::METHOD_NOT_ALLOWED),
    };
    let (mut closes, mut keeps) = (false, false);
    for value in values("connection") {
        for option in value?.split(',').map(str::trim) {
            closes |= option.eq_ignore_ascii_case("close");
            keeps |= option.eq_ignore_ascii_case("keep-alive");
        }
    }
    let target = head.path.unwrap_or_default();
    // A server accepts the absolute form too, whose authority replaces the field Host (RFC 9112).
    let (host, target) = match target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        None => (host, target),
        Some(_) => {
            let rest = &target[7..];
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), if end == rest.len() { "/" } else { &rest[end..] })
        }
    };
    if !target.starts_with('/') {
        return Err(Status::BAD_REQUEST);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request {
        manner: Manner {
            is_head,
            keeps_alive: !closes && (is_http_1_1 || keeps),
            is_old_client: !is_http_1_1,
        },
        path: path.to_owned(),
        query: query.to_owned(),
        host: host.map(str::to_owned),
        length,
    })
}

/// Whether a request for this host may be served. A page of another site whose name resolves to the
/// loopback address sends its own name (DNS rebinding).
pub(super) fn is_allowed_host(host: Option<&str>, allowed: &[String]) -> bool {
    // Browsers send a host with every request.
    let Some(host) = host else { return true };
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || port.strip_prefix(':').is_some_and(is_port) => {
                return address.parse::<Ipv6Addr>().is_ok_and(|address| is_own(address.into(), allowed));
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|address| is_own(address.into(), allowed))
        || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

fn is_own(address: IpAddr, allowed: &[String]) -> bool {
    address.is_loopback() || allowed.iter().any(|text| text.parse() == Ok(address))
}

/// Returns a response. The page needs its own script and style, and loads nothing from elsewhere.
pub(super) fn response(status: Status, content_type: &str, body: &str, manner: Manner) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n",
        status.0,
        status.phrase(),
        body.len()
    );
    head.push_str(
        "Cache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
         style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n\
         Referrer-Policy: no-referrer\r\n\
         X-Content-Type-Options: nosniff\r\n",
    );
    if status == Status::METHOD_NOT_ALLOWED {
        head.push_str("Allow: GET, HEAD\r\n");
    }
    let connection = match manner {
        Manner { keeps_alive: false, .. } => "close",
        Manner { is_old_client: true, .. } => "keep-alive",
        _ => "",
    };
    if !connection.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(head, "Connection: {connection}\r\n");
    }
    head.push_str("\r\n");
    if !manner.is_head {
        head.push_str(body);
    }
    head.into_bytes()
}

/// A response that explains its status in one line.
pub(super) fn plain(status: Status, reason: &str, manner: Manner) -> Vec<u8> {
    response(status, "text/plain; charset=utf-8", &format!("{reason}\n"), manner)
}

#[cfg(test)]
mod tests;
