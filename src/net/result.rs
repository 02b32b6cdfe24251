//! Results of sending, and the reasons for a close.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a connection was closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both ends have shut down, and all data was sent.
    Finished,
    /// [`close`](crate::TcpConnection::close) was called.
    Closed,
    /// [`reset`](crate::TcpConnection::reset) was called.
    Reset,
    /// The deadline of a [graceful close](crate::TcpConnection::close_gracefully) passed, and the
    /// connection was reset.
    DeadlinePassed,
    /// The connection that this one was [linked](crate::TcpConnection::relay_to) to closed with
    /// an error. The peer may miss bytes. A TCP peer sees a reset; a Unix socket has no reset, so
    /// its peer sees an ordinary end of input.
    RelayEnded,
    /// The server or client was stopped or dropped.
    Stopped,
    /// The loop [ended](crate::LoopHandle::has_ended).
    LoopEnded,
    /// The connection was [idle](crate::TcpConnection::set_idle_timeout) for the whole idle
    /// timeout.
    Idle,
    /// The [deadline](crate::TcpConnection::set_deadline) of the handler passed.
    TimedOut,
    /// A [reserved reply](crate::TcpConnection::reserve_reply) was dropped unfilled, and the
    /// connection was reset.
    ReplyDropped,
    /// All connections together exceeded their
    /// [memory limit](crate::net::TcpServerBuilder::max_buffered), and this one held the most and
    /// made the least progress. It was reset.
    MemoryLimit,
    /// A callback of the handler, or a [filter](crate::net::Filter), panicked.
    Panicked,
    /// The kernel reported an error (a reset, a timeout), the handler returned one, or a limit was
    /// exceeded.
    Error(io::Error),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Finished => f.write_str("both ends have finished"),
            CloseReason::Closed => f.write_str("closed by this end"),
            CloseReason::Reset => f.write_str("reset by this end"),
            CloseReason::DeadlinePassed => f.write_str("the deadline of a graceful close passed"),
            CloseReason::RelayEnded => f.write_str("the linked connection ended abnormally"),
            CloseReason::Stopped => f.write_str("the server or client was stopped"),
            CloseReason::LoopEnded => f.write_str("the event loop has ended"),
            CloseReason::Idle => f.write_str("the connection was idle for too long"),
            CloseReason::TimedOut => f.write_str("the deadline of the connection passed"),
            CloseReason::ReplyDropped => f.write_str("a reserved reply was dropped unfilled"),
            CloseReason::MemoryLimit => f.write_str("all connections together exceeded their memory limit"),
            CloseReason::Panicked => f.write_str("a callback panicked"),
            CloseReason::Error(error) => error.fmt(f),
        }
    }
}

/// How a datagram was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendStatus {
    /// The kernel has accepted it.
    Written,
    /// It waits in the queue until the socket becomes writable.
    Queued,
}

/// Why a send was refused. None of its bytes were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed, or its output has [failed](crate::net::ConnectionState).
    Closed,
    /// This end has shut the connection down, or is closing it gracefully. While a server stops, a
    /// connection accepts sends as long as [work](crate::TcpConnection::keep_open) is outstanding.
    ShutDown,
    /// The connection's unsent bytes or descriptors would exceed its limit, or all connections
    /// together would exceed twice
    /// [their memory limit](crate::net::TcpServerBuilder::max_buffered).
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "the connection is closed",
            SendError::ShutDown => "this end has shut the connection down",
            SendError::Full => "the connection's unsent data would exceed its limit",
        })
    }
}

impl Error for SendError {}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> io::Error {
        let kind = match error {
            SendError::Closed | SendError::ShutDown => io::ErrorKind::BrokenPipe,
            SendError::Full => io::ErrorKind::WouldBlock,
        };
        io::Error::new(kind, error)
    }
}

/// Why a handler was not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithError {
    /// The connection is closed.
    Closed,
    /// The connection's handler has another type.
    WrongHandler,
    /// The connection is on another loop.
    WrongLoop,
    /// Too many calls wait for the [session](crate::net::TcpClientBuilder::max_queued) of a client.
    Full,
}

impl fmt::Display for WithError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WithError::Closed => "the connection is closed",
            WithError::WrongHandler => "the handler of the connection has another type",
            WithError::WrongLoop => "the connection is on another loop",
            WithError::Full => "too many calls wait for the client's session",
        })
    }
}

impl Error for WithError {}

impl From<WithError> for io::Error {
    fn from(error: WithError) -> io::Error {
        let kind = match error {
            WithError::Closed => io::ErrorKind::BrokenPipe,
            WithError::WrongHandler | WithError::WrongLoop => io::ErrorKind::InvalidInput,
            WithError::Full => io::ErrorKind::WouldBlock,
        };
        io::Error::new(kind, error)
    }
}

/// The return value of a closure that gets a connection: nothing, or a `Result` whose error closes
/// the connection.
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
