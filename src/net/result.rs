//! What becomes of a connection, and of what it is given to send.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a connection was closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both ends had shut down, and all was sent.
    Finished,
    /// [`close`](crate::TcpConnection::close) was called.
    Closed,
    /// The time for an [orderly close](crate::TcpConnection::close_gracefully) was up, and the connection was reset.
    DeadlinePassed,
    /// The connection that it was [linked](crate::TcpConnection::relay_to) with had ended, and not in order. The peer may miss bytes: it
    /// sees a reset then, but on a Unix socket an end like any other.
    RelayEnded,
    /// The server or client was stopped or dropped.
    Stopped,
    /// The loop was dropped.
    LoopEnded,
    /// Nothing happened for as long as the connection may be [idle](crate::TcpConnection::set_idle_timeout).
    Idle,
    /// All connections together held more memory [than they may](crate::TcpServerBuilder::max_buffered), and this one held most and
    /// progressed least. It was reset.
    MemoryLimit,
    /// The handler panicked.
    Panicked,
    /// The kernel reported an error (a reset, a timeout), the handler returned one, or a limit was passed.
    Error(io::Error),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Finished => f.write_str("both ends had finished"),
            CloseReason::Closed => f.write_str("closed by this end"),
            CloseReason::DeadlinePassed => f.write_str("the time for an orderly close was up"),
            CloseReason::RelayEnded => f.write_str("the connection it was linked with had ended"),
            CloseReason::Stopped => f.write_str("the server or client was stopped"),
            CloseReason::LoopEnded => f.write_str("the event loop was dropped"),
            CloseReason::Idle => f.write_str("nothing happened for too long"),
            CloseReason::MemoryLimit => f.write_str("all connections together held too much memory"),
            CloseReason::Panicked => f.write_str("the handler panicked"),
            CloseReason::Error(error) => error.fmt(f),
        }
    }
}

/// What became of bytes that a connection accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// The kernel has taken them.
    Written,
    /// Some of them wait until the kernel takes more; [`on_drained`](crate::ConnectionHandler::on_drained) will tell.
    Queued,
}

/// Why bytes were not accepted for sending. None of them were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed, or has been shut down for sending.
    Closed,
    /// What the connection has unsent, in bytes or in descriptors, would pass its limit; or what all connections hold together would
    /// pass twice [their limit](crate::TcpServerBuilder::max_buffered).
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "the connection is closed for sending",
            SendError::Full => "what the connection has unsent would pass its limit",
        })
    }
}

impl Error for SendError {}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> io::Error {
        let kind = match error {
            SendError::Closed => io::ErrorKind::BrokenPipe,
            SendError::Full => io::ErrorKind::WouldBlock,
        };
        io::Error::new(kind, error)
    }
}

/// What a message closure may return: nothing, or a `Result` whose error closes the connection.
///
/// Implemented for `()` and for every `Result` whose error converts into an [`io::Error`].
pub trait IntoHandlerResult: sealed::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> io::Result<()>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<T, E> Sealed for Result<T, E> {}
}

impl IntoHandlerResult for () {
    fn into_result(self) -> io::Result<()> {
        Ok(())
    }
}

impl<T, E: Into<io::Error>> IntoHandlerResult for Result<T, E> {
    fn into_result(self) -> io::Result<()> {
        self.map(drop).map_err(Into::into)
    }
}
