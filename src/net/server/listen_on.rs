//! What a server listens on: addresses that it binds, and sockets that listen already.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use super::{Settings, SingleLoop, TcpServer, TcpServerBuilder};
use crate::event_loop::{EventLoop, Refused};
use crate::net::address::{Address, AddressError};
use crate::net::names::Protocol;
use crate::net::sys::adopted::check_listener;
use crate::net::target::ConnectTarget;

/// One listener of a server that is being built.
pub(super) enum ListenOn {
    /// Is resolved by the finishing call.
    Target(ConnectTarget),
    /// The first of these addresses that can be bound.
    Addresses(Vec<Address>),
    Adopted(AdoptedListener),
}

/// A socket that listens already, and its address. Its flags are still those of the caller.
pub(super) struct AdoptedListener {
    pub(super) socket: OwnedFd,
    pub(super) address: Address,
}

/// A listener that is ready to be bound or adopted.
pub(super) enum Listening {
    /// Never an empty list.
    Addresses(Vec<Address>),
    Adopted(AdoptedListener),
}

impl ListenOn {
    /// Looks up a host name, which may block.
    pub(super) fn resolve(self) -> io::Result<Listening> {
        let addresses = match self {
            ListenOn::Adopted(listener) => return Ok(Listening::Adopted(listener)),
            ListenOn::Target(target) => target.resolve_blocking("listen on", Protocol::Tcp)?,
            ListenOn::Addresses(addresses) => addresses,
        };
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no socket address to listen on"));
        }
        Ok(Listening::Addresses(addresses))
    }
}

impl AdoptedListener {
    fn new(socket: OwnedFd) -> Result<AdoptedListener, Refused<OwnedFd, io::Error>> {
        match check_listener(&socket) {
            Ok(address) => Ok(AdoptedListener { socket, address }),
            Err(error) => Err(Refused::new(socket, error)),
        }
    }
}

impl TcpServer {
    /// A builder of a server without a listener. [`listen`](TcpServerBuilder::listen) and
    /// [`listener`](TcpServerBuilder::listener) add one or more. [`TcpServer::bind`] is the short
    /// form for one address.
    ///
    /// All listeners of a server share its limits, counters and handlers, and end together.
    ///
    /// ```
    /// use reveille::{EventLoop, TcpServer};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = TcpServer::builder(&event_loop)
    ///     .listen("127.0.0.1:0")
    ///     .listen("127.0.0.1:0")
    ///     .max_connections(1000)
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// assert_eq!(server.local_addresses().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(event_loop: &EventLoop) -> TcpServerBuilder<'_> {
        TcpServerBuilder::new(event_loop)
    }

    /// A builder of a server that accepts from `listener`, a socket that listens already: a
    /// [`std::net::TcpListener`], a [`UnixListener`](std::os::unix::net::UnixListener), or an
    /// [`OwnedFd`] that another program has passed. See
    /// [`listener`](TcpServerBuilder::listener).
    ///
    /// ```
    /// use reveille::{EventLoop, TcpServer};
    /// use std::net::TcpListener;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let listener = TcpListener::bind("127.0.0.1:0")?; // before privileges are dropped
    /// let _server = TcpServer::from_listener(&event_loop, listener)?
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a TCP or Unix stream socket, or
    /// does not listen. The error of the system call. In each case the error returns `listener`
    /// unchanged.
    pub fn from_listener<D>(
        event_loop: &EventLoop,
        listener: D,
    ) -> Result<TcpServerBuilder<'_>, Refused<D, io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
    {
        match AdoptedListener::new(listener.into()) {
            Ok(adopted) => Ok(TcpServerBuilder::new(event_loop).adding(Ok(ListenOn::Adopted(adopted)))),
            Err(refused) => Err(refused.map(D::from)),
        }
    }
}

impl<'a> TcpServerBuilder<'a, SingleLoop> {
    fn new(event_loop: &'a EventLoop) -> TcpServerBuilder<'a> {
        TcpServerBuilder {
            event_loop,
            listen_on: Vec::new(),
            settings: Settings::default(),
            loops: SingleLoop,
        }
    }
}

impl<'a, S> TcpServerBuilder<'a, S> {
    /// Adds a listener at `address`: a socket address, `host:port`, or a
    /// [`UnixAddress`](crate::net::UnixAddress), see [`ConnectTarget`]. The first of its addresses
    /// that can be bound is used, as with [`TcpServer::bind`].
    ///
    /// This call only records the address. The finishing call, such as
    /// [`serve`](TcpServerBuilder::serve), resolves a host name, which may block, and returns the
    /// error of an address that is not valid or cannot be bound. Then the server has no listener
    /// at all.
    pub fn listen(self, address: impl TryInto<ConnectTarget, Error: Into<AddressError>>) -> Self {
        self.adding(ConnectTarget::new(address, "listen on").map(ListenOn::Target))
    }

    /// Adds a socket that listens already: a [`std::net::TcpListener`], a
    /// [`UnixListener`](std::os::unix::net::UnixListener), or an [`OwnedFd`], for example one of
    /// [`systemd_listeners`](crate::net::systemd_listeners). The server owns the descriptor.
    ///
    /// The finishing call makes it non-blocking and close-on-exec, and returns the error of a
    /// descriptor that is not a listening TCP or Unix stream socket. That descriptor is closed, as
    /// is every other listener of the builder when the finishing call fails: this is the exception
    /// from the rule that an operation [returns](crate::Refused) the value that it refuses.
    /// [`TcpServer::from_listener`] returns such a descriptor to the caller.
    ///
    /// Everything else remains as the socket has it. The [backlog](TcpServerBuilder::backlog), the
    /// [options](TcpServerBuilder::socket_options), and the settings for the path of a Unix socket
    /// apply to the addresses that the server binds itself. Accepted connections inherit options
    /// of the socket, so without `TCP_NODELAY` there, small writes may be delayed.
    ///
    /// The end of the server closes its descriptor. If another process, or a duplicate, has the
    /// socket too, it still listens: connections wait in its backlog for the next server. It also
    /// shares the non-blocking mode, which none of them may change. The path
    /// of a Unix socket is not removed, and an abstract name may be free a moment after the end.
    ///
    /// An adopted socket cannot be bound once more for each loop, so with
    /// [`ListenerPerLoop`](crate::net::LoadBalancing::ListenerPerLoop) the finishing call returns
    /// [`Unsupported`](io::ErrorKind::Unsupported). The other policies distribute the connections
    /// of all listeners together.
    pub fn listener(self, listener: impl Into<OwnedFd>) -> Self {
        let adopted = AdoptedListener::new(listener.into()).map(ListenOn::Adopted);
        self.adding(adopted.map_err(|refused| {
            let error = io::Error::from(refused);
            io::Error::new(error.kind(), format!("cannot adopt a listener: {error}"))
        }))
    }

    pub(super) fn adding(mut self, listen_on: io::Result<ListenOn>) -> Self {
        self.listen_on.push(listen_on);
        self
    }
}

/// Resolves what a server listens on. Returns the first error, in the order of the calls.
pub(super) fn resolve_all(listen_on: Vec<io::Result<ListenOn>>) -> io::Result<Vec<Listening>> {
    let valid: Vec<ListenOn> = listen_on.into_iter().collect::<io::Result<_>>()?;
    if valid.is_empty() {
        let message = "a server needs an address or a socket to listen on";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    valid.into_iter().map(ListenOn::resolve).collect()
}

impl fmt::Debug for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenOn::Target(target) => f.write_str(target.text()),
            ListenOn::Addresses(addresses) => addresses.fmt(f),
            ListenOn::Adopted(listener) => write!(f, "a socket at {}", listener.address),
        }
    }
}
