//! Parts of RESP2, the protocol of Redis: lines and numbers.

use std::error::Error;
use std::fmt;
use std::io;

/// Why bytes are not RESP, or exceed a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) &'static str);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol error: {}", self.0)
    }
}

impl Error for ProtocolError {}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The maximum length of a line, including its end.
pub(crate) const LONGEST_LINE: usize = 1024;

/// Returns the line at the front of `input` without its end, and the number of bytes with its end;
/// `None` if it is incomplete.
pub(crate) fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let input = &input[..input.len().min(LONGEST_LINE)];
    match input.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = &input[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if input.len() == LONGEST_LINE => Err(ProtocolError("a line is too long")),
        None => Ok(None),
    }
}

/// Returns the decimal number that `text` consists of.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
