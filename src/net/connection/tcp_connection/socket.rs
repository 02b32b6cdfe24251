//! The addresses of a connection's two ends, and the options of its socket. On a connection that is
//! not a socket, all of them except `peer` fail with `Unsupported`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::TcpConnection;
use crate::net::address::Address;
use crate::net::group::peer_key::PeerCredentials;
use crate::net::options::{self, KeepAlive};
use crate::net::sys::stream;
use crate::net::sys::tcp_info::TcpInfo;

impl<'a> TcpConnection<'a> {
    /// The address of the peer, of any family, as the kernel reports it: a client that connects to
    /// `0.0.0.0` has the peer `127.0.0.1`. For a client on a Unix socket it is the address that it
    /// connected to. The peers of a server on a Unix socket are unnamed, unless they have bound a
    /// path or a name. Streams that are not TCP or Unix sockets have [no
    /// address](Address::Unaddressed).
    pub fn peer_address(&self) -> &'a Address {
        self.core.peer_address()
    }

    /// The peer's IP address and port.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) on a Unix socket.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.core.peer_address().to_inet()
    }

    /// Excludes the connection from what
    /// [`run_until_idle`](crate::EventLoop::run_until_idle) waits for. It is served as long as the
    /// loop runs.
    pub fn exclude_from_idle(&self) {
        self.event_loop.set_counted(self.core.id(), false);
    }

    /// Ends the effect of [`exclude_from_idle`](TcpConnection::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.event_loop.set_counted(self.core.id(), true);
    }

    /// The local address, of any family.
    ///
    /// # Errors
    /// Returns the error of getsockname(2).
    pub fn local_address(&self) -> io::Result<Address> {
        stream::local_address(self.core.transport.socket()?)
    }

    /// The local IP address and port.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) on a Unix socket; otherwise returns the error of
    /// getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_address()?.to_inet()
    }

    /// The process at the other end of a Unix socket, with its user and group, as of when it
    /// connected or began to listen. One system call (`SO_PEERCRED`, unix(7)).
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a TCP connection; otherwise returns the
    /// error of getsockopt(2).
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        PeerCredentials::of(self.core.transport.socket()?, self.core.peer_address())
    }

    /// Whether small writes are sent immediately (`TCP_NODELAY`). Default: `true`, unless the
    /// server or client was configured otherwise.
    ///
    /// # Errors
    /// Returns the error of setsockopt(2).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        stream::set_nodelay(self.core.transport.socket()?, nodelay)
    }

    /// Enables or disables keep-alive probes, which detect a dead peer while nothing is being sent.
    /// Same as [`SocketOptions::keep_alive`](crate::net::SocketOptions::keep_alive).
    ///
    /// # Errors
    /// Returns the error of setsockopt(2).
    pub fn set_keep_alive(&self, keep_alive: Option<KeepAlive>) -> io::Result<()> {
        match keep_alive {
            Some(keep_alive) => keep_alive.apply(self.core.transport.socket()?),
            None => stream::disable_keep_alive(self.core.transport.socket()?),
        }
    }

    /// How long sent data may stay unacknowledged, same as
    /// [`SocketOptions::user_timeout`](crate::net::SocketOptions::user_timeout). Zero selects the
    /// system default.
    ///
    /// # Errors
    /// Returns the error of setsockopt(2).
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        options::set_user_timeout(self.core.transport.socket()?, timeout)
    }

    /// Whether input is acknowledged immediately rather than together with a reply
    /// (`TCP_QUICKACK`). The kernel changes this by itself during the connection (tcp(7)), so set
    /// it again whenever it matters.
    ///
    /// # Errors
    /// Returns the error of setsockopt(2).
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        stream::set_quickack(self.core.transport.socket()?, quickack)
    }

    /// The kernel's statistics of the connection: round-trip time, losses and retransmissions,
    /// bytes in flight. One system call.
    ///
    /// # Errors
    /// Returns the error of getsockopt(2).
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        TcpInfo::of(self.core.transport.socket()?)
    }

    /// The number of bytes that the kernel has taken and the peer has not acknowledged
    /// (`SIOCOUTQ`), without those still [queued](TcpConnection::unsent). One system call.
    ///
    /// # Errors
    /// Returns the error of the ioctl (tcp(7)).
    pub fn unacknowledged(&self) -> io::Result<u32> {
        stream::unacknowledged(self.core.transport.socket()?)
    }
}
