//! What became of a client's attempts.

use std::error::Error;
use std::fmt;
use std::io;

use crate::net::address::Address;

/// What became of one attempt to connect, to one address.
///
/// A client makes its attempts in rounds: a round looks the name up, if there is one, and tries its addresses in turn until one
/// of them answers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConnectAttempt<'a> {
    /// The address that was tried; `None` if the lookup of the name has failed, so that there was none.
    pub address: Option<&'a Address>,
    /// Which round it was, from 1. After a session has ended the count begins anew.
    pub round: u32,
    /// Connected, or why not: what the kernel or the resolver said, or [`TimedOut`](io::ErrorKind::TimedOut).
    pub result: Result<(), &'a io::Error>,
}

/// One failure of a [`ConnectError`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectFailure {
    /// The address that was tried; `None` if the lookup of the name has failed.
    pub address: Option<Address>,
    /// Why it could not be connected to.
    pub error: io::Error,
}

/// That a client could not connect, and will not try again.
///
/// It has the failures of the last round, in the order of the addresses. [`source`](Error::source) is the first of them.
#[derive(Debug)]
pub struct ConnectError {
    target: String,
    rounds: u32,
    /// Never empty.
    failures: Vec<ConnectFailure>,
}

impl ConnectError {
    pub(in crate::net) fn new(target: String, rounds: u32, failures: Vec<ConnectFailure>) -> ConnectError {
        ConnectError { target, rounds, failures }
    }

    /// What the client was told to connect to, as it was told.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// How many rounds of attempts there were.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// What went wrong in the last round, address by address.
    pub fn failures(&self) -> &[ConnectFailure] {
        &self.failures
    }

    /// The kind of the first of the failures.
    pub fn kind(&self) -> io::ErrorKind {
        self.failures.first().map_or(io::ErrorKind::Other, |failure| failure.error.kind())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}", self.target)?;
        if self.rounds > 1 {
            write!(f, ", tried {} times", self.rounds)?;
        }
        for (n, ConnectFailure { address, error }) in self.failures.iter().enumerate() {
            f.write_str(if n == 0 { ": " } else { "; " })?;
            match address {
                Some(address) => write!(f, "{address}: {error}")?,
                None => write!(f, "{error}")?,
            }
        }
        Ok(())
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failures.first().map(|failure| &failure.error as _)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
