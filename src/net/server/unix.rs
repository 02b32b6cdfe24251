//! Servers on Unix sockets.

use std::io;

use super::listen_on::ListenOn;
use super::{TcpServer, TcpServerBuilder};
use crate::event_loop::EventLoop;
use crate::net::address::{Address, AddressError, UnixAddress};

impl TcpServer {
    /// A builder of a server that listens on a Unix socket: at a path, at an [abstract
    /// name](UnixAddress::abstract_name), or at a name that the kernel
    /// [chooses](UnixAddress::unnamed). Everything else is the same as with TCP: handlers, limits,
    /// handles, loops, and `TcpConnection` as the handler's view of a connection.
    ///
    /// TCP-only [options](TcpServerBuilder::socket_options) have no effect, and TCP-only methods of
    /// the connection return an error.
    /// Unix sockets add [`peer_credentials`](crate::TcpConnection::peer_credentials) and
    /// [descriptor passing](crate::TcpConnection::send_with_descriptors).
    ///
    /// When the server ends or is dropped, it removes the path if its own socket is still there. A
    /// killed process leaves the path behind; see
    /// [`replace_stale`](TcpServerBuilder::replace_stale).
    ///
    /// ```
    /// use reveille::{EventLoop, TcpClient, TcpServer};
    /// use reveille::net::UnixAddress;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let name = UnixAddress::abstract_name(format!("greeter of {}", std::process::id()))?;
    /// let _server = TcpServer::bind_unix(&event_loop, name.clone())?
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// let _client = TcpClient::connect(&event_loop, name).serve_fn(|_, _| ())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that is not a [`UnixAddress`].
    ///
    /// The methods `serve` and `serve_fn` return [`AddrInUse`](io::ErrorKind::AddrInUse) for a
    /// path that exists, of any file type, and for an abstract name that is taken; and the errors
    /// of socket(2), bind(2) and listen(2).
    pub fn bind_unix(
        event_loop: &EventLoop,
        address: impl TryInto<UnixAddress, Error: Into<AddressError>>,
    ) -> io::Result<TcpServerBuilder<'_>> {
        let address = address.try_into().map_err(|error| error.into().for_purpose("listen on"))?;
        let addresses = ListenOn::Addresses(vec![Address::Unix(address)]);
        Ok(TcpServer::builder(event_loop).adding(Ok(addresses)))
    }
}

impl<S> TcpServerBuilder<'_, S> {
    /// Makes a server on a Unix socket replace a stale socket, which a previous server left at the
    /// path: one that refuses connections. Default: an existing path is an error.
    /// A regular file or the socket of a running server is never replaced.
    ///
    /// The check connects once, which a running server sees as a client that connects and
    /// disconnects. Two servers that start at the same time may each take the other's socket for a
    /// stale one. Programs that may start that way need a lock of their own.
    pub fn replace_stale(mut self) -> Self {
        self.settings.path_options.replace_stale = true;
        self
    }

    /// The permissions of a Unix socket's path, such as `0o660`. Connecting requires write
    /// permission. Default: all permissions that the process's umask allows. They are in effect
    /// before the first connection can be made.
    pub fn path_mode(mut self, mode: u32) -> Self {
        self.settings.path_options.mode = Some(mode);
        self
    }
}
