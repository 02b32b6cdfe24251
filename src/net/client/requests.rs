//! Sends and calls through the client, which wait while it has no session.

use super::TcpClient;
use crate::event_loop::Refused;
use crate::net::connection::TcpConnection;
use crate::net::result::{IntoHandlerResult, SendError, WithError};

impl TcpClient {
    /// Sends `bytes` on the session, as [`ConnectionHandle::send`](crate::ConnectionHandle::send)
    /// does. While there is no session, the bytes are
    /// [queued](crate::net::TcpClientBuilder::max_queued); they are sent after the next session's
    /// `on_open`. If the client ends first, they are dropped, and [`unsent`](TcpClient::unsent)
    /// counts them.
    ///
    /// # Errors
    /// - [`SendError::Closed`] if the client has ended, or its session is closed and it does not
    ///   [reconnect](crate::net::TcpClientBuilder::reconnect).
    /// - [`SendError::Full`] if too many bytes are queued.
    /// - [`SendError::ShutDown`] if the session is shut down.
    ///
    /// The error returns the bytes.
    pub fn send(&self, bytes: impl Into<Vec<u8>>) -> Result<(), Refused<Vec<u8>, SendError>> {
        let bytes = bytes.into();
        match self.event_loop.with(|_| ()) {
            Some(()) => self.connector.send(bytes),
            None => Err(Refused::new(bytes, SendError::Closed)),
        }
    }

    /// Calls `call` with the handler of the session, as
    /// [`ConnectionHandle::with_local`](crate::ConnectionHandle::with_local) does. While there is
    /// no session, the call is [queued](crate::net::TcpClientBuilder::max_queued); it runs after
    /// the next session's `on_open`, in order with queued sends.
    ///
    /// If the client ends first, queued calls are dropped, and [`calls`](TcpClient::calls) counts
    /// them: after [`on_failure`](crate::net::TcpClientBuilder::on_failure), whose error
    /// [counts](crate::net::ConnectError::calls) them too, or in [`stop`](TcpClient::stop). Each
    /// call is dropped once, so a value that it has captured can report this in its `Drop`.
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
    /// use std::collections::VecDeque;
    /// use std::io;
    ///
    /// /// Calls back for each reply, in order.
    /// #[derive(Default)]
    /// struct Session {
    ///     requests: VecDeque<Box<dyn FnOnce(&[u8], &EventLoop)>>,
    /// }
    ///
    /// impl ConnectionHandler for Session {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         if let Some(callback) = self.requests.pop_front() {
    ///             callback(input.take_all(), conn.event_loop());
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// let client =
    ///     TcpClient::connect(&event_loop, server.local_address()).serve(|_| Session::default())?;
    /// // There is no session yet.
    /// client.with(|session: &mut Session, conn| {
    ///     session.requests.push_back(Box::new(|reply, event_loop| {
    ///         assert_eq!(reply, b"ping");
    ///         event_loop.quit();
    ///     }));
    ///     conn.send("ping")
    /// })?;
    /// event_loop.run()
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`WithError::Closed`] if the client has ended, or its session is closed and it does not
    ///   [reconnect](crate::net::TcpClientBuilder::reconnect).
    /// - [`WithError::WrongHandler`] if the sessions have handlers of another type.
    /// - [`WithError::Full`] if too many calls are queued.
    ///
    /// The error returns `call`.
    pub fn with<H, F, R>(&self, call: F) -> Result<(), Refused<F, WithError>>
    where
        H: 'static,
        F: FnOnce(&mut H, &TcpConnection<'_>) -> R + 'static,
        R: IntoHandlerResult,
    {
        let mut call = Some(call);
        let called = self
            .event_loop
            .with(|event_loop| call.take().map_or(Ok(()), |call| self.connector.with(event_loop, call)));
        match (called, call) {
            (Some(called), _) => called,
            (None, Some(call)) => Err(Refused::new(call, WithError::Closed)),
            (None, None) => unreachable!("the call was not taken"),
        }
    }

    /// The number of bytes that [`send`](TcpClient::send) has queued and no session was given. Once
    /// the client or its loop has ended, they are lost.
    pub fn unsent(&self) -> usize {
        self.connector.waiting().0
    }

    /// The number of calls that [`with`](TcpClient::with) has queued and no session was given. Once
    /// the client or its loop has ended, they do not run.
    pub fn calls(&self) -> usize {
        self.connector.waiting().1
    }
}
