//! Encodes replies.

use std::borrow::Cow;

use super::numbers::{float_text, push_integer};

/// The replies of a connection that were not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// The maximum length. A command can request the same value many times.
    pub(crate) limit: usize,
    /// Whether a reply has exceeded the limit, and is incomplete.
    pub(crate) is_too_long: bool,
}

/// Why a command failed: the text of the error reply, which begins with a code such as `ERR`. It
/// may contain bytes that the client has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(Cow<'static, [u8]>);

impl Failure {
    pub(crate) const fn new(text: &'static str) -> Failure {
        Failure(Cow::Borrowed(text.as_bytes()))
    }

    /// The text consists of these parts.
    pub(crate) fn of(parts: &[&[u8]]) -> Failure {
        Failure(Cow::Owned(parts.concat()))
    }
}

pub(crate) const WRONG_TYPE: Failure =
    Failure::new("WRONGTYPE Operation against a key holding the wrong kind of value");
pub(crate) const NOT_AN_INTEGER: Failure = Failure::new("ERR value is not an integer or out of range");
pub(crate) const NOT_A_FLOAT: Failure = Failure::new("ERR value is not a valid float");
pub(crate) const SYNTAX: Failure = Failure::new("ERR syntax error");

impl Reply {
    pub(crate) fn ok(&mut self) {
        self.simple("OK");
    }

    pub(crate) fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(text.as_bytes());
        self.end();
    }

    pub(crate) fn error(&mut self, failure: &Failure) {
        self.bytes.push(b'-');
        // An end of line in the text must not end the reply.
        let visible = |&byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
        self.bytes.extend(failure.0.iter().map(visible));
        self.end();
    }

    pub(crate) fn integer(&mut self, value: i64) {
        self.line(b':', value);
    }

    /// A number of elements as an integer.
    pub(crate) fn count(&mut self, count: usize) {
        self.integer(count as i64);
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        // One copy for a short string.
        if let length @ 0..=9 = bytes.len() {
            let mut short = [b'$', b'0' + length as u8, b'\r', b'\n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            short[4..4 + length].copy_from_slice(bytes);
            short[4 + length..6 + length].copy_from_slice(b"\r\n");
            self.bytes.extend_from_slice(&short[..6 + length]);
            return;
        }
        if self.bytes.len() + bytes.len() > self.limit {
            self.is_too_long = true;
            return;
        }
        self.line(b'$', bytes.len() as i64);
        self.bytes.reserve(bytes.len() + 2);
        self.bytes.extend_from_slice(bytes);
        self.end();
    }

    /// A bulk string, or null.
    pub(crate) fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.bulk(float_text(value).as_bytes());
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(b"$-1\r\n");
    }

    pub(crate) fn null_array(&mut self) {
        self.bytes.extend_from_slice(b"*-1\r\n");
    }

    /// The beginning of an array; its elements follow.
    pub(crate) fn array(&mut self, length: usize) {
        self.line(b'*', length as i64);
    }

    fn line(&mut self, kind: u8, value: i64) {
        self.bytes.push(kind);
        push_integer(&mut self.bytes, value);
        self.end();
    }

    fn end(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }
}
