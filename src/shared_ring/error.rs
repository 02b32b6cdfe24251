//! Why a message was not sent, and why a link has ended.

use std::error::Error;
use std::fmt;
use std::io;

/// Why the link between two processes has ended: the peer has broken the rules, or cannot be rung for.
///
/// It ends for good, for sending and receiving alike, and every later call says the same. What the peer has written wrongly is
/// not looked at again, and what is not yet read is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RingError {
    /// The peer has moved a position to where it cannot be: backwards, beyond what has been written or beyond what there is
    /// room for, or into the middle of a word.
    Position,
    /// A message has a length that no message has, or one beyond what has been written.
    Length,
    /// The peer's bell cannot be rung: the peer has emptied it (`WouldBlock`), or it is not what it should be.
    Bell(io::ErrorKind),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Position => {
                f.write_str("the peer has moved a position of the shared ring to where it cannot be")
            }
            RingError::Length => f.write_str("the peer has given a message an impossible length"),
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

/// Why a message was not sent. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RingSendError {
    /// There is no room for it now. When there is, the sender is told.
    Full,
    /// It is longer than a message can be, and there never will be room.
    TooLong {
        /// How long a message can be, in bytes.
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
            RingSendError::Full => f.write_str("the shared ring has no room for the message now"),
            RingSendError::TooLong { longest } => {
                write!(f, "the message is longer than the {longest} bytes that the shared ring takes")
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
