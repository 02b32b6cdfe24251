//! The target of a request (RFC 9112, section 3.2), and the file name in it.

use std::borrow::Cow;
use std::fmt;

use super::{Method, Status};

/// What a request is for: a path relative to the root of the files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Segments separated by `/`, decoded, without an empty segment, `.`, `..` or a NUL.
    pub(crate) path: Cow<'a, [u8]>,
    /// The target ends with `/`, so it names a directory.
    pub(crate) is_directory: bool,
    /// A segment begins with a dot.
    pub(crate) is_hidden: bool,
    /// The query with its `?`, or empty.
    pub(crate) query: &'a [u8],
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.is_directory && !self.path.is_empty() { "/" } else { "" };
        write!(f, "/{}{slash}", self.path.escape_ascii())
    }
}

impl<'a> Target<'a> {
    pub(super) fn parse(method: Method, target: &'a [u8]) -> Result<Target<'a>, Status> {
        if !target.iter().all(|&byte| matches!(byte, b'!'..=b'~') && byte != b'#') {
            return Err(Status::BAD_REQUEST);
        }
        let target = match target {
            [b'/', ..] => target,
            b"*" if method == Method::Options => b"/",
            // The form of CONNECT is an authority, which a file server has no use for.
            _ if method == Method::Other => b"/",
            _ => path_of_absolute(target)?,
        };
        let query_at = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
        let (path, query) = target.split_at(query_at);
        let path = path.strip_prefix(b"/").unwrap_or_default();
        let is_directory = path.is_empty() || path.ends_with(b"/");
        if is_plain(path) {
            let path = Cow::Borrowed(path.strip_suffix(b"/").unwrap_or(path));
            return Ok(Target { path, is_directory, is_hidden: false, query });
        }
        let (path, is_hidden) = decode(path)?;
        Ok(Target { path: Cow::Owned(path), is_directory, is_hidden, query })
    }
}

/// Whether the path needs no decoding, and has no empty or hidden segment, except an empty one at
/// its end.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b'/';
    path.iter().all(|&byte| {
        let is_plain = byte != b'%' && (before != b'/' || (byte != b'.' && byte != b'/'));
        before = byte;
        is_plain
    })
}

/// Decodes the segments of a path. A segment that contains an encoded `/` or NUL names no file.
/// Clients resolve `.` and `..` themselves, so these are refused in every spelling.
fn decode(path: &[u8]) -> Result<(Vec<u8>, bool), Status> {
    let (mut decoded, mut is_hidden) = (Vec::with_capacity(path.len()), false);
    for segment in path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()) {
        if !decoded.is_empty() {
            decoded.push(b'/');
        }
        let (start, mut rest) = (decoded.len(), segment);
        while let [first, after @ ..] = rest {
            let (byte, after) = match (first, after) {
                (b'%', [high, low, after @ ..]) => (hex(*high)? << 4 | hex(*low)?, after),
                (b'%', _) => return Err(Status::BAD_REQUEST),
                (byte, after) => (*byte, after),
            };
            if matches!(byte, b'/' | 0) {
                return Err(Status::BAD_REQUEST);
            }
            decoded.push(byte);
            rest = after;
        }
        let segment = &decoded[start..];
        if matches!(segment, b"." | b"..") {
            return Err(Status::BAD_REQUEST);
        }
        is_hidden |= segment[0] == b'.' && segment != b".well-known";
    }
    Ok((decoded, is_hidden))
}

fn hex(digit: u8) -> Result<u8, Status> {
    let value = char::from(digit).to_digit(16).ok_or(Status::BAD_REQUEST)?;
    Ok(value as u8)
}

/// The path and query of `http://host/path`. Its host takes the place of the field `Host`; there is
/// one site, so both are only checked.
fn path_of_absolute(target: &[u8]) -> Result<&[u8], Status> {
    let colon = target.iter().position(|&byte| byte == b':').ok_or(Status::BAD_REQUEST)?;
    let (scheme, rest) = target.split_at(colon);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Status::BAD_REQUEST);
    }
    let rest = rest.strip_prefix(b"://").ok_or(Status::BAD_REQUEST)?;
    let end = rest.iter().position(|&byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    match path {
        _ if host.is_empty() || host[0] == b':' || !is_host(host) => Err(Status::BAD_REQUEST),
        [] => Ok(b"/"),
        // A query without a path: the path is the root's, and the query has no effect.
        [b'?', ..] => Ok(b"/"),
        _ => Ok(path),
    }
}

/// Whether `host` is a name or an address, with or without a port. It may be empty.
pub(super) fn is_host(host: &[u8]) -> bool {
    let port = if let Some(address) = host.strip_prefix(b"[") {
        let Some(end) = address.iter().position(|&byte| byte == b']') else { return false };
        let (address, port) = (&address[..end], &address[end + 1..]);
        if address.is_empty() || !address.iter().all(|&byte| is_name(byte) || byte == b':') {
            return false;
        }
        port
    } else {
        let end = host.iter().position(|&byte| byte == b':').unwrap_or(host.len());
        if !host[..end].iter().copied().all(is_name) {
            return false;
        }
        &host[end..]
    };
    port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit))
}

/// Whether the byte may occur in a name (RFC 3986, reg-name). A comma is refused: some proxies join
/// repeated fields with it.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)
}
