//! Encodes commands and decodes replies.

use std::fmt;
use std::mem;

use reveille::codec::Decoder;

use super::resp::{ProtocolError, line, number};

/// The maximum length of a reply in bytes. It bounds the memory that a reply takes.
pub(crate) const MAX_REPLY: usize = 12 << 20;

/// A decoder of replies. Like the reply itself, it is not recursive: it counts the values that are
/// missing, so nested arrays take no memory. It remembers how many values of an incomplete reply
/// are complete.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replies {
    /// The number of further values.
    missing: usize,
    /// The offset after the last complete value; zero before the first.
    at: usize,
}

/// A reply, as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a>(&'a [u8]);

/// A part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Status(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Bulk(&'a [u8]),
    Nil,
    /// Followed by this number of values.
    Array(usize),
}

impl<'a> Value<'a> {
    /// Decodes the value at the front of `input`. Returns it and the number of bytes, or `None` if
    /// it is incomplete.
    fn decode(input: &'a [u8]) -> Result<Option<(Value<'a>, usize)>, ProtocolError> {
        let Some((line, length)) = line(input)? else { return Ok(None) };
        let (kind, text) = line.split_first().ok_or(ProtocolError("an empty line"))?;
        let number = || number(text).ok_or(ProtocolError("invalid number"));
        let value = match kind {
            b'+' => Value::Status(text),
            b'-' => Value::Error(text),
            b':' => Value::Integer(number()?),
            b'*' | b'$' if number()? == -1 => Value::Nil,
            b'*' | b'$' => {
                let count = usize::try_from(number()?).ok().filter(|&count| count <= MAX_REPLY);
                let count = count.ok_or(ProtocolError("invalid length"))?;
                if *kind == b'$' {
                    let end = length + count;
                    let Some(bytes) = input.get(length..end + 2) else { return Ok(None) };
                    return Ok(Some((Value::Bulk(&bytes[..count]), end + 2)));
                }
                Value::Array(count)
            }
            _ => return Err(ProtocolError("invalid type of a reply")),
        };
        Ok(Some((value, length)))
    }
}

impl Decoder for Replies {
    type Frame<'a> = Reply<'a>;
    type Error = ProtocolError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Reply<'a>, usize)>, ProtocolError> {
        if self.at == 0 {
            self.missing = 1;
        }
        while self.missing > 0 {
            let Some((value, length)) = Value::decode(&input[self.at..])? else {
                if input.len() > MAX_REPLY {
                    return Err(ProtocolError("a reply is too long"));
                }
                return Ok(None);
            };
            self.at += length;
            self.missing -= 1;
            if let Value::Array(count) = value {
                self.missing += count;
            }
            // The shortest value has three bytes.
            if self.at + self.missing * 3 > MAX_REPLY {
                return Err(ProtocolError("a reply is too long"));
            }
        }
        let end = mem::take(&mut self.at);
        Ok(Some((Reply(&input[..end]), end)))
    }
}

impl<'a> Reply<'a> {
    fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            // The decoder has checked all values.
            let (value, length) = Value::decode(rest).ok().flatten()?;
            rest = &rest[length..];
            Some(value)
        })
    }

    /// The strings among the values of the reply.
    #[allow(dead_code, reason = "it is for subscriptions")]
    pub(crate) fn strings(self) -> impl Iterator<Item = &'a [u8]> {
        self.values().filter_map(|value| match value {
            Value::Bulk(bytes) => Some(bytes),
            _ => None,
        })
    }

    pub(crate) fn is_error(self) -> bool {
        self.0.starts_with(b"-")
    }
}

/// One line for each value. The bytes of strings are escaped.
impl fmt::Display for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.values().enumerate() {
            f.write_str(if index > 0 { "\n" } else { "" })?;
            match value {
                Value::Status(text) => f.write_str(&printable(text))?,
                Value::Error(text) => write!(f, "error: {}", printable(text))?,
                Value::Integer(number) => write!(f, "{number}")?,
                Value::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii())?,
                Value::Nil => f.write_str("nil")?,
                Value::Array(count) => write!(f, "{count} values:")?,
            }
        }
        Ok(())
    }
}

/// A line of text, in which a terminal has nothing to interpret.
fn printable(text: &[u8]) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(text).chars().map(visible).collect()
}

/// Encodes a command and its arguments.
pub(crate) fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
        bytes.extend([argument, b"\r\n"].concat());
    }
    bytes
}
