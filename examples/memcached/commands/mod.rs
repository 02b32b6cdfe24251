//! Executes requests of both protocols on the table, and writes their replies.

mod binary;
mod stats;
mod text;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use reveille::net::ServerHandle;

use super::clock::Clock;
use super::item::Item;
use super::protocol::Request;
use super::table::Table;

/// The version of memcached whose commands and replies these are. Clients derive from it what a
/// server supports.
const VERSION: &str = "1.6.18";

/// Replies from this length on are sent without a copy of the item.
const LARGE: usize = 16 * 1024;

/// Where replies are written.
pub(crate) trait Output {
    /// The replies that were written last. More are appended.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Writes a part of the bytes of an item.
    fn share(&mut self, bytes: &Arc<[u8]>, range: Range<usize>);
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Continue,
    /// The connection closes when the replies are sent.
    Close,
}

/// Executes requests. All connections of all loops use it.
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) table: Table,
    pub(crate) clock: Clock,
    pub(crate) threads: usize,
    /// For the statistics.
    pub(crate) server: OnceLock<ServerHandle>,
}

impl Commands {
    /// Executes a request in the second `now`.
    pub(crate) fn execute(&self, now: u32, request: &Request<'_>, output: &mut impl Output) -> After {
        match request {
            Request::Text(request) => self.text(now, request, output),
            Request::Binary(request) => self.binary(now, request, output),
            Request::Skipped => After::Continue,
        }
    }

    fn expiry(&self, now: u32, exptime: i64) -> u32 {
        self.clock.expiry(now, exptime)
    }

    /// The second of a flush. A time without a meaning is now.
    fn flush(&self, now: u32, delay: i64) {
        let when = if delay > 0 { self.expiry(now, delay) } else { now };
        self.table.flush(now, when);
    }
}

/// An item that is copied to the output while the table is locked, or shared afterwards.
fn copy_or_share(
    item: &Item,
    range: Range<usize>,
    bytes: &mut Vec<u8>,
    head: impl FnOnce(&mut Vec<u8>),
) -> Option<(Arc<[u8]>, Range<usize>)> {
    head(bytes);
    if range.len() < LARGE {
        bytes.extend_from_slice(&item.bytes()[range]);
        return None;
    }
    Some((Arc::clone(item.bytes()), range))
}
