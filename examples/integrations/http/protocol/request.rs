//! A request, from its head.

use std::fmt;

use httparse::{EMPTY_HEADER, parse_headers};

use super::{Status, Target};

/// The most fields of a request.
const MAX_FIELDS: usize = 64;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Put,
    Options,
    /// A method that is defined, and that no resource here has.
    Other,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Options => "OPTIONS",
            Method::Other => "another method",
        })
    }
}

/// The body that follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The head has neither a length nor a coding, so there is none.
    None,
    Length(u64),
    Chunked,
}

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) target: Target<'a>,
    /// HTTP/1.0 instead of HTTP/1.1.
    pub(crate) is_http_1_0: bool,
    /// Whether the client wants to send further requests.
    pub(crate) keeps_alive: bool,
    pub(crate) body: Body,
    /// The client sends the body after `100 Continue`, or after a while.
    pub(crate) expects_continue: bool,
    pub(crate) fields: Fields<'a>,
}

/// The fields on which the response depends. A field that may occur once, and occurs repeatedly, is
/// empty, which is an invalid value of it.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a> {
    /// Whether one of the following is present.
    pub(crate) select: bool,
    pub(crate) if_match: Vec<&'a [u8]>,
    pub(crate) if_none_match: Vec<&'a [u8]>,
    pub(crate) if_modified_since: Option<&'a [u8]>,
    pub(crate) if_unmodified_since: Option<&'a [u8]>,
    pub(crate) if_range: Option<&'a [u8]>,
    pub(crate) range: Option<&'a [u8]>,
    pub(crate) has_content_range: bool,
    /// The body has a coding, such as gzip.
    pub(crate) has_content_coding: bool,
}

/// The fields that determine where the body ends, and the connection.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    is_chunked: bool,
    has_transfer_coding: bool,
    /// A coding besides `chunked`.
    has_other_coding: bool,
    closes: bool,
    keeps_alive: bool,
    expects_continue: bool,
}

impl<'a> Request<'a> {
    /// Parses a request line, and the field lines with the empty line after them. Each line ends
    /// with CRLF.
    pub(super) fn parse(line: &'a [u8], fields: &'a [u8]) -> Result<Request<'a>, Status> {
        let mut parts = line[..line.len() - 2].split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BAD_REQUEST);
        };
        let is_http_1_0 = is_http_1_0(version)?;
        let method = Method::parse(method)?;
        let mut headers = [EMPTY_HEADER; MAX_FIELDS];
        let headers = match parse_headers(fields, &mut headers) {
            Ok(httparse::Status::Complete((length, headers))) if length == fields.len() => headers,
            Err(httparse::Error::TooManyHeaders) => return Err(Status(431)),
            _ => return Err(Status::BAD_REQUEST),
        };
        let (mut framing, mut selecting) = (Framing::default(), Fields::default());
        for header in headers {
            framing.read(header.name, header.value)?;
            selecting.read(header.name, header.value);
        }
        let target = Target::parse(method, target)?;
        match framing.host {
            None if !is_http_1_0 => return Err(Status::BAD_REQUEST),
            Some(host) if !super::target::is_host(host) => return Err(Status::BAD_REQUEST),
            _ => {}
        }
        let keeps_alive = !framing.closes && (!is_http_1_0 || framing.keeps_alive);
        let body = framing.body(is_http_1_0)?;
        // HTTP/1.0 has no expectations.
        let expects_continue =
            framing.expects_continue && !is_http_1_0 && !matches!(body, Body::None | Body::Length(0));
        let fields = selecting;
        Ok(Request { method, target, is_http_1_0, keeps_alive, body, expects_continue, fields })
    }
}

/// Later versions 1.x would be requests of HTTP/1.1, but there are none.
fn is_http_1_0(version: &[u8]) -> Result<bool, Status> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Status(505))
        }
        _ => Err(Status::BAD_REQUEST),
    }
}

impl Method {
    /// Method names are case-sensitive.
    fn parse(name: &[u8]) -> Result<Method, Status> {
        match name {
            b"GET" => Ok(Method::Get),
            b"HEAD" => Ok(Method::Head),
            b"PUT" => Ok(Method::Put),
            b"OPTIONS" => Ok(Method::Options),
            b"POST" | b"DELETE" | b"CONNECT" | b"TRACE" | b"PATCH" => Ok(Method::Other),
            _ if !name.is_empty() && name.iter().copied().all(is_token) => Err(Status(501)),
            _ => Err(Status::BAD_REQUEST),
        }
    }
}

/// Whether the byte may occur in a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl<'a> Framing<'a> {
    fn read(&mut self, name: &str, value: &'a [u8]) -> Result<(), Status> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("host") && self.host.replace(value).is_some() => return Err(Status::BAD_REQUEST),
            // Also if both lengths are the same: others use the first, the last or none.
            14 if is("content-length") && self.length.replace(value).is_some() => {
                return Err(Status::BAD_REQUEST);
            }
            17 if is("transfer-encoding") => {
                self.has_transfer_coding = true;
                for coding in elements(value) {
                    // Nothing may follow `chunked`, since it marks the end of the body.
                    if self.is_chunked {
                        return Err(Status::BAD_REQUEST);
                    }
                    self.is_chunked = coding.eq_ignore_ascii_case(b"chunked");
                    self.has_other_coding |= !self.is_chunked;
                }
            }
            10 if is("connection") => {
                for option in elements(value) {
                    self.closes |= option.eq_ignore_ascii_case(b"close");
                    self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Status(417));
                }
                self.expects_continue = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The body that follows (RFC 9112, section 6.3).
    fn body(&self, is_http_1_0: bool) -> Result<Body, Status> {
        match self.length {
            // A reader of HTTP/1.0 does not know codings; one that ignores the length, or the
            // coding, finds another end of the body.
            _ if self.has_transfer_coding && (is_http_1_0 || self.length.is_some()) => {
                Err(Status::BAD_REQUEST)
            }
            None if !self.has_transfer_coding => Ok(Body::None),
            None if !self.is_chunked => Err(Status::BAD_REQUEST),
            None if self.has_other_coding => Err(Status(501)),
            None => Ok(Body::Chunked),
            Some(digits) if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) => {
                Err(Status::BAD_REQUEST)
            }
            Some(digits) => {
                let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                length.map(Body::Length).ok_or(Status(413))
            }
        }
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self, name: &str, value: &'a [u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            5 if is("range") => once(&mut self.range, value),
            8 if is("if-match") => self.if_match.push(value),
            8 if is("if-range") => once(&mut self.if_range, value),
            13 if is("if-none-match") => self.if_none_match.push(value),
            13 if is("content-range") => self.has_content_range = true,
            16 if is("content-encoding") => {
                self.has_content_coding |= elements(value).any(|coding| coding != b"identity");
            }
            17 if is("if-modified-since") => once(&mut self.if_modified_since, value),
            19 if is("if-unmodified-since") => once(&mut self.if_unmodified_since, value),
            _ => return,
        }
        self.select = true;
    }
}

fn once<'a>(field: &mut Option<&'a [u8]>, value: &'a [u8]) {
    *field = Some(if field.is_some() { b"" } else { value });
}

/// The elements of a list (RFC 9110, section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}
