//! Servers on Unix sockets.

use std::io;

use super::{Settings, SingleLoop, TcpServer, TcpServerBuilder};
use crate::event_loop::EventLoop;
use crate::net::address::{Address, UnixAddress};

impl TcpServer {
    /// Begins a server that listens on a Unix socket: at a path, at an [abstract name](UnixAddress::abstract_name), or at
    /// one that the kernel [chooses](UnixAddress::unnamed). All else is as with TCP: the same handlers, limits, handles and loops, and
    /// `TcpConnection` for what a handler sees.
    ///
    /// What is TCP's alone has no effect ([`socket_options`](TcpServerBuilder::socket_options),
    /// [`nodelay`](TcpServerBuilder::nodelay)), or is an error on the connection. What only Unix sockets have are
    /// [`peer_credentials`](crate::TcpConnection::peer_credentials) and descriptors that are
    /// [sent along](crate::TcpConnection::send_with_descriptors).
    ///
    /// The path is removed when the server ends or is dropped, if it is still the server's own. A process that is killed leaves it; see
    /// [`replace_stale`](TcpServerBuilder::replace_stale).
    ///
    /// ```
    /// use reveille::{EventLoop, TcpClient, TcpServer, UnixAddress};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let name = UnixAddress::abstract_name(format!("greeter of {}", std::process::id()));
    /// let _server = TcpServer::bind_unix(&event_loop, name.clone())?
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// let _client = TcpClient::connect(&event_loop, name).serve_fn(|_, _| ())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a name that is empty or has more than 107 bytes. When the server is made:
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) for a path that exists, whatever is there, and for an abstract name that is taken; and
    /// what else the kernel says.
    pub fn bind_unix(
        event_loop: &EventLoop,
        address: impl Into<UnixAddress>,
    ) -> io::Result<TcpServerBuilder<'_>> {
        let address = address.into();
        address.to_kernel_for_bind()?;
        let addresses = vec![Address::Unix(address)];
        Ok(TcpServerBuilder { event_loop, addresses, settings: Settings::default(), spread: SingleLoop })
    }
}

impl<S> TcpServerBuilder<'_, S> {
    /// Whether a server on a Unix socket takes the path of one that has left it behind: a socket that refuses to be connected to.
    /// Usually it does not, and a path that exists is an error. Whatever else is there (a file, a server that runs) is never touched.
    ///
    /// To find out it connects once, which a server that runs sees as a client that comes and goes. Two servers that begin at the
    /// same moment may each take the other for one that has gone; who starts servers like that keeps a lock of their own.
    pub fn replace_stale(mut self, replace: bool) -> Self {
        self.settings.at_path.replace_stale = replace;
        self
    }

    /// The permissions of a Unix socket's path, such as `0o660`: to connect takes the permission to write. Usually all that the
    /// process's umask leaves. They hold before the first connection can be made.
    pub fn path_mode(mut self, mode: u32) -> Self {
        self.settings.at_path.mode = Some(mode);
        self
    }
}
