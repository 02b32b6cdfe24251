//! Connecting in async functions.

use std::io;
use std::rc::{Rc, Weak};

use super::connector::Connector;
use super::{TcpClient, TcpClientBuilder};
use crate::event_loop::WeakLoop;
use crate::event_loop::tasks::executor::with_loop;
use crate::net::address::AddressError;
use crate::net::connection::demand::StreamState;
use crate::net::stream::ByteStream;
use crate::net::stream::handler::StreamHandler;
use crate::net::stream::make::{Attempt, ClientOwner, Connecting};
use crate::net::target::ConnectTarget;

/// Stops a client when it is dropped. The client belongs to its loop, which drops it and so
/// completes the future if it ends first.
struct StopsClient {
    event_loop: WeakLoop,
    connector: Weak<Connector>,
}

impl StopsClient {
    fn new(client: TcpClient) -> StopsClient {
        let event_loop = client.event_loop.clone();
        let connector = Rc::downgrade(&client.connector);
        client.detach();
        StopsClient { event_loop, connector }
    }
}

impl Drop for StopsClient {
    fn drop(&mut self) {
        if let Some(connector) = self.connector.upgrade() {
            self.event_loop.with(|event_loop| connector.stop(event_loop));
        }
    }
}

impl ClientOwner for StopsClient {
    fn leave_to_loop(mut self: Box<Self>) {
        self.connector = Weak::new();
    }
}

impl TcpClientBuilder<'_> {
    /// Connects, for async functions: the returned future yields the connection as a
    /// [`ByteStream`](crate::net::ByteStream), after the handshakes of its filters.
    ///
    /// All settings apply, except [`reconnect`](TcpClientBuilder::reconnect) and
    /// [`on_failure`](TcpClientBuilder::on_failure): the future returns the failure. The attempts
    /// start now, and need the loop to run; any executor on its thread can await the future.
    /// Dropping it cancels them.
    ///
    /// # Errors
    /// The future returns the error of the last attempt, with its kind.
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the loop has ended, or belongs to the process
    /// that this one was forked from.
    pub fn connect_async(mut self) -> Connecting {
        let (attempt, result) = Attempt::new();
        let attempt = Rc::new(attempt);
        self.settings.reconnect = false;
        let failed = Rc::clone(&attempt);
        let opened = Rc::clone(&attempt);
        let client = self.on_failure(move |_, error| failed.finish(Err(error.into()))).serve(move |conn| {
            StreamHandler::new(Rc::new(StreamState::new(conn.event_loop())), Rc::clone(&opened))
        });
        match client {
            Ok(client) => Connecting::new(result, Some(Box::new(StopsClient::new(client)))),
            Err(error) => {
                attempt.finish(Err(error));
                Connecting::new(result, None)
            }
        }
    }
}

impl ByteStream {
    /// Connects to `target` on this thread's loop, with the default settings of a
    /// [client](TcpClient::connect): names are looked up on another thread, several addresses race,
    /// and the time limit is 10 s. Dropping the future cancels the attempt.
    ///
    /// # Errors
    /// Same as [`TcpClientBuilder::connect_async`](crate::net::TcpClientBuilder::connect_async).
    ///
    /// # Panics
    /// If this thread has no loop.
    pub async fn connect(
        target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> io::Result<ByteStream> {
        with_loop(|event_loop| TcpClient::connect(event_loop, target).connect_async()).await
    }
}
