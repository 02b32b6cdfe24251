//! What a UDP socket calls back.

use std::io;
use std::net::SocketAddr;

use super::udp_ref::UdpRef;
use crate::event_loop::containment::logger;
use crate::net::result::CloseReason;

/// What a UDP socket does with what comes.
///
/// One value per socket, called on the socket's loop with `&mut self` and never re-entered. What it knows of its peers are its
/// fields.
///
/// An error concerns one datagram or one peer, and never ends the socket. A method that panics has it closed.
///
/// ```
/// use reveille::{DatagramHandler, UdpRef};
/// use std::collections::HashMap;
/// use std::io;
/// use std::net::SocketAddr;
///
/// /// Tells each peer how many datagrams it has sent.
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
    /// A datagram has come, whole; its bytes may be none. `from` is where an answer goes.
    ///
    /// # Errors
    /// Those of the implementation. They are passed to [`on_error`](DatagramHandler::on_error), with `from`, and the socket goes
    /// on.
    fn on_datagram(&mut self, socket: &UdpRef<'_>, datagram: &[u8], from: SocketAddr) -> io::Result<()>;

    /// Something has gone wrong that no caller was told, and the socket goes on: a datagram that was queued has been refused
    /// by the kernel, and is lost; the peer of a connected socket has answered an earlier one with an ICMP error
    /// (ECONNREFUSED: nobody listens there); or [`on_datagram`](DatagramHandler::on_datagram) has returned an error.
    ///
    /// `peer` is the one it concerns, if the kernel says. Of the errors of a connected socket that come while nobody looks, the
    /// kernel keeps one. Unless this is written otherwise they are logged, at level debug.
    fn on_error(&mut self, socket: &UdpRef<'_>, error: io::Error, peer: Option<SocketAddr>) {
        logger::call(|| match peer {
            Some(peer) => log::debug!("{}: of {peer}: {error}", socket.local_addr()),
            None => log::debug!("{}: {error}", socket.local_addr()),
        });
    }

    /// The kernel has taken all that was queued. Called each time a queue has emptied.
    fn on_drained(&mut self, socket: &UdpRef<'_>) {
        let _ = socket;
    }

    /// The socket is closed. The last call, and there is always one. What [`unsent`](UdpRef::unsent) still counts is lost.
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
