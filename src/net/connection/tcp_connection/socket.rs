//! What a connection knows of its two ends, and the options of its socket.

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
    /// The address of the other end, whatever the family, as the kernel has it: a client that connects to `0.0.0.0` has the peer
    /// `127.0.0.1`. The peer of a client on a Unix socket is the address that it has connected to; a server's peers on one are mostly
    /// unnamed.
    pub fn peer(&self) -> &'a Address {
        self.core.peer()
    }

    /// The IP address and port of the other end; `None` on a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.core.peer().as_inet()
    }

    /// The address of this end, whatever the family.
    ///
    /// # Errors
    /// What the kernel says (getsockname(2)).
    pub fn local(&self) -> io::Result<Address> {
        stream::local_name(&self.core.fd)
    }

    /// The IP address and port of this end.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) on a Unix socket, and what the kernel says (getsockname(2)).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let none = || io::Error::new(io::ErrorKind::Unsupported, "a Unix socket has no IP address");
        self.local()?.as_inet().ok_or_else(none)
    }

    /// Who is at the other end of a Unix socket: the process, its user and its group, when it connected or began to listen. One
    /// system call (`SO_PEERCRED`, unix(7)).
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a TCP connection, and what the kernel says.
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        PeerCredentials::of(&self.core.fd, self.core.peer())
    }

    /// Whether small writes go out at once (`TCP_NODELAY`), as they do unless the server was told otherwise.
    ///
    /// # Errors
    /// What the kernel says (setsockopt(2)).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        stream::set_nodelay(&self.core.fd, nodelay)
    }

    /// Has the kernel find out that the peer has gone while nothing is being sent, or no longer, as
    /// [`SocketOptions::keep_alive`](crate::SocketOptions::keep_alive).
    ///
    /// # Errors
    /// What the kernel says (setsockopt(2)).
    pub fn set_keep_alive(&self, keep_alive: Option<KeepAlive>) -> io::Result<()> {
        match keep_alive {
            Some(keep_alive) => keep_alive.apply(&self.core.fd),
            None => stream::end_keep_alive(&self.core.fd),
        }
    }

    /// How long what was sent may stay unacknowledged, as [`SocketOptions::user_timeout`](crate::SocketOptions::user_timeout); zero
    /// stands for what is usual.
    ///
    /// # Errors
    /// What the kernel says (setsockopt(2)).
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        options::set_user_timeout(&self.core.fd, timeout)
    }

    /// Whether what comes is acknowledged at once, and not with the answer (`TCP_QUICKACK`). The kernel changes it by itself as the
    /// connection goes on (tcp(7)), so it is to be set again whenever it matters.
    ///
    /// # Errors
    /// What the kernel says (setsockopt(2)).
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        stream::set_quickack(&self.core.fd, quickack)
    }

    /// What the kernel knows of the connection: its round-trip time, what was lost and sent again, what is on its way. One
    /// system call.
    ///
    /// # Errors
    /// What the kernel says (getsockopt(2)).
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        TcpInfo::of(&self.core.fd)
    }

    /// How many bytes the kernel has taken and the peer has not acknowledged (`SIOCOUTQ`); what is still
    /// [queued](TcpConnection::unsent) comes on top. One system call.
    ///
    /// # Errors
    /// What the kernel says (tcp(7)).
    pub fn unacknowledged(&self) -> io::Result<u32> {
        stream::unacknowledged(&self.core.fd)
    }
}
