//! Stream sockets: the system calls, and nothing above them.
//!
//! All bytes of a connection pass through [`receive`] and [`send`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// A non-blocking listening socket. `SO_REUSEADDR` is set, so that a server can start again while old connections linger.
pub(crate) fn listen(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Accepts one connection, non-blocking and closed on exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = retry_on_intr(|| rustix::net::acceptfrom_with(listener, flags))?;
    // The kernel leaves the address out if the peer has reset the connection meanwhile.
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::CONNABORTED)?;
    Ok((fd, peer))
}

pub(crate) fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(|_| io::Error::other("the socket has no internet address"))
}

pub(crate) fn set_nodelay(socket: impl AsFd, nodelay: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_nodelay(socket, nodelay)?)
}

/// Takes the error that the socket has pending.
pub(crate) fn take_error(socket: impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(&socket).take_error()
}

/// What a read or a write came to.
#[derive(Debug)]
pub(crate) enum Transferred {
    /// So many bytes. For a read 0 is the end of input.
    Bytes(usize),
    WouldBlock,
}

pub(crate) fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Transferred> {
    transferred(retry_on_intr(|| rustix::net::recv(socket, &mut *into, RecvFlags::empty())).map(|(_, n)| n))
}

/// Without `SIGPIPE`: a peer that has gone is an error like another.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Transferred> {
    transferred(retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)))
}

/// Sends the FIN: the peer will read the end of input behind what was sent before.
pub(crate) fn finish(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
}

fn transferred(result: Result<usize, Errno>) -> io::Result<Transferred> {
    match result {
        Ok(n) => Ok(Transferred::Bytes(n)),
        Err(Errno::AGAIN) => Ok(Transferred::WouldBlock),
        Err(error) => Err(error.into()),
    }
}
