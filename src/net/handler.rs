//! What a connection calls back.

use std::error::Error;
use std::fmt;
use std::io;

use super::connection::TcpConnection;
use crate::buffer::Buffer;

/// The state of one connection, and what it does when something happens.
///
/// One value per connection, made when the connection is; what the protocol must remember are its fields. It is called on the
/// connection's loop with `&mut self` and never re-entered, so it needs no locks and no `RefCell`; nor need it be `Send`.
///
/// A method that returns an error has its connection closed, and [`on_close`](ConnectionHandler::on_close) gets the error.
/// A method that panics likewise. Other connections do not notice.
///
/// ```
/// use reveille::{Buffer, ConnectionHandler, TcpConnection};
/// use std::io;
///
/// /// Answers each line with its number.
/// #[derive(Default)]
/// struct LineCounter {
///     lines: u64,
/// }
///
/// impl ConnectionHandler for LineCounter {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         while let Some(end) = input.find(b'\n') {
///             input.consume(end + 1);
///             self.lines += 1;
///             conn.send(format!("{}\n", self.lines))?;
///         }
///         Ok(()) // an incomplete line stays in the buffer, and comes again with what follows it
///     }
/// }
/// ```
pub trait ConnectionHandler: 'static {
    /// The connection is open. The first call.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Bytes have come. What is left in `input` comes again, with the bytes that follow.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()>;

    /// The kernel has taken all that was queued for sending. Called each time a queue has emptied, and once after each
    /// [`notify_drained`](TcpConnection::notify_drained).
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The peer will send no more; it may still read. All it has sent has been passed to
    /// [`on_message`](ConnectionHandler::on_message).
    ///
    /// Unless this is written otherwise the connection is [shut down](TcpConnection::shutdown) in turn: what has been accepted for
    /// sending is still sent, and then both ends are done.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.shutdown();
        Ok(())
    }

    /// The connection is closed. The last call, and there is always one. What [`unsent`](TcpConnection::unsent) still counts
    /// is lost.
    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        let _ = (conn, reason);
    }
}

/// Why a connection was closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both ends had shut down, and all was sent.
    Finished,
    /// [`close`](TcpConnection::close) was called.
    Closed,
    /// The server was stopped or dropped.
    Stopped,
    /// The loop was dropped.
    LoopEnded,
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
            CloseReason::Stopped => f.write_str("the server was stopped"),
            CloseReason::LoopEnded => f.write_str("the event loop was dropped"),
            CloseReason::Panicked => f.write_str("the handler panicked"),
            CloseReason::Error(error) => error.fmt(f),
        }
    }
}

/// What became of bytes that a connection accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has taken them.
    Written,
    /// Some of them wait until the kernel takes more; [`on_drained`](ConnectionHandler::on_drained) will tell.
    Queued,
}

/// Why bytes were not accepted for sending. None of them were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed, or has been shut down for sending.
    Closed,
    /// The unsent bytes of the connection would pass its limit.
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "the connection is closed for sending",
            SendError::Full => "the connection's unsent bytes would pass their limit",
        })
    }
}

impl Error for SendError {}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> io::Error {
        let kind = match error {
            SendError::Closed => io::ErrorKind::BrokenPipe,
            SendError::Full => io::ErrorKind::StorageFull,
        };
        io::Error::new(kind, error)
    }
}

/// What a message closure may return: nothing, or a `Result` whose error closes the connection.
///
/// Implemented for `()` and for every `Result` whose error converts into an [`io::Error`].
pub trait Outcome: sealed::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> io::Result<()>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<T, E> Sealed for Result<T, E> {}
}

impl Outcome for () {
    fn into_result(self) -> io::Result<()> {
        Ok(())
    }
}

impl<T, E: Into<io::Error>> Outcome for Result<T, E> {
    fn into_result(self) -> io::Result<()> {
        self.map(drop).map_err(Into::into)
    }
}
