//! UDP sockets on an event loop.
//!
//! [`UdpSocket`] is the owner's value. [`UdpRef`] is the handler's view of the socket for the
//! duration of a callback. [`UdpHandle`] is for use from any thread.

mod async_socket;
mod builder;
mod core;
mod destination;
mod driver;
mod endpoint;
mod error;
mod handle;
mod handler;
mod open;
mod packet_info;
mod queue;
mod socket;
mod udp_ref;
mod write;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

pub use async_socket::AsyncUdpSocket;
pub use builder::UdpSocketBuilder;
pub use destination::{UdpDestination, UdpSource};
pub use error::DatagramError;
pub use handle::UdpHandle;
pub use handler::DatagramHandler;
pub use udp_ref::UdpRef;

use self::core::UdpCore;
use self::open::Origin;
use super::address::{Address, AddressError};
use super::names::Protocol;
use super::result::{CloseReason, SendStatus};
use super::target::ConnectTarget;
use crate::event_loop::{EventLoop, Refused, WeakLoop};
use crate::net::sys::adopted::check_udp;

/// A UDP socket on an event loop, open for as long as this value lives.
///
/// It receives while its loop runs: up to 64 datagrams per turn, each whole and in a separate
/// callback. Dropping it [closes](UdpSocket::close) it.
///
/// A datagram is sent at once if the kernel accepts it, and otherwise queued in order. Each is sent
/// whole; datagrams are never merged. The queue is bounded, and a datagram that does not fit is
/// refused with an error. UDP itself guarantees nothing: a datagram that the kernel has accepted
/// may still be lost, duplicated or reordered.
///
/// A socket that is bound to all addresses (`0.0.0.0`, `[::]`) replies from the address that a
/// datagram was sent to: see [`UdpRef::send_to`] and [`UdpRef::destination`].
///
/// Bound to the loop's thread, like the loop. [`handle`](UdpSocket::handle) returns a handle for
/// use from any thread.
///
/// ```no_run
/// use reveille::{EventLoop, UdpSocket};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let _socket = UdpSocket::bind(&event_loop, "127.0.0.1:2007")?
///     .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))?;
/// event_loop.run()
/// # }
/// ```
#[must_use = "a socket is closed when it is dropped"]
pub struct UdpSocket {
    event_loop: WeakLoop,
    core: Weak<UdpCore>,
    handle: UdpHandle,
    local: SocketAddr,
    peer: Option<SocketAddr>,
}

impl UdpSocket {
    /// Returns a builder of a socket that is bound to `address`: a socket address or `host:port`,
    /// as [`ConnectTarget`] describes. The first address that can be bound is used. Port 0 selects
    /// an ephemeral port: see [`local_addr`](UdpSocket::local_addr).
    ///
    /// A host name is resolved here, which may block. An address is never looked up.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for text that is not an address and for the
    /// address of a Unix socket, and the errors of the lookup. A failure to bind is reported when
    /// the socket is created.
    pub fn bind(
        event_loop: &EventLoop,
        address: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> io::Result<UdpSocketBuilder<'_>> {
        let addresses = inet_addresses(address, "bind a UDP socket to")?;
        Ok(UdpSocketBuilder::new(event_loop, Origin::Addresses(addresses)))
    }

    /// Returns a builder of a socket that the program has: a [`std::net::UdpSocket`], or an
    /// [`OwnedFd`] that another program has passed. It may be connected.
    ///
    /// Creating the socket makes the descriptor non-blocking and close-on-exec, and enables
    /// `IP_PKTINFO` if it is bound to all addresses and not connected. Other options remain, except
    /// those that are set in the builder. Of these, `reuse_address`, `reuse_port`, `only_v6` and
    /// `dual_stack` take effect only before a bind, so they are errors. Datagrams that arrived
    /// before are delivered.
    ///
    /// A duplicate of the descriptor, here or in another process, takes datagrams away if it
    /// receives, and keeps the port in use after the close.
    ///
    /// ```
    /// use reveille::{EventLoop, UdpSocket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let _echo = UdpSocket::from_socket(&event_loop, socket)?
    ///     .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `socket` is not a UDP socket, or is not
    /// bound. The error of the system call. In each case the error returns `socket` unchanged.
    pub fn from_socket<D>(
        event_loop: &EventLoop,
        socket: D,
    ) -> Result<UdpSocketBuilder<'_>, Refused<D, io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
    {
        let socket = socket.into();
        match check_udp(&socket) {
            Ok(_) => Ok(UdpSocketBuilder::new(event_loop, Origin::Adopted(socket))),
            Err(error) => Err(Refused::new(D::from(socket), error)),
        }
    }

    /// Returns a builder of a socket that is bound to an ephemeral port of any address and
    /// connected to `peer`, same as [`UdpSocketBuilder::connect`]. If `peer` resolves to several
    /// addresses, the first is used.
    ///
    /// A host name is resolved here, which may block. An address is never looked up.
    ///
    /// # Errors
    /// Same as [`bind`](UdpSocket::bind), and [`InvalidInput`](io::ErrorKind::InvalidInput) if the
    /// lookup returns no address.
    ///
    /// ```
    /// use reveille::{EventLoop, UdpSocket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = UdpSocket::bind(&event_loop, "127.0.0.1:0")?
    ///     .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))?;
    /// let client = UdpSocket::connect(&event_loop, server.local_addr()?)?;
    /// let client = client.serve_fn(|socket, datagram, _| {
    ///     assert_eq!(datagram, b"hello");
    ///     socket.event_loop().quit();
    /// })?;
    /// client.send("hello")?;
    /// event_loop.run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(
        event_loop: &EventLoop,
        peer: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> io::Result<UdpSocketBuilder<'_>> {
        let peers = inet_addresses(peer, "connect a UDP socket to")?;
        let Some(&peer) = peers.first() else {
            let message = "the peer resolves to no address";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Ok(UdpSocketBuilder::new(event_loop, Origin::Addresses(vec![any])).connect(peer))
    }

    fn new(event_loop: &EventLoop, core: &Rc<UdpCore>) -> UdpSocket {
        UdpSocket {
            event_loop: event_loop.downgrade(),
            core: Rc::downgrade(core),
            handle: core.handle(event_loop),
            local: core.local(),
            peer: core.peer(),
        }
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// None. The signature is that of the other sockets.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// The peer of a connected socket.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the socket is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends one datagram. Same as [`UdpRef::send_to`].
    ///
    /// # Errors
    /// Same as [`UdpRef::send_to`].
    pub fn send_to(&self, datagram: impl AsRef<[u8]>, to: SocketAddr) -> Result<SendStatus, DatagramError> {
        self.with(|socket| socket.send_to(datagram, to)).unwrap_or(Err(DatagramError::Closed))
    }

    /// Sends one datagram from the local address `source`. Same as [`UdpRef::send_from`].
    ///
    /// # Errors
    /// Same as [`UdpRef::send_from`].
    pub fn send_from(
        &self,
        source: impl Into<UdpSource>,
        datagram: impl AsRef<[u8]>,
        to: SocketAddr,
    ) -> Result<SendStatus, DatagramError> {
        self.with(|socket| socket.send_from(source, datagram, to)).unwrap_or(Err(DatagramError::Closed))
    }

    /// Sends one datagram to the peer of a connected socket. Same as [`UdpRef::send`].
    ///
    /// # Errors
    /// Same as [`UdpRef::send`].
    pub fn send(&self, datagram: impl AsRef<[u8]>) -> Result<SendStatus, DatagramError> {
        self.with(|socket| socket.send(datagram)).unwrap_or(Err(DatagramError::Closed))
    }

    /// A handle to this socket, for use from any thread. It does not keep the socket open.
    pub fn handle(&self) -> UdpHandle {
        self.handle.clone()
    }

    /// Stops receiving until [`resume_receiving`](UdpSocket::resume_receiving). Same as
    /// [`UdpRef::pause_receiving`].
    pub fn pause_receiving(&self) {
        self.with(|socket| socket.pause_receiving());
    }

    /// Resumes receiving.
    pub fn resume_receiving(&self) {
        self.with(|socket| socket.resume_receiving());
    }

    /// Excludes the socket from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// handler is called, and queued datagrams are sent, as long as the loop runs.
    pub fn exclude_from_idle(&self) {
        self.set_counted(false);
    }

    /// Ends the effect of [`exclude_from_idle`](UdpSocket::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.set_counted(true);
    }

    fn set_counted(&self, counted: bool) {
        if let Some(core) = self.core.upgrade() {
            self.event_loop.with(|event_loop| event_loop.set_counted(core.id(), counted));
        }
    }

    /// Returns `false` once the socket has been closed: by its handler, by a panic of the handler,
    /// by a handle, or with its loop.
    pub fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// Calls `f` with the [`UdpRef`] of the socket, for operations that have no method here.
    /// Returns `None` if the socket is closed.
    pub fn with<R>(&self, f: impl FnOnce(&UdpRef<'_>) -> R) -> Option<R> {
        let core = self.core.upgrade()?;
        let lend = |event_loop: &EventLoop| core.is_open().then(|| f(&UdpRef::new(event_loop, &core)));
        self.event_loop.with(lend).flatten()
    }

    /// Closes the socket. Queued datagrams are lost. The last callback of the handler is
    /// [`on_close`](DatagramHandler::on_close). It runs, and the descriptor is closed, at the end
    /// of the loop's current or next turn, or when the loop is dropped. Until then the address is
    /// in use.
    pub fn close(self) {}
}

fn inet_addresses(
    target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    purpose: &str,
) -> io::Result<Vec<SocketAddr>> {
    let addresses = ConnectTarget::new(target, purpose)?.resolve_blocking(purpose, Protocol::Udp)?;
    let inet = |address: Address| {
        address.as_inet().ok_or_else(|| {
            let message = format!("cannot {purpose} {address}: it is the address of a Unix socket");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })
    };
    addresses.into_iter().map(inet).collect()
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            self.event_loop.with(|event_loop| core.close(event_loop, CloseReason::Closed));
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local_addr", &self.local)
            .field("peer_addr", &self.peer)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
