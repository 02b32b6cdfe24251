//! Sockets that the program has created or received: the checks before the crate takes one over,
//! and the flags that it needs.
//!
//! A check reads only, so a socket that fails it is unchanged. A pending error stays in the socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, Protocol, SocketType, getpeername, ipproto, sockopt};

use super::stream::{local_address, local_socket_addr};
use crate::net::address::Address;

/// Checks that a socket is a TCP or Unix stream socket that listens. Returns its address.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for another type or family, and for a socket that
/// does not listen. The error of the system call, such as `EBADF`.
pub(in crate::net) fn check_listener(socket: impl AsFd) -> io::Result<Address> {
    check_stream(&socket)?;
    if !sockopt::socket_acceptconn(&socket)? {
        return refuse(io::ErrorKind::InvalidInput, "the socket does not listen");
    }
    local_address(socket)
}

/// Checks that a socket is a stream socket that is connected. Returns its peer.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for another type or protocol, and for a listening
/// socket. [`NotConnected`](io::ErrorKind::NotConnected) for a socket that is not connected yet, or
/// no longer because of a reset. The error of the system call, such as `EBADF`.
pub(in crate::net) fn check_connection(socket: impl AsFd) -> io::Result<Address> {
    let (family, protocol) = check_type(&socket, SocketType::STREAM, "a stream socket")?;
    if is_inet(family) && !is_tcp(family, protocol) {
        return refuse(io::ErrorKind::InvalidInput, "the socket is not a TCP socket");
    }
    if sockopt::socket_acceptconn(&socket)? {
        return refuse(io::ErrorKind::InvalidInput, "the socket listens, and is not a connection");
    }
    match getpeername(&socket) {
        // A socket of another family, such as vsock.
        Ok(peer) => Ok(peer.and_then(|peer| Address::from_kernel(peer).ok()).unwrap_or(Address::Unaddressed)),
        Err(Errno::NOTCONN) => refuse(io::ErrorKind::NotConnected, "the socket is not connected"),
        Err(error) => Err(error.into()),
    }
}

/// Checks that a socket is a UDP socket that is bound. Returns its address, and its peer if it is
/// connected.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for another type or family, and for a socket that
/// is not bound. The error of the system call, such as `EBADF`.
pub(in crate::net) fn check_udp(socket: impl AsFd) -> io::Result<(SocketAddr, Option<SocketAddr>)> {
    let (family, protocol) = check_type(&socket, SocketType::DGRAM, "a datagram socket")?;
    if !is_inet(family) || protocol != Some(ipproto::UDP) {
        return refuse(io::ErrorKind::InvalidInput, "the socket is not a UDP socket");
    }
    let local = local_socket_addr(&socket)?;
    if local.port() == 0 {
        return refuse(io::ErrorKind::InvalidInput, "the socket is not bound");
    }
    let peer = match getpeername(&socket) {
        Ok(peer) => peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
        Err(Errno::NOTCONN) => None,
        Err(error) => return Err(error.into()),
    };
    Ok((local, peer))
}

fn check_stream(socket: impl AsFd) -> io::Result<()> {
    let (family, protocol) = check_type(socket, SocketType::STREAM, "a stream socket")?;
    if is_tcp(family, protocol) || family == AddressFamily::UNIX {
        Ok(())
    } else {
        refuse(io::ErrorKind::InvalidInput, "the socket is neither a TCP nor a Unix socket")
    }
}

/// Sockets of Multipath TCP behave like those of TCP.
fn is_tcp(family: AddressFamily, protocol: Option<Protocol>) -> bool {
    is_inet(family) && matches!(protocol, Some(ipproto::TCP | ipproto::MPTCP))
}

fn is_inet(family: AddressFamily) -> bool {
    matches!(family, AddressFamily::INET | AddressFamily::INET6)
}

/// Returns the family and the protocol of a socket of the type `wanted`.
fn check_type(
    socket: impl AsFd,
    wanted: SocketType,
    name: &str,
) -> io::Result<(AddressFamily, Option<Protocol>)> {
    match sockopt::socket_type(&socket) {
        Ok(found) if found == wanted => {}
        Ok(_) => return refuse(io::ErrorKind::InvalidInput, format_args!("the socket is not {name}")),
        Err(Errno::NOTSOCK) => {
            return refuse(io::ErrorKind::InvalidInput, "the descriptor is not a socket");
        }
        Err(error) => return Err(error.into()),
    }
    Ok((sockopt::socket_domain(&socket)?, sockopt::socket_protocol(&socket)?))
}

fn refuse<T>(kind: io::ErrorKind, message: impl fmt::Display) -> io::Result<T> {
    Err(io::Error::new(kind, message.to_string()))
}

/// The flags that a descriptor had before it was [prepared](Flags::prepare).
pub(in crate::net) struct Flags {
    status: OFlags,
    descriptor: FdFlags,
}

impl Flags {
    /// Makes a descriptor non-blocking and closed on exec. The former belongs to the open file, so
    /// it also applies to duplicates, in this process or in another one.
    ///
    /// # Errors
    /// The error of fcntl(2). The flags are unchanged then.
    pub(in crate::net) fn prepare(fd: impl AsFd) -> io::Result<Flags> {
        let descriptor = rustix::io::fcntl_getfd(&fd)?;
        let status = rustix::fs::fcntl_getfl(&fd)?;
        let flags = Flags { status, descriptor };
        rustix::io::fcntl_setfd(&fd, descriptor | FdFlags::CLOEXEC)?;
        if let Err(error) = rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK) {
            flags.restore(fd);
            return Err(error.into());
        }
        Ok(flags)
    }

    /// Makes a descriptor closed on exec, and leaves its mode as it is.
    ///
    /// # Errors
    /// The error of fcntl(2). The flags are unchanged then.
    pub(in crate::net) fn close_on_exec(fd: impl AsFd) -> io::Result<Flags> {
        let descriptor = rustix::io::fcntl_getfd(&fd)?;
        let status = rustix::fs::fcntl_getfl(&fd)?;
        rustix::io::fcntl_setfd(&fd, descriptor | FdFlags::CLOEXEC)?;
        Ok(Flags { status, descriptor })
    }

    /// Restores the flags of a descriptor that is returned to the caller.
    pub(in crate::net) fn restore(&self, fd: impl AsFd) {
        // They were valid before, so this does not fail.
        let _ = rustix::fs::fcntl_setfl(&fd, self.status);
        let _ = rustix::io::fcntl_setfd(&fd, self.descriptor);
    }
}
