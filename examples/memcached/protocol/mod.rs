//! The protocols, without I/O: a decoder of requests. The first byte of a connection selects the
//! text protocol or the binary protocol.

pub(crate) mod binary;
pub(crate) mod text;
mod tokens;

use std::error::Error;
use std::fmt;
use std::io;

use reveille::codec::Decoder;

/// The first byte of a binary request.
pub(crate) const REQUEST_MAGIC: u8 = 0x80;

/// Why the stream cannot be decoded further. The connection closes without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    LineTooLong,
    /// A request of HTTP, such as a browser can be made to send.
    Http,
    NoMagic,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProtocolError::LineTooLong => "a command line is too long",
            ProtocolError::Http => "a request of HTTP",
            ProtocolError::NoMagic => "a binary request begins with a wrong byte",
        })
    }
}

impl Error for ProtocolError {}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// A request of either protocol.
#[derive(Debug, PartialEq)]
pub(crate) enum Request<'a> {
    Text(text::Request<'a>),
    Binary(binary::Request<'a>),
    /// A part of a value that is too long. It has no reply.
    Skipped,
}

/// A decoder of the requests of one connection.
#[derive(Debug)]
pub(crate) struct Protocol {
    max_value: usize,
    state: State,
    /// The remaining length of a value that is too long.
    skip: usize,
}

#[derive(Debug)]
enum State {
    /// No byte was received.
    Start,
    Text(text::Decoder),
    Binary,
}

impl Protocol {
    /// Creates the decoder of a new connection. Values have at most `max_value` bytes.
    pub(crate) fn new(max_value: usize) -> Protocol {
        Protocol { max_value, state: State::Start, skip: 0 }
    }

    /// The maximum number of bytes that the decoder leaves in its input.
    pub(crate) fn max_unread(max_value: usize) -> usize {
        text::LONGEST_LINE.max(max_value) + 4096
    }
}

impl Decoder for Protocol {
    type Frame<'a> = Request<'a>;
    type Error = ProtocolError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Request<'a>, usize)>, ProtocolError> {
        if self.skip > 0 {
            let skipped = self.skip.min(input.len());
            self.skip -= skipped;
            return Ok(Some((Request::Skipped, skipped)));
        }
        if let (State::Start, Some(&first)) = (&self.state, input.first()) {
            self.state = match first {
                REQUEST_MAGIC => State::Binary,
                _ => State::Text(text::Decoder::default()),
            };
        }
        match &mut self.state {
            State::Text(decoder) => {
                let Some((request, length)) = decoder.decode(input, self.max_value)? else { return Ok(None) };
                if let text::Request::TooLarge { length, .. } = request {
                    self.skip = length;
                }
                Ok(Some((Request::Text(request), length)))
            }
            State::Binary => {
                let Some((request, length)) = binary::decode(input, self.max_value)? else { return Ok(None) };
                self.skip = request.skipped;
                Ok(Some((Request::Binary(request), length)))
            }
            State::Start => Ok(None),
        }
    }
}
