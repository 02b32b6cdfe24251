//! The addresses of a UDP socket, and receiving, which depends on them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::destination::UdpDestination;
use super::socket::{self, Received};

/// The address that a socket is bound to, and the peer of a connected one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) local: SocketAddr,
    pub(super) peer: Option<SocketAddr>,
}

/// The result of an attempt to receive.
pub(super) enum Input {
    /// A datagram of this length, its sender and its destination.
    Datagram(usize, SocketAddr, UdpDestination),
    /// A datagram of another sender on a connected socket. It is not delivered.
    ForeignPeer,
    /// No datagram. A readiness event reports the next one.
    WouldBlock,
}

impl Endpoint {
    /// Receives one datagram into `space`.
    ///
    /// # Errors
    /// The error of the system call; [`InvalidData`](io::ErrorKind::InvalidData) if the datagram is
    /// longer than `space`. It is lost then.
    pub(super) fn receive(&self, socket: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<Input> {
        let (received, destination) = if self.is_bound_to_any() {
            socket::receive_with_destination(socket, space)?
        } else {
            (socket::receive(socket, space)?, None)
        };
        match received {
            Received::WouldBlock => Ok(Input::WouldBlock),
            Received::Datagram(n, _) if n > space.len() => {
                let message = format!("a datagram of {n} bytes was truncated to {} and is lost", space.len());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
            Received::Datagram(n, from) => Ok(match from.or(self.peer) {
                // Datagrams that arrived between bind and connect may have any source.
                Some(from) if self.peer.is_none_or(|peer| is_same(peer, from)) => {
                    Input::Datagram(n, from, destination.unwrap_or_else(|| self.bound_destination()))
                }
                _ => Input::ForeignPeer,
            }),
        }
    }

    /// Returns `true` if the socket receives datagrams for any local address, so that the kernel
    /// reports each one's destination.
    fn is_bound_to_any(&self) -> bool {
        self.peer.is_none() && self.local.ip().to_canonical().is_unspecified()
    }

    /// The destination of each datagram to a socket that is bound to one address.
    fn bound_destination(&self) -> UdpDestination {
        UdpDestination { ip: self.local.ip().to_canonical(), interface: 0, source: None }
    }
}

/// Returns `true` if two addresses are the same endpoint. The scope and flow label of an IPv6
/// address may be set on one side only.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}
