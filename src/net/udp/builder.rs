//! `UdpSocketBuilder`: the options of a UDP socket, and the finishing calls.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::UdpSocket;
use super::core::UdpCore;
use super::driver::establish;
use super::endpoint::Endpoint;
use super::handler::{DatagramHandler, OnDatagram};
use super::open::{Options, Origin};
use super::queue::Limits;
use super::udp_ref::UdpRef;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::net::result::IntoHandlerResult;
use crate::net::sys::adopted::check_udp;

/// Builds a UDP socket, from [`UdpSocket::bind`], [`UdpSocket::connect`] or
/// [`UdpSocket::from_socket`].
#[must_use = "a socket is created by `serve` or `serve_fn`"]
pub struct UdpSocketBuilder<'a> {
    event_loop: &'a EventLoop,
    origin: Origin,
    options: Options,
    limits: Limits,
}

impl<'a> UdpSocketBuilder<'a> {
    pub(super) fn new(event_loop: &'a EventLoop, origin: Origin) -> UdpSocketBuilder<'a> {
        let limits = Limits { datagrams: 1024, bytes: 1024 * 1024 };
        UdpSocketBuilder { event_loop, origin, options: Options::default(), limits }
    }

    /// Connects the socket to `peer`. It then receives only from `peer`, [`send`](UdpSocket::send)
    /// sends there, and ICMP errors of the peer, such as an unreachable port, are passed to
    /// [`DatagramHandler::on_error`]. The connect sends no packet.
    pub fn connect(mut self, peer: SocketAddr) -> Self {
        self.options.peer = Some(peer);
        self
    }

    /// Shares the address with other sockets that set this option (`SO_REUSEPORT`, socket(7)). The
    /// kernel distributes datagrams among them by source, so those of one peer go to one socket.
    /// Default: off.
    pub fn reuse_port(mut self) -> Self {
        self.options.reuse_port = true;
        self
    }

    /// Shares the address with other sockets that set this option (`SO_REUSEADDR`, socket(7)). Each
    /// of them receives the datagrams of a multicast group; any other datagram goes to one of them.
    /// Default: off.
    pub fn reuse_address(mut self) -> Self {
        self.options.reuse_address = true;
        self
    }

    /// Allows broadcast addresses as destinations (`SO_BROADCAST`). Default: a send to one fails.
    pub fn broadcast(mut self) -> Self {
        self.options.broadcast = true;
        self
    }

    /// Restricts a socket at `[::]` to IPv6 (`IPV6_V6ONLY`). Default: the system's setting
    /// (`net.ipv6.bindv6only`). No effect on an IPv4 socket.
    pub fn only_v6(mut self) -> Self {
        self.options.only_v6 = Some(true);
        self
    }

    /// Lets a socket at `[::]` receive IPv4 datagrams too. The opposite of
    /// [`only_v6`](UdpSocketBuilder::only_v6).
    pub fn dual_stack(mut self) -> Self {
        self.options.only_v6 = Some(false);
        self
    }

    /// The size of the kernel's receive buffer, in bytes (`SO_RCVBUF`). Datagrams that arrive when
    /// it is full are lost. The kernel doubles the number for its own bookkeeping, which counts
    /// against it, and limits it to `net.core.rmem_max`.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.options.receive_buffer = Some(bytes);
        self
    }

    /// The size of the kernel's send buffer, in bytes (`SO_SNDBUF`). When it is full, the socket
    /// queues. The kernel doubles the number for its own bookkeeping, which counts against it, and
    /// limits it to `net.core.wmem_max`.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.options.send_buffer = Some(bytes);
        self
    }

    /// The maximum number of hops of a datagram, 1 to 255 (`IP_TTL`, `IPV6_UNICAST_HOPS`).
    pub fn ttl(mut self, hops: u32) -> Self {
        self.options.ttl = Some(hops);
        self
    }

    /// The maximum number of hops of a datagram to a multicast group, 0 to 255. Default: 1, which
    /// is the local network.
    pub fn multicast_ttl(mut self, hops: u32) -> Self {
        self.options.multicast_ttl = Some(hops);
        self
    }

    /// Does not deliver datagrams to a multicast group on this machine (`IP_MULTICAST_LOOP`).
    /// Default: they are delivered here too.
    pub fn no_multicast_loop(mut self) -> Self {
        self.options.no_multicast_loop = true;
        self
    }

    /// Joins a multicast group, same as [`UdpRef::join_v4`]. May be called for several groups.
    pub fn join_v4(mut self, group: Ipv4Addr, interface: Ipv4Addr) -> Self {
        self.options.groups_v4.push((group, interface));
        self
    }

    /// Joins an IPv6 multicast group, same as [`UdpRef::join_v6`]. May be called for several
    /// groups.
    pub fn join_v6(mut self, group: Ipv6Addr, interface: u32) -> Self {
        self.options.groups_v6.push((group, interface));
        self
    }

    /// The limits of the queue for datagrams that the kernel does not accept yet. A datagram that
    /// would exceed either limit is refused with [`Full`](super::DatagramError::Full). Default:
    /// 1024 datagrams and 1 MiB. The same limits apply again to datagrams in transit from other
    /// threads. With 0 nothing waits: a datagram that the kernel does not accept at once is
    /// refused, and so is every one from another thread.
    pub fn max_unsent(mut self, datagrams: usize, bytes: usize) -> Self {
        self.limits = Limits { datagrams, bytes };
        self
    }

    /// Creates a socket that calls `on_datagram` with each datagram and its source address.
    ///
    /// `on_datagram` returns nothing or a `Result`. An error is logged, at level debug, and does
    /// not close the socket. To handle other errors, implement a [`DatagramHandler`].
    ///
    /// # Errors
    /// Same as [`serve`](UdpSocketBuilder::serve).
    pub fn serve_fn<F, R>(self, mut on_datagram: F) -> io::Result<UdpSocket>
    where
        F: FnMut(&UdpRef<'_>, &[u8], SocketAddr) -> R + 'static,
        R: IntoHandlerResult + 'static,
    {
        self.serve(OnDatagram(move |socket: &UdpRef<'_>, datagram: &[u8], from| {
            on_datagram(socket, datagram, from).into_result()
        }))
    }

    /// Creates a socket that calls `handler`.
    ///
    /// # Errors
    /// The error of the system call: an address in use, an address that is not local, a port
    /// without permission, an unsupported option, an unreachable peer. The error names the address.
    pub fn serve<H: DatagramHandler>(self, handler: H) -> io::Result<UdpSocket> {
        let handler = Contained::new(handler);
        let (event_loop, limits) = (self.event_loop, self.limits);
        let (fd, endpoint) = self.open()?;
        let core = establish(event_loop, |id| UdpCore::new(id, fd, endpoint, limits), handler)?;
        Ok(UdpSocket::new(event_loop, &core))
    }

    pub(super) fn open(self) -> io::Result<(OwnedFd, Endpoint)> {
        self.event_loop.check_process()?;
        let fd = self.origin.open(&self.options)?;
        // The kernel's address of the peer: a connection to 0.0.0.0 is one to 127.0.0.1.
        let (local, peer) = check_udp(&fd)?;
        Ok((fd, Endpoint { local, peer }))
    }
}

impl fmt::Debug for UdpSocketBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocketBuilder")
            .field("origin", &self.origin)
            .field("options", &self.options)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
