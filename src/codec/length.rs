//! Frames with their length before them.

use std::error::Error;
use std::fmt;
use std::io;

use super::prefix::Written;
use super::{Decoder, LengthPrefix};
use crate::buffer::Buffer;

/// Frames with their length before them, up to a limit.
///
/// A length above the limit is refused as soon as it has been read. One within it reserves nothing: memory is used for what has
/// come.
///
/// # Examples
/// ```
/// use reveille::{Buffer, Frames, LengthCodec, LengthPrefix};
///
/// let codec = LengthCodec::new(LengthPrefix::U16Be, 1000);
/// let mut output = Buffer::new();
/// codec.encode(b"first", &mut output)?;
/// codec.encode(b"", &mut output)?;
/// assert_eq!(output.readable(), b"\x00\x05first\x00\x00");
///
/// let frames: Result<Vec<&[u8]>, _> = Frames::new(codec, output.readable()).collect();
/// assert_eq!(frames.unwrap(), [&b"first"[..], b""]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LengthCodec {
    prefix: LengthPrefix,
    limit: usize,
    counts_prefix: bool,
}

impl LengthCodec {
    /// Frames of at most `limit` bytes, without their prefix, which does not count itself.
    #[must_use]
    pub fn new(prefix: LengthPrefix, limit: usize) -> LengthCodec {
        LengthCodec { prefix, limit, counts_prefix: false }
    }

    /// Whether the number in the prefix includes the prefix's own bytes. The limit never does.
    #[must_use]
    pub fn counts_prefix(mut self, counts_prefix: bool) -> LengthCodec {
        self.counts_prefix = counts_prefix;
        self
    }

    /// Appends `frame`, with its length before it, to `output`.
    ///
    /// # Errors
    /// [`LengthError::TooLong`], or [`LengthError::NotExpressible`] if the prefix is too small for the length. Nothing is
    /// appended then.
    pub fn encode(&self, frame: &[u8], output: &mut Buffer) -> Result<(), LengthError> {
        let prefix = self.prefix_of(frame.len())?;
        output.append(prefix.bytes());
        output.append(frame);
        Ok(())
    }

    /// Makes all that is in `frame` one frame, by putting its length before it: for what has been written there piece by piece,
    /// and need not be copied.
    ///
    /// # Errors
    /// As [`encode`](LengthCodec::encode); `frame` is as it was.
    ///
    /// # Examples
    /// ```
    /// use reveille::{Buffer, LengthCodec, LengthPrefix, LineCodec};
    ///
    /// let mut message = Buffer::new();
    /// LineCodec::new(80).encode(b"one line", &mut message)?;
    /// LineCodec::new(80).encode(b"another", &mut message)?;
    /// LengthCodec::new(LengthPrefix::Varint, 1000).enclose(&mut message)?;
    /// assert_eq!(message.readable(), b"\x11one line\nanother\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn enclose(&self, frame: &mut Buffer) -> Result<(), LengthError> {
        let prefix = self.prefix_of(frame.len())?;
        frame.prepend(prefix.bytes());
        Ok(())
    }

    /// What stands before a frame of `len` bytes.
    fn prefix_of(&self, len: usize) -> Result<Written, LengthError> {
        let length = len as u64;
        if len > self.limit {
            return Err(LengthError::TooLong { length, limit: self.limit });
        }
        // How long a prefix is that counts itself depends on the number in it, which depends on how long it is. Each round
        // makes it longer, and those that have a width settle with the second.
        let mut counted = 0;
        loop {
            let number = length.checked_add(counted as u64);
            let written = number.and_then(|number| self.prefix.write(number));
            let written = written.ok_or(LengthError::NotExpressible { length })?;
            if !self.counts_prefix || written.bytes().len() == counted {
                return Ok(written);
            }
            counted = written.bytes().len();
        }
    }
}

impl Decoder for LengthCodec {
    type Frame<'a> = &'a [u8];
    type Error = LengthError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, LengthError> {
        let Some((number, width)) = self.prefix.read(input)? else { return Ok(None) };
        let length = if self.counts_prefix {
            number.checked_sub(width as u64).ok_or(LengthError::TooShort { number })?
        } else {
            number
        };
        if length > self.limit as u64 {
            return Err(LengthError::TooLong { length, limit: self.limit });
        }
        // Within the limit, and so within a `usize`.
        let frame = input[width..].get(..length as usize);
        Ok(frame.map(|frame| (frame, width + frame.len())))
    }
}

/// What is wrong with a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthError {
    /// The frame is longer than the limit.
    TooLong {
        /// Its length, without the prefix.
        length: u64,
        /// The limit.
        limit: usize,
    },
    /// A length that counts its own prefix is shorter than that.
    TooShort {
        /// The number in the prefix.
        number: u64,
    },
    /// A varint of more than 64 bits, or not as short as it could be.
    BadVarint,
    /// A frame that was to be sent is longer than its prefix can say.
    NotExpressible {
        /// Its length, without the prefix.
        length: u64,
    },
}

impl fmt::Display for LengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LengthError::TooLong { length, limit } => {
                write!(f, "a frame of {length} bytes is longer than {limit} bytes")
            }
            LengthError::TooShort { number } => {
                write!(f, "a length of {number} bytes does not include its own")
            }
            LengthError::BadVarint => {
                f.write_str("a varint has more than 64 bits, or more bytes than needed")
            }
            LengthError::NotExpressible { length } => {
                write!(f, "a frame of {length} bytes is longer than its prefix can say")
            }
        }
    }
}

impl Error for LengthError {}

/// [`InvalidData`](io::ErrorKind::InvalidData), with the error in it.
impl From<LengthError> for io::Error {
    fn from(error: LengthError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests;
