//! The results of a client's attempts to connect.

use std::error::Error;
use std::fmt;
use std::io;

use crate::net::address::Address;

/// The result of one attempt to connect to one address.
///
/// A client makes its attempts in rounds. A round resolves the name, if there is one, and tries its
/// addresses until one connects.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConnectAttempt<'a> {
    /// The address that was tried; `None` if the lookup of the name failed.
    pub address: Option<&'a Address>,
    /// The number of the round, starting at 1. It restarts after each session.
    pub round: u32,
    /// `Ok` if connected; else the error of the kernel or the resolver, or
    /// [`TimedOut`](io::ErrorKind::TimedOut).
    pub result: Result<(), &'a io::Error>,
}

/// One failure of a [`ConnectError`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ConnectFailure {
    /// The address that was tried; `None` if the lookup of the name failed.
    pub address: Option<Address>,
    /// The error of the kernel or the resolver, or a time-out.
    pub error: io::Error,
}

/// The error of a client that could not connect and will not retry.
///
/// It contains the failures of the last round, in the order in which the attempts have failed.
/// [`source`](Error::source) returns the first of them.
#[derive(Debug)]
pub struct ConnectError {
    target: String,
    rounds: u32,
    /// Never empty.
    failures: Vec<ConnectFailure>,
    unsent: usize,
    calls: usize,
}

impl ConnectError {
    /// `waiting` is the number of bytes and of calls that were queued.
    pub(in crate::net) fn new(
        target: String,
        rounds: u32,
        failures: Vec<ConnectFailure>,
        waiting: (usize, usize),
    ) -> ConnectError {
        let (unsent, calls) = waiting;
        ConnectError { target, rounds, failures, unsent, calls }
    }

    /// The number of bytes that [`TcpClient::send`](crate::TcpClient::send) had accepted and that
    /// are not sent.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// The number of calls that [`TcpClient::with`](crate::TcpClient::with) had accepted and that
    /// do not run.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The target of the client, as it was passed to the builder.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The number of rounds of attempts.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The failures of the last round, one for each address that was tried.
    pub fn failures(&self) -> &[ConnectFailure] {
        &self.failures
    }

    /// The kind of the first failure.
    pub fn kind(&self) -> io::ErrorKind {
        self.failures.first().map_or(io::ErrorKind::Other, |failure| failure.error.kind())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.target {
            "" => f.write_str("cannot connect to \"\"")?,
            target => write!(f, "cannot connect to {target}")?,
        }
        if self.rounds > 1 {
            write!(f, " in {} rounds", self.rounds)?;
        }
        for (n, ConnectFailure { address, error }) in self.failures.iter().enumerate() {
            f.write_str(if n == 0 { ": " } else { "; " })?;
            // The target is named already.
            match address.as_ref().map(Address::to_string).filter(|address| *address != self.target) {
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
