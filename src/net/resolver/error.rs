//! Why a lookup is refused.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a lookup was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolverError {
    /// As many lookups are unfinished as the [limit](crate::net::ResolverBuilder::queue) permits.
    Full,
    /// The loop of the resolver has been dropped or is being dropped, or belongs to the process
    /// that this one was forked from.
    LoopEnded,
}

impl fmt::Display for ResolverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResolverError::Full => "too many lookups are unfinished",
            ResolverError::LoopEnded => "the event loop has been dropped",
        })
    }
}

impl Error for ResolverError {}

impl From<ResolverError> for io::Error {
    fn from(error: ResolverError) -> io::Error {
        let kind = match error {
            ResolverError::Full => io::ErrorKind::WouldBlock,
            ResolverError::LoopEnded => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}
