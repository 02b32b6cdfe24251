//! Lines: frames with a delimiter behind them.

use std::error::Error;
use std::fmt;
use std::io;

use super::Decoder;
use crate::buffer::{Buffer, position};

/// What ends a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineEnding {
    /// LF or CRLF, alike: one CR before the LF belongs to the ending. Written as LF.
    #[default]
    LfOrCrlf,
    /// The same, written as CRLF.
    CrlfOrLf,
    /// CRLF and nothing else: a CR or LF that stands alone is an error. For protocols in which two parties that read line ends
    /// differently can be played off against each other, as SMTP (RFC 5321, 2.3.8).
    Crlf,
    /// This byte. `Byte(b'\n')` keeps a CR before it as a part of the line.
    Byte(u8),
}

/// Lines, up to a limit. The frames are the lines without their endings.
///
/// Bytes that come one at a time are looked at once each. A line is refused when so much of it has come that it is certainly too
/// long; a last line whose ending never comes is [incomplete](crate::FrameError::Incomplete), since it may have been cut short.
///
/// # Examples
/// ```
/// use reveille::{Buffer, Frames, LineCodec, LineEnding};
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
    /// How much of the line at the front has been seen to have no ending.
    searched: usize,
}

impl LineCodec {
    /// Lines of at most `limit` bytes, not counting their endings, which are [`LineEnding::LfOrCrlf`].
    #[must_use]
    pub fn new(limit: usize) -> LineCodec {
        LineCodec { limit, ending: LineEnding::default(), searched: 0 }
    }

    /// With another ending.
    #[must_use]
    pub fn ending(mut self, ending: LineEnding) -> LineCodec {
        self.ending = ending;
        self
    }

    /// Appends `line` and its ending to `output`.
    ///
    /// # Errors
    /// [`LineError::TooLong`], or [`LineError::HoldsEnding`] if it would be read as something other than this one line.
    /// Nothing is appended then.
    pub fn encode(&self, line: &[u8], output: &mut Buffer) -> Result<(), LineError> {
        if line.len() > self.limit {
            return Err(LineError::TooLong { limit: self.limit });
        }
        let has = |byte| position(line, byte).is_some();
        let byte;
        let (holds_ending, ending): (bool, &[u8]) = match self.ending {
            // A CR at the end would be taken for a part of the ending.
            LineEnding::LfOrCrlf => (has(b'\n') || line.ends_with(b"\r"), b"\n"),
            LineEnding::CrlfOrLf => (has(b'\n'), b"\r\n"),
            LineEnding::Crlf => (has(b'\n') || has(b'\r'), b"\r\n"),
            LineEnding::Byte(delimiter) => {
                byte = [delimiter];
                (has(delimiter), &byte)
            }
        };
        if holds_ending {
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
        let (delimiter, longest_ending) = match self.ending {
            LineEnding::Byte(delimiter) => (delimiter, 1),
            _ => (b'\n', 2),
        };
        // No line that is short enough ends further back, so nothing behind this is searched.
        let window = &input[..input.len().min(self.limit.saturating_add(longest_ending))];
        let from = self.searched.min(window.len());
        let Some(at) = position(&window[from..], delimiter) else {
            self.searched = window.len();
            // A CR at the very end may yet belong to the ending.
            let surely = match window {
                [line @ .., b'\r'] if longest_ending == 2 => line.len(),
                line => line.len(),
            };
            return if surely > self.limit { Err(self.too_long()) } else { Ok(None) };
        };
        self.searched = 0;
        let end = from + at;
        let mut line = &window[..end];
        let mut is_sound = true;
        if longest_ending == 2 {
            let before_cr = line.strip_suffix(b"\r");
            line = before_cr.unwrap_or(line);
            is_sound =
                self.ending != LineEnding::Crlf || before_cr.is_some() && position(line, b'\r').is_none();
        }
        if line.len() > self.limit {
            Err(self.too_long())
        } else if !is_sound {
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

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineError {
    /// The line is longer than the limit.
    TooLong {
        /// The limit, in bytes without the ending.
        limit: usize,
    },
    /// A CR or LF stands alone, where only [`LineEnding::Crlf`] is allowed.
    LoneCrOrLf,
    /// A line that was to be sent has an ending in it.
    HoldsEnding,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::TooLong { limit } => write!(f, "the line is longer than {limit} bytes"),
            LineError::LoneCrOrLf => f.write_str("a CR or LF stands alone, and lines end with both"),
            LineError::HoldsEnding => f.write_str("the line to be sent has an ending in it"),
        }
    }
}

impl Error for LineError {}

/// [`InvalidData`](io::ErrorKind::InvalidData), with the error in it.
impl From<LineError> for io::Error {
    fn from(error: LineError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests;
