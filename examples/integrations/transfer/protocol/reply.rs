//! Replies, and the decoder of the client.

use std::error::Error;
use std::fmt::{self, Write};
use std::io;

use reveille::codec::{Decoder, LineCodec, LineError};

use super::name::{decode, encode};
use super::{LONGEST_LINE, MAX_ENTRIES, is_component};

/// The peer does not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) &'static str);

/// A line of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Hello,
    /// This number of entries follows.
    Directory(u64),
    Entry(Entry),
    File {
        length: u64,
        is_executable: bool,
    },
    /// `length - offset` bytes follow.
    Data {
        offset: u64,
        length: u64,
    },
    Sum([u8; 32]),
    Changed,
    Error {
        code: Code,
        text: String,
    },
}

/// An entry of a directory; its name is one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File { length: u64, is_executable: bool },
    Directory,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// There is no such file or directory, or it is not served.
    NotFound,
    /// It is a symbolic link, a device, a pipe or a socket.
    NotRegular,
    NotPermitted,
    /// The file is shorter than the offset.
    OutOfRange,
    /// A directory has too many entries.
    TooLarge,
    /// A later attempt may succeed.
    Busy,
    /// The connection ends.
    BadRequest,
    /// An error of the server's file system.
    Failed,
}

pub(crate) const NOT_REGULAR: &str = "neither a file nor a directory";

const CODES: [(Code, &str); 8] = [
    (Code::NotFound, "not-found"),
    (Code::NotRegular, "not-regular"),
    (Code::NotPermitted, "not-permitted"),
    (Code::OutOfRange, "out-of-range"),
    (Code::TooLarge, "too-large"),
    (Code::Busy, "busy"),
    (Code::BadRequest, "bad-request"),
    (Code::Failed, "failed"),
];

impl Code {
    fn name(self) -> &'static str {
        CODES.iter().find(|(code, _)| *code == self).map_or("failed", |(_, name)| name)
    }

    /// The reply for an error without further text.
    pub(crate) fn reply(self) -> Reply {
        let text = match self {
            Code::NotFound => "no such file or directory",
            Code::NotRegular => NOT_REGULAR,
            Code::NotPermitted => "permission denied",
            Code::OutOfRange => "the file is shorter",
            Code::TooLarge => "the directory has too many entries",
            Code::Busy => "the server is busy",
            Code::BadRequest => "not a request",
            Code::Failed => "an error of the server",
        };
        Reply::Error { code: self, text: text.to_owned() }
    }
}

impl Entry {
    /// The line, with its ending.
    pub(crate) fn encode(&self) -> String {
        let name = encode(&self.name);
        match self.kind {
            Kind::File { length, is_executable: false } => format!("file {length} {name}\n"),
            Kind::File { length, is_executable: true } => format!("exec {length} {name}\n"),
            Kind::Directory => format!("dir {name}\n"),
            Kind::Other => format!("other {name}\n"),
        }
    }
}

impl Reply {
    /// The line, with its ending.
    pub(crate) fn encode(&self) -> String {
        match self {
            Reply::Hello => "transfer 1\n".to_owned(),
            Reply::Directory(count) => format!("DIRECTORY {count}\n"),
            Reply::Entry(entry) => entry.encode(),
            Reply::File { length, is_executable: false } => format!("FILE {length}\n"),
            Reply::File { length, is_executable: true } => format!("EXEC {length}\n"),
            Reply::Data { offset, length } => format!("DATA {offset} {length}\n"),
            Reply::Sum(sum) => format!("SHA256 {}\n", hex(sum)),
            Reply::Changed => "CHANGED\n".to_owned(),
            Reply::Error { code, text } => format!("ERROR {} {text}\n", code.name()),
        }
    }

    fn parse(line: &[u8]) -> Result<Reply, ProtocolError> {
        if let Some(error) = line.strip_prefix(b"ERROR ") {
            let at = error.iter().position(|byte| *byte == b' ').unwrap_or(error.len());
            let (code, text) = error.split_at(at);
            // An unknown code of a later version is a failure.
            let code = CODES.iter().find(|(_, name)| name.as_bytes() == code);
            let code = code.map_or(Code::Failed, |(code, _)| *code);
            // The text is for a terminal.
            return Ok(Reply::Error { code, text: text.trim_ascii().escape_ascii().to_string() });
        }
        let words: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
        match words[..] {
            [b"transfer", b"1"] => Ok(Reply::Hello),
            [b"DIRECTORY", count] => match number(count)? {
                count @ 0..=MAX_ENTRIES => Ok(Reply::Directory(count)),
                _ => Err(ProtocolError("a directory has too many entries")),
            },
            [kind @ (b"file" | b"exec"), length, name] => {
                let (length, is_executable) = (number(length)?, kind == b"exec");
                entry(name, Kind::File { length, is_executable })
            }
            [b"dir", name] => entry(name, Kind::Directory),
            [b"other", name] => entry(name, Kind::Other),
            [kind @ (b"FILE" | b"EXEC"), length] => {
                Ok(Reply::File { length: number(length)?, is_executable: kind == b"EXEC" })
            }
            [b"DATA", offset, length] => match (number(offset)?, number(length)?) {
                (offset, length) if offset <= length => Ok(Reply::Data { offset, length }),
                _ => Err(ProtocolError("an offset is beyond the end of its file")),
            },
            [b"SHA256", text] => Ok(Reply::Sum(sum(text)?)),
            [b"CHANGED"] => Ok(Reply::Changed),
            _ => Err(ProtocolError("a line is not a reply")),
        }
    }
}

fn entry(name: &[u8], kind: Kind) -> Result<Reply, ProtocolError> {
    let name = decode(name)?;
    if !is_component(&name) {
        return Err(ProtocolError("an entry has a name that is not valid"));
    }
    Ok(Reply::Entry(Entry { name, kind }))
}

/// Returns the decimal number that the text consists of.
pub(super) fn number(text: &[u8]) -> Result<u64, ProtocolError> {
    const INVALID: ProtocolError = ProtocolError("a number is not valid");
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    let number: u64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(INVALID)?;
    // The kernel's offsets are signed.
    if i64::try_from(number).is_ok() { Ok(number) } else { Err(INVALID) }
}

/// The hexadecimal digits of a checksum.
pub(crate) fn hex(sum: &[u8; 32]) -> String {
    sum.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn sum(text: &[u8]) -> Result<[u8; 32], ProtocolError> {
    const INVALID: ProtocolError = ProtocolError("a checksum is not valid");
    let text: &[u8; 64] = text.try_into().map_err(|_| INVALID)?;
    let mut sum = [0; 32];
    for (byte, digits) in sum.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(INVALID);
        *byte = (digit(digits[0])? * 16 + digit(digits[1])?) as u8;
    }
    Ok(sum)
}

/// What the decoder returns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Line(Reply),
    /// Bytes of a file, never empty.
    Bytes(&'a [u8]),
}

/// Decodes the output of a server: lines, and after `DATA` the bytes of a file. Only an incomplete
/// line is kept in memory.
pub(crate) struct Replies {
    lines: LineCodec,
    /// The bytes of the file that are still to come.
    body: u64,
}

impl Replies {
    pub(crate) fn new() -> Replies {
        Replies { lines: LineCodec::new(LONGEST_LINE), body: 0 }
    }
}

impl Decoder for Replies {
    type Frame<'a> = Part<'a>;
    type Error = ProtocolError;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Part<'a>, usize)>, ProtocolError> {
        if self.body > 0 {
            let taken = input.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
            self.body -= taken as u64;
            return Ok(if taken == 0 { None } else { Some((Part::Bytes(&input[..taken]), taken)) });
        }
        let Some((line, taken)) = self.lines.decode(input)? else { return Ok(None) };
        let reply = Reply::parse(line)?;
        if let Reply::Data { offset, length } = reply {
            self.body = length - offset;
        }
        Ok(Some((Part::Line(reply), taken)))
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for ProtocolError {}

impl From<LineError> for ProtocolError {
    fn from(_: LineError) -> ProtocolError {
        ProtocolError("a line is too long")
    }
}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
