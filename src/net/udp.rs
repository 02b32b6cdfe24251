//! UDP: a socket on a loop.
//!
//! [`UdpSocket`] is what its owner holds; a [`UdpRef`] is what its handler sees, for the length of a call; a [`UdpHandle`] is
//! what other threads hold.

mod builder;
mod core;
mod destination;
mod driver;
mod error;
mod handle;
mod handler;
mod packet_info;
mod queue;
mod socket;
mod udp_ref;
mod write;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};

pub use builder::UdpSocketBuilder;
pub use destination::{UdpDestination, UdpSource};
pub use error::DatagramError;
pub use handle::UdpHandle;
pub use handler::DatagramHandler;
pub use udp_ref::UdpRef;

use self::core::Core;
use super::address::Address;
use super::result::{CloseReason, SendStatus};
use super::target::ConnectTarget;
use crate::event_loop::{EventLoop, WeakLoop};

/// A UDP socket on a loop, for as long as this value lives.
///
/// It receives when its loop runs, up to 64 datagrams a turn, each whole and in a call of its own. Dropping it
/// [closes](UdpSocket::close) it.
///
/// Datagrams are sent at once if the kernel takes them, and else queued, in order; each goes out whole, and none is merged with
/// another. The queue is bounded, and a datagram that does not fit is refused to its sender. UDP itself promises nothing: one
/// that the kernel has taken may still be lost, doubled, or overtaken.
///
/// A socket that is bound to all addresses (`0.0.0.0`, `[::]`) replies from the address that a datagram was sent to: see
/// [`UdpRef::send_to`] and [`UdpRef::destination`].
///
/// Bound to the loop's thread, like the loop; [`handle`](UdpSocket::handle) gives the face for other threads.
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
    core: Weak<Core>,
    handle: UdpHandle,
    local: SocketAddr,
    peer: Option<SocketAddr>,
}

impl UdpSocket {
    /// Begins a socket at `address`, a socket address or a `host:port`, as [`ConnectTarget`] describes; of several addresses the
    /// first that can be bound. With port 0 the kernel chooses one: see [`local_addr`](UdpSocket::local_addr).
    ///
    /// A name is looked up here, which may block; addresses never do.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a text that is not an address and for the address of a Unix socket, and
    /// the errors of the lookup. Whether the address can be bound is found when the socket is made.
    pub fn bind(
        event_loop: &EventLoop,
        address: impl Into<ConnectTarget>,
    ) -> io::Result<UdpSocketBuilder<'_>> {
        Ok(UdpSocketBuilder::new(event_loop, inet_addresses(address.into(), "bind a UDP socket to")?))
    }

    /// Begins a socket at a free port of any address, connected to `peer`, as [`UdpSocketBuilder::connect`]; of several
    /// addresses the first is taken.
    ///
    /// A name is looked up here, which may block; addresses never do.
    ///
    /// # Errors
    /// As [`bind`](UdpSocket::bind); also [`InvalidInput`](io::ErrorKind::InvalidInput) if the lookup finds no address.
    ///
    /// ```
    /// use reveille::{EventLoop, UdpSocket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = UdpSocket::bind(&event_loop, "127.0.0.1:0")?
    ///     .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))?;
    /// let client = UdpSocket::connect(&event_loop, server.local_addr())?.serve_fn(|socket, datagram, _| {
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
        peer: impl Into<ConnectTarget>,
    ) -> io::Result<UdpSocketBuilder<'_>> {
        let peers = inet_addresses(peer.into(), "connect a UDP socket to")?;
        let Some(&peer) = peers.first() else {
            let message = "the peer stands for no socket address";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Ok(UdpSocketBuilder::new(event_loop, vec![any]).connect(peer))
    }

    fn new(event_loop: &EventLoop, core: &Rc<Core>) -> UdpSocket {
        UdpSocket {
            event_loop: event_loop.downgrade(),
            core: Rc::downgrade(core),
            handle: core.handle(event_loop),
            local: core.local(),
            peer: core.peer(),
        }
    }

    /// Where the socket receives.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The one that a connected socket speaks to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Sends one datagram, as [`UdpRef::send_to`].
    ///
    /// # Errors
    /// As there.
    pub fn send_to(&self, datagram: impl AsRef<[u8]>, to: SocketAddr) -> Result<SendStatus, DatagramError> {
        self.with(|socket| socket.send_to(datagram, to)).unwrap_or(Err(DatagramError::Closed))
    }

    /// Sends one datagram from the address `source` of this machine, as [`UdpRef::send_from`].
    ///
    /// # Errors
    /// As there.
    pub fn send_from(
        &self,
        source: impl Into<UdpSource>,
        datagram: impl AsRef<[u8]>,
        to: SocketAddr,
    ) -> Result<SendStatus, DatagramError> {
        self.with(|socket| socket.send_from(source, datagram, to)).unwrap_or(Err(DatagramError::Closed))
    }

    /// Sends one datagram to the peer of a connected socket, as [`UdpRef::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, datagram: impl AsRef<[u8]>) -> Result<SendStatus, DatagramError> {
        self.with(|socket| socket.send(datagram)).unwrap_or(Err(DatagramError::Closed))
    }

    /// The face of this socket that any thread may use. It does not keep the socket.
    pub fn handle(&self) -> UdpHandle {
        self.handle.clone()
    }

    /// Receives no more until [`resume_receiving`](UdpSocket::resume_receiving), as [`UdpRef::pause_receiving`].
    pub fn pause_receiving(&self) {
        self.with(|socket| socket.pause_receiving());
    }

    /// Receives again.
    pub fn resume_receiving(&self) {
        self.with(|socket| socket.resume_receiving());
    }

    /// Whether the socket has not been closed: by its handler, by a panic there, by a handle, or with its loop.
    pub fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// Lends the socket as its handler sees it, for all that has no method here; `None` once it is closed.
    pub fn with<R>(&self, f: impl FnOnce(&UdpRef<'_>) -> R) -> Option<R> {
        let core = self.core.upgrade()?;
        let lend = |event_loop: &EventLoop| core.is_open().then(|| f(&UdpRef::new(event_loop, &core)));
        self.event_loop.with(lend).flatten()
    }

    /// Ends the socket: what is queued is lost, and its handler is called once more, for its
    /// [`on_close`](DatagramHandler::on_close). That and the close of the descriptor come at the end of the loop's turn, this
    /// one or the next, or with the end of the loop; until then the address is taken.
    pub fn close(self) {}
}

fn inet_addresses(target: ConnectTarget, purpose: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses = target.resolve_blocking(purpose)?;
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
