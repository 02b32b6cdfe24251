//! The ways to end a connection.

use std::time::Duration;

use super::TcpConnection;
use crate::net::connection::outstanding_work::KeepOpen;
use crate::net::result::CloseReason;

impl TcpConnection<'_> {
    /// Half-closes the connection: the queue is sent, then the FIN. The connection still receives,
    /// and closes when the peer has sent its FIN too.
    ///
    /// A peer that never does so keeps the connection open: see
    /// [`close_after`](TcpConnection::close_after).
    pub fn shutdown(&self) {
        self.core.shutdown(self.event_loop);
    }

    /// [Shuts the connection down](TcpConnection::shutdown) as soon as no work is outstanding: at
    /// once if there is none. Work is outstanding while a [`KeepOpen`] value of the connection
    /// exists. Until then the connection can send.
    pub fn shutdown_after_work(&self) {
        self.core.shutdown_after_work(self.event_loop);
    }

    /// Declares outstanding work: while the returned value exists, the peer's half-close does not
    /// end the connection, so that replies which are still being computed can be sent.
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandler, TcpConnection};
    /// use std::io;
    ///
    /// struct Checksums;
    ///
    /// impl ConnectionHandler for Checksums {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         let (handle, work) = (conn.handle(), conn.keep_open());
    ///         let bytes = input.take_all().to_vec();
    ///         std::thread::spawn(move || {
    ///             let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    ///             let _ = handle.send(format!("{sum}\n")); // refused if the connection has closed
    ///             drop(work); // after the send
    ///         });
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn keep_open(&self) -> KeepOpen {
        self.core.keep_open()
    }

    /// Closes the connection now. What the current callback has sent is offered to the kernel.
    /// Queued output and unread input are lost. If there is either, the
    /// connection is reset, so that the peer does not take a truncated stream for a complete one. A
    /// Unix socket has no reset.
    pub fn close(&self) {
        self.core.close(self.event_loop, CloseReason::Closed);
    }

    /// Ends the input: from now on, bytes of the peer are discarded as they arrive. Unread input is
    /// dropped, also what the current callback leaves. Sending is not affected.
    ///
    /// Of the handler's callbacks, [`on_message`](crate::ConnectionHandler::on_message) and
    /// [`on_descriptors`](crate::ConnectionHandler::on_descriptors) are not called again. All
    /// others are: [`on_peer_shutdown`](crate::ConnectionHandler::on_peer_shutdown) still reports
    /// the peer's FIN, and by default ends the connection. A failed write closes the connection at
    /// once, as no input is to be delivered any more.
    ///
    /// The peer observes nothing, and is not blocked. As with shutdown(2) of a TCP socket for
    /// reading, no message says that the input is not wanted. The same holds for Unix sockets,
    /// where shutdown(2) would make the peer's sends fail. No system call.
    ///
    /// This cannot be undone. It ends a [pause](TcpConnection::pause_reading); later pauses have
    /// no effect. No effect on a [relayed](TcpConnection::relay_to) connection.
    pub fn shutdown_read(&self) {
        self.core.shutdown_read(self.event_loop);
    }

    /// Resets the connection now ([`CloseReason::Reset`]), for a peer that must not take what it
    /// has received for complete, or whose connection must leave no state in the kernel. The
    /// peer's next read or write fails with `ECONNRESET` or `EPIPE`.
    ///
    /// Output is dropped: what is queued and what the current callback has sent count as
    /// [`unsent`](TcpConnection::unsent). The kernel discards what it has and the peer has not
    /// received; in [`on_close`](crate::ConnectionHandler::on_close),
    /// [`undelivered`](TcpConnection::undelivered) counts that too. Unread input is lost. A
    /// [linked](TcpConnection::relay_to) connection ends as after an error of this one.
    ///
    /// The reset is sent when the descriptor is closed, at the end of the current turn. A Unix
    /// socket has no reset; its peer sees an end of input.
    pub fn reset(&self) {
        self.core.reset_by_user(self.event_loop);
    }

    /// Closes the connection now, for one of the crate's own reasons.
    pub(crate) fn close_for(&self, reason: CloseReason) {
        self.core.close(self.event_loop, reason);
    }

    /// Closes the connection after `delay`, as by [`close`](TcpConnection::close), unless it has
    /// closed by then. Zero means in this turn or the next. A second call replaces the delay of the
    /// first.
    pub fn close_after(&self, delay: Duration) {
        self.core.close_after(self.event_loop, delay);
    }

    /// Cancels [`close_after`](TcpConnection::close_after). Returns whether it was in effect.
    pub fn cancel_close(&self) -> bool {
        self.core.cancel_close(self.event_loop)
    }

    /// Closes the connection gracefully, `within` a deadline: the queue is sent, then the FIN, and
    /// the connection closes once the peer has sent its FIN and acknowledged all data
    /// ([`CloseReason::Finished`]). At the deadline the connection is reset instead
    /// ([`CloseReason::DeadlinePassed`]), and neither end keeps any state. A Unix socket has no
    /// reset; its peer sees an end of input.
    ///
    /// Further input is discarded: [`on_message`](crate::ConnectionHandler::on_message) and
    /// [`on_peer_shutdown`](crate::ConnectionHandler::on_peer_shutdown) are not called again. In
    /// [`on_close`](crate::ConnectionHandler::on_close),
    /// [`undelivered`](TcpConnection::undelivered) returns the number of bytes that were not
    /// acknowledged. Calling this again sets a new deadline.
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandler, TcpConnection};
    /// use reveille::net::CloseReason;
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// struct EchoOnce;
    ///
    /// impl ConnectionHandler for EchoOnce {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         conn.send(input.take_all())?;
    ///         conn.close_gracefully(Duration::from_secs(10));
    ///         Ok(())
    ///     }
    ///
    ///     fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
    ///         match conn.undelivered() {
    ///             Ok(0) => println!("{}: all bytes delivered", conn.peer_address()),
    ///             Ok(bytes) => println!("{}: {bytes} undelivered: {reason}", conn.peer_address()),
    ///             Err(error) => println!("{}: {error}", conn.peer_address()),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn close_gracefully(&self, within: Duration) {
        self.core.close_gracefully(self.event_loop, within);
    }
}
