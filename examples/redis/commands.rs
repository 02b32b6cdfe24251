//! Decodes commands: arrays of bulk strings, and inline commands, which are lines of words.

use std::mem;
use std::ops::Range;

use reveille::codec::Decoder;

use super::resp::{ProtocolError, line, number};

/// The maximum length of a command in bytes, and so of a value. Redis permits 512 MB per argument.
pub(crate) const MAX_COMMAND: usize = 8 << 20;

/// The maximum number of arguments of a command, including its name. Redis permits a million.
pub(crate) const MAX_ARGUMENTS: usize = 1024;

/// A decoder of commands. The arguments of a command borrow from the input.
///
/// It remembers which arguments of an incomplete command are complete, so that more input costs
/// time only for its own length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands {
    /// The complete arguments.
    found: Vec<Range<usize>>,
    /// The number of further arguments.
    missing: usize,
    /// The offset after the last complete argument; zero before the first line.
    at: usize,
}

impl Decoder for Commands {
    /// The name and the arguments. Empty for an empty line or array.
    type Frame<'a> = Vec<&'a [u8]>;
    type Error = ProtocolError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Vec<&'a [u8]>, usize)>, ProtocolError> {
        if self.at == 0 {
            let Some((line, length)) = line(input)? else { return Ok(None) };
            let Some(count) = line.strip_prefix(b"*") else {
                let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
                return Ok(Some((words.collect(), length)));
            };
            let count = number(count).filter(|&count| count <= MAX_ARGUMENTS as i64);
            let count = count.ok_or(ProtocolError("invalid multibulk length"))?;
            // Redis also ignores a negative count.
            self.missing = usize::try_from(count).unwrap_or(0);
            self.at = length;
        }
        while self.missing > 0 {
            let Some((line, length)) = line(&input[self.at..])? else { return Ok(None) };
            let start = self.at + length;
            let length = line.strip_prefix(b"$").ok_or(ProtocolError("expected '$'"))?;
            let length = number(length).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|&length| length <= MAX_COMMAND - start.min(MAX_COMMAND));
            let end = start + length.ok_or(ProtocolError("invalid bulk length"))?;
            let Some(after) = input.get(end..end + 2) else { return Ok(None) };
            if after != b"\r\n" {
                return Err(ProtocolError("a bulk string is longer than its length"));
            }
            self.found.push(start..end);
            self.missing -= 1;
            self.at = end + 2;
        }
        let arguments = self.found.drain(..).map(|argument| &input[argument]).collect();
        Ok(Some((arguments, mem::take(&mut self.at))))
    }
}
