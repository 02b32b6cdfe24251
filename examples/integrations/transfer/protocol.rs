//! The protocol, without I/O. Control lines are text and end with LF; the bytes of files are sent
//! as they are.
//!
//! ```text
//! server: transfer 1                      once, when a connection opens
//!
//! client: LIST NAME                       the entries of a directory, or the length of a file
//! server: DIRECTORY COUNT                 COUNT entries follow
//!         file LENGTH ENTRY
//!         exec LENGTH ENTRY               a file that its owner may execute
//!         dir ENTRY
//!         other ENTRY                     not sent: a symbolic link, a device, a pipe, a socket
//!     or: FILE LENGTH  or: EXEC LENGTH
//!
//! client: GET NAME OFFSET                 the content of a file from an offset
//! server: DATA OFFSET LENGTH              LENGTH is that of the file: LENGTH - OFFSET bytes follow
//!         SHA256 HEX                      after the bytes: the checksum of the whole file
//!     or: CHANGED                         after the bytes: the file has changed meanwhile
//!
//! server: ERROR CODE TEXT                 instead of any other reply
//! ```
//!
//! NAME is a path below the root of the server, `.` for the root itself. ENTRY is one component.
//! Bytes other than `!` to `~`, and `%`, are written as `%` with two hexadecimal digits, so every
//! name of a file fits on a line. Requests may be pipelined; replies have the order of the
//! requests. A client resumes a file by its offset: it has the checksum of what it holds, so the
//! checksum of the whole file covers both parts. `GET` with the length of a file only returns its
//! checksum.

mod name;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub(crate) use name::{Name, is_component};
pub(crate) use reply::{Code, Entry, Kind, NOT_REGULAR, Part, ProtocolError, Replies, Reply};
pub(crate) use request::Request;

/// The maximum length of a line without its ending: a request with the longest name.
pub(crate) const LONGEST_LINE: usize = 3 * name::LONGEST + 64;

/// The maximum number of entries of a directory.
pub(crate) const MAX_ENTRIES: u64 = 100_000;
