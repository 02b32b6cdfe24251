//! Stream sockets: creating, connecting and accepting them, and their options.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::int_options::set_bind_address_no_port;
pub(crate) use super::tcp_info::unacknowledged;
use crate::net::address::{Address, UnixAddress};
use crate::net::options::SocketOptions;

/// Creates a non-blocking listening socket. Sets `SO_REUSEADDR`, so that a server can restart while
/// old connections linger. Accepted sockets inherit the options.
pub(crate) fn listen(address: SocketAddr, backlog: i32, options: &SocketOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    options.apply(&socket, address.is_ipv6())?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Creates a non-blocking Unix socket that is bound and does not listen yet. Until then connection
/// attempts are refused.
pub(crate) fn bind_unix(address: &UnixAddress) -> io::Result<OwnedFd> {
    let name = address.to_kernel_for_bind()?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    rustix::net::bind(&socket, &name)?;
    Ok(socket.into())
}

pub(crate) fn start_listening(socket: impl AsFd, backlog: i32) -> io::Result<()> {
    Ok(rustix::net::listen(socket, backlog)?)
}

/// Stops a TCP socket from listening, for all descriptors that refer to it. New connection attempts
/// are refused, and connections in the backlog are reset. The address can be listened on again,
/// since with `SO_REUSEADDR` a socket that does not listen does not occupy it.
pub(crate) fn stop_listening(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Read)?)
}

/// Connects a non-blocking Unix socket. The connect completes or fails immediately. Unlike with
/// TCP, no readiness event reports when a full backlog has capacity again.
pub(crate) fn connect_unix(address: &UnixAddress, options: &SocketOptions) -> io::Result<OwnedFd> {
    let name = address.to_kernel()?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    options.apply_to_unix(&socket)?;
    match retry_on_intr(|| rustix::net::connect(&socket, &name)) {
        Ok(()) => Ok(socket.into()),
        Err(Errno::AGAIN) => {
            let message = "the backlog of the listening socket is full";
            Err(io::Error::new(io::ErrorKind::WouldBlock, message))
        }
        Err(error) => Err(error.into()),
    }
}

/// Begins to connect a non-blocking socket. The socket becomes writable when the attempt has
/// succeeded or failed, and [`finish_connecting`] returns the result.
pub(crate) fn connect(
    address: SocketAddr,
    local: Option<SocketAddr>,
    options: &SocketOptions,
) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    options.apply(&socket, address.is_ipv6())?;
    if let Some(local) = local {
        if local.is_ipv4() != address.is_ipv4() {
            let message = format!("the local address {local} is of another family");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if local.port() == 0 {
            set_bind_address_no_port(&socket)?;
        } else {
            // Allows the port to be reused at once, while an earlier connection from it lingers.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&local.into())?;
    }
    match rustix::net::connect(&socket, &address) {
        // EINTR does not stop the attempt.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Same as [`connect`], for an address of any supported family.
pub(crate) fn connect_to(
    address: &Address,
    local: Option<SocketAddr>,
    options: &SocketOptions,
) -> io::Result<OwnedFd> {
    match (address, local) {
        (Address::Inet(address), local) => connect(*address, local, options),
        (Address::Unix(address), None) => connect_unix(address, options),
        (Address::Unaddressed, _) => Err(unaddressed()),
        (Address::Unix(_), Some(local)) => {
            let message = format!("the local address {local} is of another family");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// Returns the peer if the socket is connected, `None` if it is still connecting, or the error of
/// the attempt. The peer's address is the kernel's: a connection to `0.0.0.0` or `[::]` has a local
/// address as its peer.
///
/// A connect to an unused local port may be assigned that very port for its own end. TCP's
/// simultaneous open then connects the socket to itself. Such a connection is useless, so it counts
/// as refused.
pub(crate) fn finish_connecting(socket: impl AsFd) -> io::Result<Option<Address>> {
    if let Some(error) = take_error(&socket)? {
        return Err(error);
    }
    let peer = match rustix::net::getpeername(&socket) {
        Ok(peer) => peer.ok_or(Errno::AFNOSUPPORT).and_then(Address::from_kernel)?,
        Err(Errno::NOTCONN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // A Unix socket cannot be connected to itself.
    let Some(inet) = peer.as_inet() else { return Ok(Some(peer)) };
    let local = local_socket_addr(&socket)?;
    if inet.ip() == local.ip() && inet.port() == local.port() {
        // A reset frees the port at once for a later listener.
        reset_on_close(&socket)?;
        let message = "nothing listens there, and the socket was connected to itself";
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, message));
    }
    Ok(Some(peer))
}

/// Accepts one connection, non-blocking and closed on exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Address), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = retry_on_intr(|| rustix::net::acceptfrom_with(listener, flags))?;
    // The kernel returns no address if the peer has reset the connection in the meantime.
    let peer = peer.and_then(|peer| Address::from_kernel(peer).ok()).ok_or(Errno::CONNABORTED)?;
    Ok((fd, peer))
}

/// Returns the address of this end, of any supported family.
pub(crate) fn local_address(socket: impl AsFd) -> io::Result<Address> {
    Ok(Address::from_kernel(rustix::net::getsockname(socket)?)?)
}

/// The error of an operation that needs the address of a socket.
pub(crate) fn unaddressed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "an end without an address cannot be addressed")
}

pub(crate) fn local_socket_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(|_| io::Error::other("the socket has no internet address"))
}

pub(crate) fn set_nodelay(socket: impl AsFd, nodelay: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_nodelay(socket, nodelay)?)
}

pub(crate) fn disable_keep_alive(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_keepalive(socket, false)?)
}

/// Not permanent: the kernel resumes delayed ACKs when it finds that useful (tcp(7), TCP_QUICKACK).
pub(crate) fn set_quickack(socket: impl AsFd, quickack: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_quickack(socket, quickack)?)
}

/// Takes the socket's pending error (`SO_ERROR`).
pub(crate) fn take_error(socket: impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(&socket).take_error()
}

/// Makes the close of the socket reset the connection and discard unsent data (`SO_LINGER`,
/// socket(7)).
pub(crate) fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}
