//! Length-prefixed frames.

use std::error::Error;
use std::fmt;
use std::io;

use super::prefix::EncodedPrefix;
use super::{Decoder, LengthPrefix};
use crate::buffer::Buffer;

/// Length-prefixed frames, up to a limit.
///
/// A length above the limit is rejected as soon as the prefix has been read. A length within the
/// limit preallocates nothing: only received bytes occupy memory.
///
/// # Examples
/// ```
/// use reveille::Buffer;
/// use reveille::codec::{Frames, LengthCodec, LengthPrefix};
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
    /// Frames of at most `limit` bytes without the prefix: with 0 only empty frames. The length in
    /// the prefix does not include the prefix itself.
    #[must_use]
    pub fn new(prefix: LengthPrefix, limit: usize) -> LengthCodec {
        LengthCodec { prefix, limit, counts_prefix: false }
    }

    /// The length in the prefix includes the prefix itself. Default: it does not. The limit never
    /// includes it.
    #[must_use]
    pub fn counts_prefix(mut self) -> LengthCodec {
        self.counts_prefix = true;
        self
    }

    /// Appends the prefix and `frame` to `output`.
    ///
    /// # Errors
    /// [`LengthError::TooLong`], or [`LengthError::NotExpressible`] if the prefix is too small for
    /// the length. Nothing is appended in either case.
    pub fn encode(&self, frame: &[u8], output: &mut Buffer) -> Result<(), LengthError> {
        let prefix = self.encode_prefix(frame.len())?;
        output.append(prefix.bytes());
        output.append(frame);
        Ok(())
    }

    /// Prepends the prefix to the contents of `frame`, for a frame that is written to the buffer in
    /// pieces. The contents move only if there is no space before them.
    ///
    /// # Errors
    /// Same as [`encode`](LengthCodec::encode). `frame` is unchanged.
    ///
    /// # Examples
    /// ```
    /// use reveille::Buffer;
    /// use reveille::codec::{LengthCodec, LengthPrefix, LineCodec};
    ///
    /// let mut message = Buffer::new();
    /// LineCodec::new(80).encode(b"one line", &mut message)?;
    /// LineCodec::new(80).encode(b"another", &mut message)?;
    /// LengthCodec::new(LengthPrefix::Varint, 1000).enclose(&mut message)?;
    /// assert_eq!(message.readable(), b"\x11one line\nanother\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn enclose(&self, frame: &mut Buffer) -> Result<(), LengthError> {
        let prefix = self.encode_prefix(frame.len())?;
        frame.prepend(prefix.bytes());
        Ok(())
    }

    /// Encodes the prefix of a frame of `len` bytes.
    fn encode_prefix(&self, len: usize) -> Result<EncodedPrefix, LengthError> {
        let length = len as u64;
        if len > self.limit {
            return Err(LengthError::TooLong { length, limit: self.limit });
        }
        // The width of a prefix that counts itself depends on the number in it, which depends on
        // that width. Each iteration increases the width; for a fixed width the second one is the
        // last.
        let mut counted = 0;
        loop {
            let number = length.checked_add(counted as u64);
            let encoded = number.and_then(|number| self.prefix.encode(number));
            let encoded = encoded.ok_or(LengthError::NotExpressible { length })?;
            if !self.counts_prefix || encoded.bytes().len() == counted {
                return Ok(encoded);
            }
            counted = encoded.bytes().len();
        }
    }
}

impl Decoder for LengthCodec {
    type Frame<'a> = &'a [u8];
    type Error = LengthError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, LengthError> {
        let Some((number, width)) = self.prefix.decode(input)? else { return Ok(None) };
        let length = if self.counts_prefix {
            number.checked_sub(width as u64).ok_or(LengthError::TooShort { number })?
        } else {
            number
        };
        if length > self.limit as u64 {
            return Err(LengthError::TooLong { length, limit: self.limit });
        }
        // Within the limit, so it fits a `usize`.
        let frame = input[width..].get(..length as usize);
        Ok(frame.map(|frame| (frame, width + frame.len())))
    }
}

/// An error of a length prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthError {
    /// The frame is longer than the limit.
    TooLong {
        /// The frame's length, without the prefix.
        length: u64,
        /// The limit.
        limit: usize,
    },
    /// A length that counts its own prefix is less than the prefix's length.
    TooShort {
        /// The number in the prefix.
        number: u64,
    },
    /// A varint of more than 64 bits, or one that is not in its shortest form.
    BadVarint,
    /// The length of a frame to be encoded does not fit its prefix.
    NotExpressible {
        /// The frame's length, without the prefix.
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
                write!(f, "a length of {number} bytes is less than that of its prefix")
            }
            LengthError::BadVarint => {
                f.write_str("a varint has more than 64 bits or is not in its shortest form")
            }
            LengthError::NotExpressible { length } => {
                write!(f, "a length of {length} bytes does not fit the prefix")
            }
        }
    }
}

impl Error for LengthError {}

/// [`InvalidData`](io::ErrorKind::InvalidData), with this error as its source.
impl From<LengthError> for io::Error {
    fn from(error: LengthError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests;
