//! A UDP socket for async functions.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::UdpSocketBuilder;
use super::destination::{UdpDestination, UdpSource};
use super::endpoint::{Endpoint, Input};
use super::error::DatagramError;
use super::socket;
use crate::sources::async_source::Async;

/// A UDP socket whose datagrams are awaited, on this thread's loop. Created by
/// [`UdpSocketBuilder::open_async`].
///
/// It has no queue: a send waits until the kernel accepts the datagram. Several futures may receive
/// and send at a time; each datagram goes to one of them.
///
/// All futures are cancel safe: a datagram is received or sent by the poll that returns its result.
/// After the end of the loop they return [`BrokenPipe`](io::ErrorKind::BrokenPipe).
///
/// ```
/// use reveille::{EventLoop, UdpSocket, task};
///
/// async fn echo() -> std::io::Result<()> {
///     let address = "127.0.0.1:2007";
///     let open = |event_loop: &EventLoop| UdpSocket::bind(event_loop, address)?.open_async();
///     let socket = task::with_loop(open)?;
///     let mut buffer = [0; 65536];
///     loop {
///         let (n, from) = socket.recv_from(&mut buffer).await?;
///         socket.send_to(&buffer[..n], from).await?;
///     }
/// }
/// ```
#[derive(Debug)]
pub struct AsyncUdpSocket {
    socket: Async<OwnedFd>,
    endpoint: Endpoint,
}

impl UdpSocketBuilder<'_> {
    /// Creates the socket for async functions, without a handler. The limits of the builder do not
    /// apply, since it has no queue.
    ///
    /// # Errors
    /// Same as [`serve`](UdpSocketBuilder::serve).
    pub fn open_async(self) -> io::Result<AsyncUdpSocket> {
        let (fd, endpoint) = self.open()?;
        Ok(AsyncUdpSocket { socket: Async::new(fd)?, endpoint })
    }
}

impl AsyncUdpSocket {
    /// Receives one datagram. Returns its length and its sender.
    ///
    /// # Errors
    /// The error of the system call, such as
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) on a connected socket for an earlier
    /// datagram. [`InvalidData`](io::ErrorKind::InvalidData) if the datagram is longer than
    /// `buffer`, and is lost. Receiving may continue after either.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (n, from, _) = self.recv_with_destination(buffer).await?;
        Ok((n, from))
    }

    /// Same as [`recv_from`](AsyncUdpSocket::recv_from), with the address that the datagram was
    /// sent to. A reply of a socket that is bound to all addresses is [sent
    /// from](AsyncUdpSocket::send_from) it.
    ///
    /// # Errors
    /// Same as [`recv_from`](AsyncUdpSocket::recv_from).
    pub async fn recv_with_destination(
        &self,
        buffer: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, UdpDestination)> {
        self.socket
            .read_with(|socket| {
                loop {
                    match self.endpoint.receive(socket.as_fd(), buffer)? {
                        Input::Datagram(n, from, destination) => return Ok((n, from, destination)),
                        Input::ForeignPeer => {}
                        Input::WouldBlock => return Err(io::ErrorKind::WouldBlock.into()),
                    }
                }
            })
            .await
    }

    /// Sends one datagram to `to`.
    ///
    /// # Errors
    /// The error of the system call; [`InvalidInput`](io::ErrorKind::InvalidInput) for a datagram
    /// that no network transports.
    pub async fn send_to(&self, datagram: impl AsRef<[u8]>, to: SocketAddr) -> io::Result<()> {
        self.send_datagram(datagram.as_ref(), Some(to), None).await
    }

    /// Same as [`send_to`](AsyncUdpSocket::send_to), from the local address `source`: see
    /// [`UdpRef::send_from`](crate::net::UdpRef::send_from).
    ///
    /// # Errors
    /// Same as [`send_to`](AsyncUdpSocket::send_to).
    pub async fn send_from(
        &self,
        source: impl Into<UdpSource>,
        datagram: impl AsRef<[u8]>,
        to: SocketAddr,
    ) -> io::Result<()> {
        self.send_datagram(datagram.as_ref(), Some(to), Some(source.into())).await
    }

    /// Sends one datagram to the peer of a connected socket.
    ///
    /// # Errors
    /// Same as [`send_to`](AsyncUdpSocket::send_to); EDESTADDRREQ if the socket is not connected.
    pub async fn send(&self, datagram: impl AsRef<[u8]>) -> io::Result<()> {
        self.send_datagram(datagram.as_ref(), None, None).await
    }

    async fn send_datagram(
        &self,
        bytes: &[u8],
        to: Option<SocketAddr>,
        source: Option<UdpSource>,
    ) -> io::Result<()> {
        DatagramError::check_length(bytes.len(), to.or(self.endpoint.peer))?;
        self.socket
            .write_with(|socket| match socket::send(socket.as_fd(), bytes, to, source)? {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            })
            .await
    }

    /// The address that the socket is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoint.local
    }

    /// The peer of a connected socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.endpoint.peer
    }
}

impl AsFd for AsyncUdpSocket {
    /// The socket, for options that have no method here.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}
