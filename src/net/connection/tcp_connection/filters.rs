//! The filters of a connection, as a callback sees them.

use std::io;

use super::TcpConnection;
use crate::event_loop::Refused;
use crate::net::filter::Filter;

impl TcpConnection<'_> {
    /// Calls `call` with the connection's [filter](crate::net::Filter) of type `F`, or the one next
    /// to the socket if there are several. Returns `None` if there is none, or while a filter of
    /// the connection is being called.
    ///
    /// It is for reading what a filter knows, for example about its handshake. What `call` does to
    /// the filter must not depend on output: nothing is sent because of it.
    pub fn filter<F: Filter, R>(&self, call: impl FnOnce(&mut F) -> R) -> Option<R> {
        self.core.with_filter(call)
    }

    /// Adds a filter at the handler's end of this open connection. It changes the protocol of the
    /// connection in the middle of the stream, as STARTTLS does (RFC 3207).
    ///
    /// - Output sent before this call does not pass through the filter. Output sent after it is
    ///   held until the filter is [ready](Filter::is_ready).
    /// - Reading pauses until the output from before is sent. Then the filter gets
    ///   [`on_open`](Filter::on_open), and all input that is received from then on.
    /// - When the filter is ready, the handler gets
    ///   [`on_upgrade`](crate::ConnectionHandler::on_upgrade). The
    ///   [`handshake_timeout`](crate::net::ConnectionLimits::handshake_timeout) applies.
    ///
    /// Input that the handler has not consumed when the callback returns has not passed through the
    /// filter, and an attacker may have inserted it. It closes the connection, with an error of
    /// kind [`InvalidData`](io::ErrorKind::InvalidData).
    ///
    /// ```
    /// use reveille::net::Filter;
    /// use reveille::{Buffer, ConnectionHandler, TcpConnection};
    /// use std::io;
    ///
    /// struct Encryption;
    ///
    /// impl Filter for Encryption {}
    ///
    /// struct Mail;
    ///
    /// impl ConnectionHandler for Mail {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         if input.readable() == b"STARTTLS\r\n" {
    ///             input.clear();
    ///             conn.send("220 go ahead\r\n")?;
    ///             conn.add_filter(Encryption)?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// The error returns the filter.
    ///
    /// - [`NotConnected`](io::ErrorKind::NotConnected) if the connection is closed or shut down.
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if it is
    ///   [linked](TcpConnection::relay_to) with another one.
    /// - [`WouldBlock`](io::ErrorKind::WouldBlock) while an upgrade or a handshake is in progress,
    ///   a [reserved reply](TcpConnection::reserve_reply) is not sent, or descriptors are queued.
    pub fn add_filter<F: Filter>(&self, filter: F) -> Result<(), Refused<F, io::Error>> {
        self.core.add_filter(self.event_loop, filter)
    }
}
