//! The errors of a shared ring.

use std::error::Error;
use std::fmt;
use std::io;

/// Why the link between two processes has ended: the peer has violated the protocol, or cannot be
/// signalled.
///
/// The link has ended permanently, for sending and receiving; every later call returns the same
/// error. The invalid data is not read again, and unread messages are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RingError {
    /// The peer has set a position to an invalid value: backwards, beyond what has been written,
    /// beyond the free space, or not on a word boundary.
    Position,
    /// The length of a message is invalid, or extends beyond what has been written.
    Length,
    /// The peer's bell cannot be rung: the peer has emptied it (`WouldBlock`), or it is not a valid
    /// bell.
    Bell(io::ErrorKind),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Position => {
                f.write_str("the peer has set a position of the shared ring to an invalid value")
            }
            RingError::Length => f.write_str("the peer has sent a message with an invalid length"),
            RingError::Bell(kind) => write!(f, "the peer's bell cannot be rung: {kind}"),
        }
    }
}

impl Error for RingError {}

impl From<RingError> for io::Error {
    fn from(error: RingError) -> io::Error {
        let kind = match error {
            RingError::Position | RingError::Length => io::ErrorKind::InvalidData,
            RingError::Bell(kind) => kind,
        };
        io::Error::new(kind, error)
    }
}

/// Why a message was not sent. No part of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RingSendError {
    /// There is no space for it now. The sender is notified when there is.
    Full,
    /// It is longer than the maximum, so it can never be sent.
    TooLong {
        /// The maximum length of a message, in bytes.
        longest: usize,
    },
    /// The link has ended.
    Ended(RingError),
    /// This end of the link has been closed.
    Closed,
}

impl fmt::Display for RingSendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingSendError::Full => f.write_str("the shared ring has no space for the message now"),
            RingSendError::TooLong { longest } => {
                write!(f, "the message is longer than the shared ring's maximum of {longest} bytes")
            }
            RingSendError::Ended(error) => write!(f, "the link has ended: {error}"),
            RingSendError::Closed => f.write_str("this end of the shared ring is closed"),
        }
    }
}

impl Error for RingSendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RingSendError::Ended(error) => Some(error),
            _ => None,
        }
    }
}

impl From<RingSendError> for io::Error {
    fn from(error: RingSendError) -> io::Error {
        let kind = match error {
            RingSendError::Full => io::ErrorKind::WouldBlock,
            RingSendError::TooLong { .. } => io::ErrorKind::InvalidInput,
            RingSendError::Ended(error) => return error.into(),
            RingSendError::Closed => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}
