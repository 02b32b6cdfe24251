//! A UDP socket as its handler sees it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::core::Core;
use super::destination::{UdpDestination, UdpSource};
use super::error::DatagramError;
use super::handle::UdpHandle;
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendStatus};

/// A UDP socket, on its loop's thread, for the length of a call.
///
/// Everything here acts at once, except that what it causes (a close, an error, a drained queue) is delivered after the callback
/// has returned.
#[derive(Clone, Copy)]
pub struct UdpRef<'a> {
    event_loop: &'a EventLoop,
    core: &'a Core,
}

impl<'a> UdpRef<'a> {
    pub(super) fn new(event_loop: &'a EventLoop, core: &'a Core) -> UdpRef<'a> {
        UdpRef { event_loop, core }
    }

    /// The loop that the socket is on.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The face of this socket that can be kept, and that any thread may use.
    pub fn handle(&self) -> UdpHandle {
        self.core.handle(self.event_loop)
    }

    /// Sends one datagram, or queues it if the kernel takes none now. Its bytes may be none.
    ///
    /// A reply comes from the address that the datagram was sent to: within [`on_datagram`](crate::DatagramHandler::on_datagram) a
    /// datagram to its `from` is sent from the [source](crate::UdpDestination::source) of its destination. For every other datagram of a
    /// socket that is bound to all addresses the kernel chooses the source, unless [`send_from`](UdpRef::send_from) names it.
    ///
    /// Of a connected socket it goes to `to` all the same, but no answer from there is received.
    ///
    /// # Errors
    /// What [`DatagramError`] lists. Nothing is sent then, and what was queued before stays queued.
    pub fn send_to(&self, datagram: impl AsRef<[u8]>, to: SocketAddr) -> Result<SendStatus, DatagramError> {
        let source = self.core.source_of_reply(to);
        self.core.send(self.event_loop, datagram.as_ref(), Some(to), source)
    }

    /// As [`send_to`](UdpRef::send_to), from the address `source` of this machine. One system call, as there.
    ///
    /// ```
    /// use reveille::{DatagramHandler, UdpRef, UdpSource};
    /// use std::io;
    /// use std::net::SocketAddr;
    ///
    /// /// Keeps the last question, with what a later answer needs.
    /// struct Later {
    ///     asked: Option<(SocketAddr, Option<UdpSource>)>,
    /// }
    ///
    /// impl Later {
    ///     fn answer(&mut self, socket: &UdpRef) -> io::Result<()> {
    ///         match self.asked.take() {
    ///             Some((from, Some(source))) => socket.send_from(source, "an answer", from)?,
    ///             Some((from, None)) => socket.send_to("an answer", from)?,
    ///             None => return Ok(()),
    ///         };
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl DatagramHandler for Later {
    ///     fn on_datagram(&mut self, socket: &UdpRef, _: &[u8], from: SocketAddr) -> io::Result<()> {
    ///         let source = socket.destination().and_then(|destination| destination.source());
    ///         self.asked = Some((from, source));
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`send_to`](UdpRef::send_to); also [`Refused`](DatagramError::Refused) for a source that is not an address of this machine
    /// (EINVAL, ENETUNREACH), or is of another family than `to` ([`Unsupported`](io::ErrorKind::Unsupported)).
    pub fn send_from(
        &self,
        source: impl Into<UdpSource>,
        datagram: impl AsRef<[u8]>,
        to: SocketAddr,
    ) -> Result<SendStatus, DatagramError> {
        self.core.send(self.event_loop, datagram.as_ref(), Some(to), Some(source.into()))
    }

    /// Where the datagram was sent to that is being delivered; `None` outside of
    /// [`on_datagram`](crate::DatagramHandler::on_datagram). No system call: a socket that is bound to all addresses receives it with
    /// each datagram, and to every other socket datagrams are sent at its [own](UdpRef::local_addr).
    pub fn destination(&self) -> Option<UdpDestination> {
        self.core.destination()
    }

    /// Sends one datagram to the peer of a connected socket, or queues it if the kernel takes none now.
    ///
    /// An error that the peer has answered to an earlier datagram is passed to
    /// [`on_error`](crate::DatagramHandler::on_error), and is no error of this one.
    ///
    /// # Errors
    /// As [`send_to`](UdpRef::send_to); [`Refused`](DatagramError::Refused) (EDESTADDRREQ) if the socket is not connected.
    pub fn send(&self, datagram: impl AsRef<[u8]>) -> Result<SendStatus, DatagramError> {
        if self.core.peer().is_none() {
            return Err(DatagramError::no_destination());
        }
        self.core.send(self.event_loop, datagram.as_ref(), None, None)
    }

    /// Receives no more until [`resume_receiving`](UdpRef::resume_receiving). No system call; the kernel keeps what comes until
    /// its buffer is full, and drops the rest.
    pub fn pause_receiving(&self) {
        self.core.set_paused(self.event_loop, true);
    }

    /// Receives again, what has come meanwhile first.
    pub fn resume_receiving(&self) {
        self.core.set_paused(self.event_loop, false);
    }

    /// How many datagrams are queued: accepted for sending and not yet taken by the kernel.
    pub fn unsent(&self) -> usize {
        self.core.queue.borrow().len()
    }

    /// Ends the socket. What is queued is lost.
    pub fn close(&self) {
        self.core.close(self.event_loop, CloseReason::Closed);
    }

    /// Where the socket receives.
    pub fn local_addr(&self) -> SocketAddr {
        self.core.local()
    }

    /// The one that a connected socket speaks to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.core.peer()
    }

    /// Receives what is sent to the multicast group `group`, on the interface with the address `interface`, or on one that
    /// the kernel chooses if that is `0.0.0.0`.
    ///
    /// # Errors
    /// What the kernel says: EINVAL for an address that is no group, ENODEV for an interface that is not there, EADDRINUSE for
    /// a group that was joined before (`IP_ADD_MEMBERSHIP`, ip(7)).
    pub fn join_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        SockRef::from(self).join_multicast_v4(&group, &interface)
    }

    /// Receives no longer what is sent to `group`. The interface is the one that was given to
    /// [`join_v4`](UdpRef::join_v4).
    ///
    /// # Errors
    /// What the kernel says: EADDRNOTAVAIL for a group that was not joined.
    pub fn leave_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        SockRef::from(self).leave_multicast_v4(&group, &interface)
    }

    /// Receives what is sent to the IPv6 multicast group `group`, on the interface with the number `interface`, or on one
    /// that the kernel chooses if that is 0.
    ///
    /// # Errors
    /// What the kernel says, as for [`join_v4`](UdpRef::join_v4) (`IPV6_ADD_MEMBERSHIP`, ipv6(7)).
    pub fn join_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        SockRef::from(self).join_multicast_v6(&group, interface)
    }

    /// Receives no longer what is sent to the IPv6 multicast group `group`.
    ///
    /// # Errors
    /// What the kernel says: EADDRNOTAVAIL for a group that was not joined.
    pub fn leave_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        SockRef::from(self).leave_multicast_v6(&group, interface)
    }
}

impl AsFd for UdpRef<'_> {
    /// The socket, for options that have no method here. Reading or writing it is its own business alone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.as_fd()
    }
}

impl fmt::Debug for UdpRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpRef")
            .field("local_addr", &self.local_addr())
            .field("peer_addr", &self.peer_addr())
            .field("unsent", &self.unsent())
            .finish_non_exhaustive()
    }
}
