//! A UDP socket as a handler sees it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::core::UdpCore;
use super::destination::{UdpDestination, UdpSource};
use super::error::DatagramError;
use super::handle::UdpHandle;
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendStatus};

/// A UDP socket, on its loop's thread, for the duration of a callback.
///
/// Its methods take effect at once. Callbacks that they cause (a close, an error, a drained queue)
/// run after the current one has returned.
#[derive(Clone, Copy)]
pub struct UdpRef<'a> {
    event_loop: &'a EventLoop,
    core: &'a UdpCore,
}

impl<'a> UdpRef<'a> {
    pub(super) fn new(event_loop: &'a EventLoop, core: &'a UdpCore) -> UdpRef<'a> {
        UdpRef { event_loop, core }
    }

    /// The loop of the socket.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// A handle to this socket, for use from any thread. It can be kept.
    pub fn handle(&self) -> UdpHandle {
        self.core.handle(self.event_loop)
    }

    /// Sends one datagram, or queues it if the kernel does not accept it now. It may be empty.
    ///
    /// A reply comes from the address that the datagram was sent to: within
    /// [`on_datagram`](crate::net::DatagramHandler::on_datagram), a datagram to its `from` is sent
    /// from the [source](crate::net::UdpDestination::source) of its destination. For any other
    /// datagram of a socket that is bound to all addresses the kernel chooses the source, unless
    /// [`send_from`](UdpRef::send_from) sets it.
    ///
    /// A connected socket also sends to any `to`, but receives no reply from there.
    ///
    /// # Errors
    /// See [`DatagramError`]. The datagram is not sent, and queued datagrams stay queued.
    pub fn send_to(&self, datagram: impl AsRef<[u8]>, to: SocketAddr) -> Result<SendStatus, DatagramError> {
        let source = self.core.source_of_reply(to);
        self.core.send(self.event_loop, datagram.as_ref(), Some(to), source)
    }

    /// Same as [`send_to`](UdpRef::send_to), from the local address `source`. Also one system call.
    ///
    /// ```
    /// use reveille::net::{DatagramHandler, UdpRef, UdpSource};
    /// use std::io;
    /// use std::net::SocketAddr;
    ///
    /// /// Replies later: keeps the last request's sender and the source of the reply.
    /// struct Deferred {
    ///     pending: Option<(SocketAddr, Option<UdpSource>)>,
    /// }
    ///
    /// impl Deferred {
    ///     fn reply(&mut self, socket: &UdpRef) -> io::Result<()> {
    ///         match self.pending.take() {
    ///             Some((from, Some(source))) => socket.send_from(source, "reply", from)?,
    ///             Some((from, None)) => socket.send_to("reply", from)?,
    ///             None => return Ok(()),
    ///         };
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl DatagramHandler for Deferred {
    ///     fn on_datagram(
    ///         &mut self,
    ///         socket: &UdpRef,
    ///         _: &[u8],
    ///         from: SocketAddr,
    ///     ) -> io::Result<()> {
    ///         let source = socket.destination().and_then(|destination| destination.source());
    ///         self.pending = Some((from, source));
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// Same as [`send_to`](UdpRef::send_to), and [`Refused`](DatagramError::Refused) for a source
    /// that is not a local address (EINVAL, ENETUNREACH), or is of another family than `to`
    /// ([`Unsupported`](io::ErrorKind::Unsupported)).
    pub fn send_from(
        &self,
        source: impl Into<UdpSource>,
        datagram: impl AsRef<[u8]>,
        to: SocketAddr,
    ) -> Result<SendStatus, DatagramError> {
        self.core.send(self.event_loop, datagram.as_ref(), Some(to), Some(source.into()))
    }

    /// The destination of the datagram that is being delivered; `None` outside of
    /// [`on_datagram`](crate::net::DatagramHandler::on_datagram). No system call: a socket that is
    /// bound to all addresses receives the destination with each datagram, and for any other socket
    /// it is the [bound address](UdpRef::local_addr).
    pub fn destination(&self) -> Option<UdpDestination> {
        self.core.destination()
    }

    /// Sends one datagram to the peer of a connected socket, or queues it if the kernel does not
    /// accept it now.
    ///
    /// An ICMP error of the peer for an earlier datagram is passed to
    /// [`on_error`](crate::net::DatagramHandler::on_error), and is not an error of this one.
    ///
    /// # Errors
    /// Same as [`send_to`](UdpRef::send_to), and [`Refused`](DatagramError::Refused) (EDESTADDRREQ)
    /// if the socket is not connected.
    pub fn send(&self, datagram: impl AsRef<[u8]>) -> Result<SendStatus, DatagramError> {
        if self.core.peer().is_none() {
            return Err(DatagramError::no_destination());
        }
        self.core.send(self.event_loop, datagram.as_ref(), None, None)
    }

    /// Stops receiving until [`resume_receiving`](UdpRef::resume_receiving). No system call. The
    /// kernel buffers datagrams until its receive buffer is full, and drops further ones.
    pub fn pause_receiving(&self) {
        self.core.set_paused(self.event_loop, true);
    }

    /// Resumes receiving, beginning with the datagrams that have arrived in the meantime.
    pub fn resume_receiving(&self) {
        self.core.set_paused(self.event_loop, false);
    }

    /// The number of queued datagrams: accepted for sending and not yet passed to the kernel.
    pub fn unsent(&self) -> usize {
        self.core.queue.borrow().len()
    }

    /// Closes the socket. Queued datagrams are lost.
    pub fn close(&self) {
        self.core.close(self.event_loop, CloseReason::Closed);
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// None. The signature is that of the other sockets.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local())
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.core.local()
    }

    /// The peer of a connected socket.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the socket is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.core.peer().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Joins the multicast group `group` on the interface with the address `interface`. `0.0.0.0`
    /// lets the kernel choose the interface.
    ///
    /// # Errors
    /// The error of setsockopt(2) (`IP_ADD_MEMBERSHIP`, ip(7)): EINVAL for an address that is not a
    /// group, ENODEV for an interface that does not exist, EADDRINUSE for a group that has been
    /// joined already.
    pub fn join_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        SockRef::from(self).join_multicast_v4(&group, &interface)
    }

    /// Leaves the multicast group `group`. `interface` is the one that was passed to
    /// [`join_v4`](UdpRef::join_v4).
    ///
    /// # Errors
    /// The error of setsockopt(2): EADDRNOTAVAIL for a group that was not joined.
    pub fn leave_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        SockRef::from(self).leave_multicast_v4(&group, &interface)
    }

    /// Joins the IPv6 multicast group `group` on the interface with the index `interface`. 0 lets
    /// the kernel choose the interface.
    ///
    /// # Errors
    /// The error of setsockopt(2) (`IPV6_ADD_MEMBERSHIP`, ipv6(7)), same as for
    /// [`join_v4`](UdpRef::join_v4).
    pub fn join_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        SockRef::from(self).join_multicast_v6(&group, interface)
    }

    /// Leaves the IPv6 multicast group `group`.
    ///
    /// # Errors
    /// The error of setsockopt(2): EADDRNOTAVAIL for a group that was not joined.
    pub fn leave_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        SockRef::from(self).leave_multicast_v6(&group, interface)
    }
}

impl AsFd for UdpRef<'_> {
    /// The socket, for options that have no method here. Do not read or write it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.as_fd()
    }
}

impl fmt::Debug for UdpRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpRef")
            .field("local_addr", &self.local())
            .field("peer_addr", &self.core.peer())
            .field("unsent", &self.unsent())
            .finish_non_exhaustive()
    }
}
