//! Finds the head of a request: the request line, the field lines, and the empty line that ends
//! them.

use super::Status;

/// The longest request line, in bytes.
pub(super) const LONGEST_LINE: usize = 8 << 10;

/// The longest head, in bytes.
pub(super) const LONGEST_HEAD: usize = 16 << 10;

/// Some clients send an empty line after a body. A few are skipped.
const MAX_EMPTY_LINES: usize = 4;

/// Remembers how far the input has been searched, so that a head that arrives byte by byte costs
/// no more than one that arrives at once.
#[derive(Debug, Default)]
pub(super) struct HeadFinder {
    searched: usize,
    /// Where the request line begins, after empty lines.
    start: usize,
    /// Where the request line ends, including its CRLF; 0 if it is incomplete.
    line_end: usize,
    /// Where the current line begins.
    line_start: usize,
}

impl HeadFinder {
    /// Returns where the request line begins, where it ends, and where the head ends, once the head
    /// is complete. The request line is not empty.
    ///
    /// # Errors
    /// A line does not end with CRLF: others read a bare LF or CR in various ways. Or the head is
    /// too long.
    pub(super) fn find(&mut self, input: &[u8]) -> Result<Option<(usize, usize, usize)>, Status> {
        while let Some(found) = memchr::memchr2(b'\r', b'\n', &input[self.searched..]) {
            let at = self.searched + found;
            match input[at..] {
                [b'\r', b'\n', ..] => {}
                // The LF may follow.
                [b'\r'] => break,
                _ => return Err(Status::BAD_REQUEST),
            }
            let (is_empty, end) = (at == self.line_start, at + 2);
            (self.searched, self.line_start) = (end, end);
            if self.line_end == 0 {
                if !is_empty {
                    check_line(end - self.start)?;
                    self.line_end = end;
                } else if end > 2 * MAX_EMPTY_LINES {
                    return Err(Status::BAD_REQUEST);
                } else {
                    self.start = end;
                }
            } else if is_empty {
                let found = (self.start, self.line_end, end);
                *self = HeadFinder::default();
                return if end > LONGEST_HEAD { Err(Status(431)) } else { Ok(Some(found)) };
            }
        }
        self.searched = if input.ends_with(b"\r") { input.len() - 1 } else { input.len() };
        if self.line_end == 0 {
            check_line(input.len() - self.start)?;
        }
        if input.len() > LONGEST_HEAD { Err(Status(431)) } else { Ok(None) }
    }
}

fn check_line(length: usize) -> Result<(), Status> {
    if length > LONGEST_LINE { Err(Status(414)) } else { Ok(()) }
}
