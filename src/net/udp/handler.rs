//! The callbacks of a UDP socket.

use std::io;
use std::net::SocketAddr;

use super::udp_ref::UdpRef;
use crate::event_loop::containment::logger;
use crate::net::result::CloseReason;

/// Handles the events of a UDP socket.
///
/// One value per socket, called on the socket's loop with `&mut self` and never re-entered. State
/// about its peers belongs in its fields.
///
/// An error concerns one datagram or one peer, and never closes the socket. A panic in a method
/// closes it.
///
/// ```
/// use reveille::net::{DatagramHandler, UdpRef};
/// use std::collections::HashMap;
/// use std::io;
/// use std::net::SocketAddr;
///
/// /// Replies to each datagram with the number of datagrams of its sender.
/// #[derive(Default)]
/// struct Counter {
///     seen: HashMap<SocketAddr, u64>,
/// }
///
/// impl DatagramHandler for Counter {
///     fn on_datagram(&mut self, socket: &UdpRef, _: &[u8], from: SocketAddr) -> io::Result<()> {
///         let seen = self.seen.entry(from).or_default();
///         *seen += 1;
///         socket.send_to(seen.to_string(), from)?;
///         Ok(())
///     }
/// }
/// ```
pub trait DatagramHandler: 'static {
    /// A datagram has arrived, whole; it may be empty. `from` is the address for a reply.
    ///
    /// # Errors
    /// Those of the implementation. They are passed to [`on_error`](DatagramHandler::on_error) with
    /// `from`, and the socket stays open.
    fn on_datagram(&mut self, socket: &UdpRef<'_>, datagram: &[u8], from: SocketAddr) -> io::Result<()>;

    /// An error that was not returned to a caller. The socket stays open. Causes:
    ///
    /// - The kernel has refused a datagram that was queued. The datagram is lost.
    /// - The peer of a connected socket has replied to an earlier datagram with an ICMP error
    ///   (ECONNREFUSED: nothing listens on the port).
    /// - [`on_datagram`](DatagramHandler::on_datagram) has returned an error.
    ///
    /// `peer` is the peer that the error concerns, if known. The kernel keeps only one pending
    /// error of a connected socket. Default: logs the error, at level debug.
    fn on_error(&mut self, socket: &UdpRef<'_>, error: io::Error, peer: Option<SocketAddr>) {
        let local = socket.local();
        logger::call(|| match peer {
            Some(peer) => log::debug!("{local}: error of {peer}: {error}"),
            None => log::debug!("{local}: {error}"),
        });
    }

    /// The kernel has accepted all queued datagrams. Called each time the queue becomes empty.
    fn on_drained(&mut self, socket: &UdpRef<'_>) {
        let _ = socket;
    }

    /// The socket is closed. Always called, as the last callback. Datagrams that
    /// [`unsent`](UdpRef::unsent) still counts are lost.
    fn on_close(&mut self, socket: &UdpRef<'_>, reason: &CloseReason) {
        let _ = (socket, reason);
    }
}

/// A closure as a handler.
pub(super) struct OnDatagram<F>(pub(super) F);

impl<F> DatagramHandler for OnDatagram<F>
where
    F: FnMut(&UdpRef<'_>, &[u8], SocketAddr) -> io::Result<()> + 'static,
{
    fn on_datagram(&mut self, socket: &UdpRef<'_>, datagram: &[u8], from: SocketAddr) -> io::Result<()> {
        (self.0)(socket, datagram, from)
    }
}
