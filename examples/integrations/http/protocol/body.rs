//! The body of a request (RFC 9112, sections 6 and 7).

use httparse::{EMPTY_HEADER, parse_headers};

use super::{Body, Status};

/// The longest line with the size of a chunk and its extensions, in bytes.
const LONGEST_SIZE_LINE: usize = 256;

/// The longest trailer section, in bytes, and the most fields in it.
const LONGEST_TRAILERS: usize = 4 << 10;
const MAX_TRAILERS: usize = 32;

/// Finds the bytes of one body.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyReader {
    /// This many bytes are left, at least one.
    Length(u64),
    /// The line with the size of a chunk follows.
    ChunkSize,
    /// This many bytes of a chunk are left, at least one.
    Chunk(u64),
    /// The CRLF after a chunk follows.
    ChunkEnd,
    /// Fields follow, and an empty line. They are checked and ignored.
    Trailers,
    Complete,
}

impl BodyReader {
    /// Returns `None` if there is no byte to read.
    pub(super) fn new(body: Body) -> Option<BodyReader> {
        match body {
            Body::None | Body::Length(0) => None,
            Body::Length(length) => Some(BodyReader::Length(length)),
            Body::Chunked => Some(BodyReader::ChunkSize),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, BodyReader::Complete)
    }

    /// Returns the next bytes of the body, and the length of the input that they are the end of.
    /// Returns no bytes at the end of a chunked body, and `None` if the input is incomplete.
    pub(super) fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, Status> {
        let mut state = *self;
        let mut at = 0;
        // What is passed here without bytes of the body is parsed again with the next input.
        loop {
            let rest = &input[at..];
            match state {
                BodyReader::Length(left) | BodyReader::Chunk(left) => {
                    let length = left.min(rest.len() as u64);
                    if length == 0 {
                        return Ok(None);
                    }
                    let is_chunk = matches!(state, BodyReader::Chunk(_));
                    *self = match left - length {
                        0 if is_chunk => BodyReader::ChunkEnd,
                        0 => BodyReader::Complete,
                        left if is_chunk => BodyReader::Chunk(left),
                        left => BodyReader::Length(left),
                    };
                    // At most the length of the slice.
                    let length = length as usize;
                    return Ok(Some((&rest[..length], at + length)));
                }
                BodyReader::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        state = BodyReader::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(Status::BAD_REQUEST),
                },
                BodyReader::ChunkSize => {
                    let Some(line) = line(rest, LONGEST_SIZE_LINE)? else { return Ok(None) };
                    at += line.len() + 2;
                    state = match chunk_size(line)? {
                        0 => BodyReader::Trailers,
                        size => BodyReader::Chunk(size),
                    };
                }
                BodyReader::Trailers => {
                    let Some(length) = trailers(rest)? else { return Ok(None) };
                    *self = BodyReader::Complete;
                    return Ok(Some((&[], at + length)));
                }
                BodyReader::Complete => return Ok(None),
            }
        }
    }
}

/// Returns the first line without its CRLF; `None` if it is incomplete.
fn line(input: &[u8], longest: usize) -> Result<Option<&[u8]>, Status> {
    let input = &input[..input.len().min(longest)];
    match input.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(end) if input[end..].starts_with(b"\r\n") => Ok(Some(&input[..end])),
        // The LF may follow.
        Some(end) if input[end..] == *b"\r" && input.len() < longest => Ok(None),
        None if input.len() < longest => Ok(None),
        _ => Err(Status::BAD_REQUEST),
    }
}

/// The size in a line `SIZE [; EXTENSION]...`. Extensions are ignored, but may contain neither
/// control characters nor anything before the first semicolon: others would find another end.
fn chunk_size(line: &[u8]) -> Result<u64, Status> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(digits);
    let is_valid = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let after_space = extensions.trim_ascii_start();
    if digits.is_empty()
        || !extensions.iter().all(is_valid)
        || (!extensions.is_empty() && !after_space.starts_with(b";"))
    {
        return Err(Status::BAD_REQUEST);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Status::BAD_REQUEST)?;
    u64::from_str_radix(digits, 16).map_err(|_| Status(413))
}

/// Returns the length of a trailer section with its empty line; `None` if it is incomplete.
fn trailers(input: &[u8]) -> Result<Option<usize>, Status> {
    let mut at = 0;
    let limited = &input[..input.len().min(LONGEST_TRAILERS)];
    loop {
        match line(&limited[at..], usize::MAX)? {
            None if limited.len() == LONGEST_TRAILERS => return Err(Status(431)),
            None => return Ok(None),
            Some([]) => break,
            Some(line) => at += line.len() + 2,
        }
    }
    let length = at + 2;
    match parse_headers(&input[..length], &mut [EMPTY_HEADER; MAX_TRAILERS]) {
        Ok(httparse::Status::Complete((parsed, _))) if parsed == length => Ok(Some(length)),
        Err(httparse::Error::TooManyHeaders) => Err(Status(431)),
        _ => Err(Status::BAD_REQUEST),
    }
}
