//! Datagram sockets: the system calls only.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrAny};

use super::destination::{UdpDestination, UdpSource};
use super::packet_info;
use super::queue::Datagram;

/// The result of an attempt to receive.
pub(super) enum Received {
    /// The datagram's length and sender. If the length exceeds the buffer, the datagram was
    /// truncated.
    Datagram(usize, Option<SocketAddr>),
    WouldBlock,
}

/// Receives one datagram into `into`.
///
/// One system call per datagram: recvmmsg(2) saves at most a tenth of the processor time of a small
/// datagram, and has no safe binding.
pub(super) fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Received> {
    match retry_on_intr(|| rustix::net::recvfrom(socket, &mut *into, RecvFlags::TRUNC)) {
        Ok((_, n, from)) => Ok(Received::Datagram(n, from.and_then(|from| SocketAddr::try_from(from).ok()))),
        Err(Errno::AGAIN) => Ok(Received::WouldBlock),
        Err(error) => Err(error.into()),
    }
}

/// Same as [`receive`], with the destination if the kernel reports it.
pub(super) fn receive_with_destination(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
) -> io::Result<(Received, Option<UdpDestination>)> {
    match packet_info::receive(socket, into) {
        Ok(datagram) => Ok((Received::Datagram(datagram.bytes, datagram.from), datagram.destination)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((Received::WouldBlock, None)),
        Err(error) => Err(error),
    }
}

/// Sends one datagram. Returns `false` if the call would block.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: Option<SocketAddr>,
    source: Option<UdpSource>,
) -> io::Result<bool> {
    if let (Some(to), Some(source)) = (to, source) {
        return match packet_info::send(socket, bytes, to, source) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        };
    }
    let sent = retry_on_intr(|| match &to {
        Some(to) => rustix::net::sendto(socket, bytes, SendFlags::NOSIGNAL, to),
        None => rustix::net::send(socket, bytes, SendFlags::NOSIGNAL),
    });
    match sent {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sends several datagrams in one call. Returns how many of them the kernel has accepted, from the
/// front; 0 if the call would block. An error is that of the first datagram.
///
/// A datagram with a source is sent in a separate call: sendmmsg(2) has no safe binding that takes
/// its control message.
pub(super) fn send_all(socket: BorrowedFd<'_>, datagrams: &[Datagram]) -> io::Result<usize> {
    let without_source = datagrams.iter().take_while(|datagram| datagram.source.is_none()).count();
    if let (0 | 1, Some(first)) = (without_source, datagrams.first()) {
        return send(socket, &first.bytes, first.to, first.source).map(usize::from);
    }
    let datagrams = &datagrams[..without_source];
    let addresses: Vec<Option<SocketAddrAny>> =
        datagrams.iter().map(|datagram| datagram.to.map(SocketAddrAny::from)).collect();
    let slices: Vec<[IoSlice<'_>; 1]> =
        datagrams.iter().map(|datagram| [IoSlice::new(&datagram.bytes)]).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<MMsgHdr<'_>> = addresses
        .iter()
        .zip(&slices)
        .zip(&mut controls)
        .map(|((address, slice), control)| match address {
            Some(address) => MMsgHdr::new_with_addr(address, slice, control),
            None => MMsgHdr::new(slice, control),
        })
        .collect();
    match retry_on_intr(|| rustix::net::sendmmsg(socket, &mut messages, SendFlags::NOSIGNAL)) {
        Ok(n) => Ok(n),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
