//! Stream sockets: the system calls, and nothing above them.
//!
//! All bytes of a connection pass through [`receive`] and [`send`].

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::int_options::set_bind_address_no_port;
pub(crate) use super::tcp_info::unacknowledged;
use crate::net::address::{Address, UnixAddress};
use crate::net::options::SocketOptions;

/// A non-blocking listening socket. `SO_REUSEADDR` is set, so that a server can start again while old connections linger; the
/// options are handed on to what it accepts.
pub(crate) fn listen(address: SocketAddr, backlog: i32, options: &SocketOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    options.apply(&socket, address.is_ipv6())?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// A non-blocking Unix socket that is bound and does not listen yet: whoever connects is refused.
pub(crate) fn bind_unix(address: &UnixAddress) -> io::Result<OwnedFd> {
    let name = address.to_kernel_for_bind()?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    rustix::net::bind(&socket, &name)?;
    Ok(socket.into())
}

pub(crate) fn start_listening(socket: impl AsFd, backlog: i32) -> io::Result<()> {
    Ok(rustix::net::listen(socket, backlog)?)
}

/// Ends the listening of a TCP socket, for all descriptors that stand for it: those who connect are refused, those who wait to be
/// accepted are reset, and the address can be listened on again, as with `SO_REUSEADDR` a socket that does not listen holds none.
pub(crate) fn stop_listening(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Read)?)
}

/// Connects a non-blocking Unix socket. That is done or refused at once; unlike with TCP, no readiness would tell when a full backlog
/// has room again.
pub(crate) fn connect_unix(address: &UnixAddress, options: &SocketOptions) -> io::Result<OwnedFd> {
    let name = address.to_kernel()?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    options.apply_to_unix(&socket)?;
    match retry_on_intr(|| rustix::net::connect(&socket, &name)) {
        Ok(()) => Ok(socket.into()),
        Err(Errno::AGAIN) => {
            let message = "as many connections as may be wait to be accepted there";
            Err(io::Error::new(io::ErrorKind::WouldBlock, message))
        }
        Err(error) => Err(error.into()),
    }
}

/// Begins to connect a non-blocking socket. It becomes writable when that is done, one way or the other, and
/// [`finish_connecting`] tells which.
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
            // The port can be used again at once, while an earlier connection from it lingers.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&local.into())?;
    }
    match rustix::net::connect(&socket, &address) {
        // Interrupted, the kernel goes on connecting all the same.
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// As [`connect`], to an address of whatever family.
pub(crate) fn connect_to(
    address: &Address,
    local: Option<SocketAddr>,
    options: &SocketOptions,
) -> io::Result<OwnedFd> {
    match (address, local) {
        (Address::Inet(address), local) => connect(*address, local, options),
        (Address::Unix(address), None) => connect_unix(address, options),
        (Address::Unix(_), Some(local)) => {
            let message = format!("the local address {local} is of another family");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// Returns the peer as soon as the socket is connected, `None` before that, or the error for which it cannot be connected. The peer's
/// address is the kernel's: a connection to `0.0.0.0` or `[::]` is one to this machine.
///
/// A socket that calls a port which nobody listens on may be given that very port for its own end, and then it is connected to
/// itself: TCP allows for two ends that call each other at the same time. Nobody wants that, so it counts as refused.
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
    let local = local_address(&socket)?;
    if inet.ip() == local.ip() && inet.port() == local.port() {
        // Closed by a reset, it leaves the port to whoever wants to listen on it.
        reset_when_closed(&socket)?;
        let message = "nobody listens there, and the socket has been connected to itself";
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, message));
    }
    Ok(Some(peer))
}

/// Accepts one connection, non-blocking and closed on exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Address), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = retry_on_intr(|| rustix::net::acceptfrom_with(listener, flags))?;
    // The kernel leaves the address out if the peer has reset the connection meanwhile.
    let peer = peer.and_then(|peer| Address::from_kernel(peer).ok()).ok_or(Errno::CONNABORTED)?;
    Ok((fd, peer))
}

/// Of this end, whatever the family.
pub(crate) fn local_name(socket: impl AsFd) -> io::Result<Address> {
    Ok(Address::from_kernel(rustix::net::getsockname(socket)?)?)
}

pub(crate) fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map_err(|_| io::Error::other("the socket has no internet address"))
}

pub(crate) fn set_nodelay(socket: impl AsFd, nodelay: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_nodelay(socket, nodelay)?)
}

pub(crate) fn end_keep_alive(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_keepalive(socket, false)?)
}

/// For as long as the kernel sees fit: it goes back to delaying when it finds that useful (tcp(7), TCP_QUICKACK).
pub(crate) fn set_quickack(socket: impl AsFd, quickack: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_quickack(socket, quickack)?)
}

/// Whether the socket is disconnected in the direction in which it writes, of which a write has reported `error`.
pub(crate) fn is_disconnected(socket: impl AsFd, error: &io::Error) -> bool {
    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
        return true;
    }
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    let polled = retry_on_intr(|| rustix::event::poll(&mut fds, Some(&Timespec::default())));
    polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
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

/// What a read would come to, which takes no byte, but an error. No more than one byte.
pub(crate) fn peek(socket: BorrowedFd<'_>) -> io::Result<Transferred> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    transferred(retry_on_intr(|| rustix::net::recv(socket, &mut [0; 1], flags)).map(|(_, n)| n))
}

/// Without `SIGPIPE`: a peer that has gone is an error like another.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Transferred> {
    transferred(retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)))
}

/// How many slices the kernel takes in one call (`IOV_MAX`, readv(2)).
const MOST_SLICES: usize = 1024;

/// As [`send`], of several slices as if they were one: one system call, unless there are more of them than the kernel takes at once.
pub(crate) fn send_vectored(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<Transferred> {
    let mut total = 0;
    for slices in slices.chunks(MOST_SLICES) {
        let send =
            || rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
        match transferred(retry_on_intr(send)) {
            Ok(Transferred::Bytes(n)) => {
                total += n;
                if n < slices.iter().map(|slice| slice.len()).sum() {
                    break;
                }
            }
            // The next call will say so again, if it is to be said.
            Ok(Transferred::WouldBlock) | Err(_) if total > 0 => break,
            blocked_or_failed => return blocked_or_failed,
        }
    }
    Ok(Transferred::Bytes(total))
}

/// Sends up to `most` bytes of `file` from `offset` on, and moves the offset (sendfile(2)). 0 bytes are the end of the file.
///
/// The bytes go from the page cache to the socket within the kernel. What is not in the cache is read from the disk meanwhile, and
/// the call takes that long. Unlike the other calls it cannot be told to do without `SIGPIPE`.
pub(crate) fn send_file(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: &mut u64,
    most: usize,
) -> io::Result<Transferred> {
    transferred(retry_on_intr(|| rustix::fs::sendfile(socket, file, Some(&mut *offset), most)))
}

/// Sends the FIN: the peer will read the end of input behind what was sent before.
pub(crate) fn finish(socket: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::net::shutdown(socket, Shutdown::Write) {
        Ok(()) => Ok(()),
        // A connected socket is that no longer once the peer has reset it. Which error a read will report cannot be left to it, as the
        // caller needs one now.
        Err(Errno::NOTCONN) => Err(take_error(socket)?.unwrap_or_else(|| Errno::CONNRESET.into())),
        Err(error) => Err(error.into()),
    }
}

/// Has the close of the socket reset the connection, whatever is still to be sent (`SO_LINGER`, socket(7)).
pub(crate) fn reset_when_closed(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

pub(in crate::net) fn transferred(result: Result<usize, Errno>) -> io::Result<Transferred> {
    match result {
        Ok(n) => Ok(Transferred::Bytes(n)),
        Err(Errno::AGAIN) => Ok(Transferred::WouldBlock),
        Err(error) => Err(error.into()),
    }
}
