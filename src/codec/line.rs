//! Lines: delimited frames.

use std::error::Error;
use std::fmt;
use std::io;

use super::Decoder;
use crate::buffer::{Buffer, position};

/// The delimiter of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineEnding {
    /// LF or CRLF: one CR before the LF belongs to the ending. Encoded as LF.
    #[default]
    LfOrCrlf,
    /// Same as [`LfOrCrlf`](LineEnding::LfOrCrlf), encoded as CRLF.
    CrlfOrLf,
    /// CRLF only: a CR or LF that stands alone is an error. For protocols in which two parties that
    /// interpret line endings differently can be exploited, such as SMTP (RFC 5321, 2.3.8).
    Crlf,
    /// This byte. `Byte(b'\n')` keeps a CR before it as part of the line.
    Byte(u8),
}

/// Lines, up to a limit. The frames are the lines without their endings.
///
/// Each byte is searched once, even if bytes arrive one at a time. A line is rejected as soon as it
/// is certain to be too long. A last line without its ending is
/// [incomplete](crate::codec::FrameError::Incomplete), since it may have been truncated.
///
/// # Examples
/// ```
/// use reveille::Buffer;
/// use reveille::codec::{Frames, LineCodec, LineEnding};
///
/// let codec = LineCodec::new(80).ending(LineEnding::CrlfOrLf);
/// let mut output = Buffer::new();
/// codec.encode(b"EHLO example.org", &mut output)?;
/// codec.encode(b"QUIT", &mut output)?;
/// assert_eq!(output.readable(), b"EHLO example.org\r\nQUIT\r\n");
///
/// let lines: Result<Vec<&[u8]>, _> = Frames::new(codec, output.readable()).collect();
/// assert_eq!(lines.unwrap(), [&b"EHLO example.org"[..], b"QUIT"]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LineCodec {
    limit: usize,
    ending: LineEnding,
    /// The length of the prefix of the first line that has been searched without finding an ending.
    searched: usize,
}

impl LineCodec {
    /// Lines of at most `limit` bytes, not counting their endings: with 0 only empty lines. Default
    /// ending: [`LineEnding::LfOrCrlf`].
    #[must_use]
    pub fn new(limit: usize) -> LineCodec {
        LineCodec { limit, ending: LineEnding::default(), searched: 0 }
    }

    /// Sets the line ending.
    #[must_use]
    pub fn ending(mut self, ending: LineEnding) -> LineCodec {
        self.ending = ending;
        self
    }

    /// Appends `line` and its ending to `output`.
    ///
    /// # Errors
    /// [`LineError::TooLong`], or [`LineError::HoldsEnding`] if it would not decode as exactly this
    /// line. Nothing is appended in either case.
    pub fn encode(&self, line: &[u8], output: &mut Buffer) -> Result<(), LineError> {
        if line.len() > self.limit {
            return Err(LineError::TooLong { limit: self.limit });
        }
        let has = |byte| position(line, byte).is_some();
        let byte;
        let (contains_ending, ending): (bool, &[u8]) = match self.ending {
            // A CR at the end would be decoded as part of the ending.
            LineEnding::LfOrCrlf => (has(b'\n') || line.ends_with(b"\r"), b"\n"),
            LineEnding::CrlfOrLf => (has(b'\n'), b"\r\n"),
            LineEnding::Crlf => (has(b'\n') || has(b'\r'), b"\r\n"),
            LineEnding::Byte(delimiter) => {
                byte = [delimiter];
                (has(delimiter), &byte)
            }
        };
        if contains_ending {
            return Err(LineError::HoldsEnding);
        }
        output.append(line);
        output.append(ending);
        Ok(())
    }
}

impl Decoder for LineCodec {
    type Frame<'a> = &'a [u8];
    type Error = LineError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, LineError> {
        let (delimiter, max_ending_len) = match self.ending {
            LineEnding::Byte(delimiter) => (delimiter, 1),
            _ => (b'\n', 2),
        };
        // A line within the limit ends inside this window, so only the window is searched.
        let window = &input[..input.len().min(self.limit.saturating_add(max_ending_len))];
        let from = self.searched.min(window.len());
        let Some(at) = position(&window[from..], delimiter) else {
            self.searched = window.len();
            // A CR at the end of the window may belong to the ending.
            let min_len = match window {
                [line @ .., b'\r'] if max_ending_len == 2 => line.len(),
                line => line.len(),
            };
            return if min_len > self.limit { Err(self.too_long()) } else { Ok(None) };
        };
        self.searched = 0;
        let end = from + at;
        let mut line = &window[..end];
        let mut is_valid = true;
        if max_ending_len == 2 {
            let before_cr = line.strip_suffix(b"\r");
            line = before_cr.unwrap_or(line);
            is_valid =
                self.ending != LineEnding::Crlf || before_cr.is_some() && position(line, b'\r').is_none();
        }
        if line.len() > self.limit {
            Err(self.too_long())
        } else if !is_valid {
            Err(LineError::LoneCrOrLf)
        } else {
            Ok(Some((line, end + 1)))
        }
    }
}

impl LineCodec {
    fn too_long(&self) -> LineError {
        LineError::TooLong { limit: self.limit }
    }
}

/// An error of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineError {
    /// The line is longer than the limit.
    TooLong {
        /// The limit in bytes, not counting the ending.
        limit: usize,
    },
    /// A CR or LF stands alone, and the ending is [`LineEnding::Crlf`].
    LoneCrOrLf,
    /// A line to be encoded contains an ending.
    HoldsEnding,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::TooLong { limit } => write!(f, "the line is longer than {limit} bytes"),
            LineError::LoneCrOrLf => f.write_str("a CR or LF stands alone; lines must end with CRLF"),
            LineError::HoldsEnding => f.write_str("the line to be sent contains a line ending"),
        }
    }
}

impl Error for LineError {}

/// [`InvalidData`](io::ErrorKind::InvalidData), with this error as its source.
impl From<LineError> for io::Error {
    fn from(error: LineError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests;
