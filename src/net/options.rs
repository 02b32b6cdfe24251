//! The options of a socket that a server or a client is to have.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::Socket;

/// The options of the sockets of a server or a client.
///
/// A server sets them once, on the socket that listens; the kernel hands them on to every connection, so they cost it nothing. A
/// client sets them before it connects.
///
/// Nearly all are TCP's. On Unix sockets they have no effect, but for a client's
/// [`send_buffer`](SocketOptions::send_buffer): such a socket has no buffer for receiving, and a server's does not hand its own on.
///
/// ```
/// use reveille::{EventLoop, KeepAlive, SocketOptions, TcpServer};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let options = SocketOptions::new()
///     .keep_alive(KeepAlive::new(Duration::from_secs(60)))
///     .user_timeout(Duration::from_secs(30));
/// let _server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
///     .socket_options(options)
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "options are for a server or a client to have"]
pub struct SocketOptions {
    nodelay: bool,
    keep_alive: Option<KeepAlive>,
    user_timeout: Option<Duration>,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
    reuse_port: bool,
    only_v6: Option<bool>,
    device: Option<Box<str>>,
}

/// How the kernel finds out that a peer has gone without a word (tcp(7)): when nothing has come for a while it asks, and if there is
/// no answer time after time the connection ends with [`TimedOut`](io::ErrorKind::TimedOut).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is for `SocketOptions::keep_alive`, or for a connection"]
pub struct KeepAlive {
    idle: Duration,
    interval: Option<Duration>,
    count: Option<u32>,
}

impl KeepAlive {
    /// Asks when nothing has come for so long (`TCP_KEEPIDLE`). To the second, from 1 to 32767.
    pub fn new(idle: Duration) -> KeepAlive {
        KeepAlive { idle, interval: None, count: None }
    }

    /// How long to wait for an answer before asking again (`TCP_KEEPINTVL`). To the second, from 1 to 32767. Usually what the
    /// system says, which is 75 s unless it was told otherwise.
    pub fn interval(mut self, interval: Duration) -> KeepAlive {
        self.interval = Some(interval);
        self
    }

    /// How many questions in a row without an answer end the connection (`TCP_KEEPCNT`), from 1 to 127. Usually what the system says,
    /// which is 9 unless it was told otherwise.
    pub fn count(mut self, count: u32) -> KeepAlive {
        self.count = Some(count);
        self
    }

    /// # Errors
    /// What the kernel says, with the option's name.
    pub(super) fn apply(self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        named("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(socket, self.idle))?;
        if let Some(interval) = self.interval {
            named("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(socket, interval))?;
        }
        if let Some(count) = self.count {
            named("TCP_KEEPCNT", sockopt::set_tcp_keepcnt(socket, count))?;
        }
        named("SO_KEEPALIVE", sockopt::set_socket_keepalive(socket, true))
    }
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            nodelay: true,
            keep_alive: None,
            user_timeout: None,
            send_buffer: None,
            receive_buffer: None,
            reuse_port: false,
            only_v6: None,
            device: None,
        }
    }
}

impl SocketOptions {
    /// The usual ones: small writes go out at once, and all else is as the system has it.
    pub fn new() -> SocketOptions {
        SocketOptions::default()
    }

    /// Whether small writes go out at once (`TCP_NODELAY`). Usually they do.
    pub fn nodelay(mut self, nodelay: bool) -> SocketOptions {
        self.nodelay = nodelay;
        self
    }

    /// Has the kernel find out that a peer has gone while nothing is being sent (`SO_KEEPALIVE`). Usually it does not.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> SocketOptions {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// How long what was sent may stay unacknowledged, or find no room at the peer's, before the connection ends with
    /// [`TimedOut`](io::ErrorKind::TimedOut) (`TCP_USER_TIMEOUT`). To the millisecond, rounded up. Usually what retransmitting takes to
    /// give up, which is about a quarter of an hour, and for a peer that does not read, for ever.
    ///
    /// With [keep-alive](SocketOptions::keep_alive) it is this, and not the count, that says when to give up.
    pub fn user_timeout(mut self, timeout: Duration) -> SocketOptions {
        self.user_timeout = Some(timeout);
        self
    }

    /// How many bytes the kernel may hold that are sent and not acknowledged, or not sent (`SO_SNDBUF`). The kernel doubles the number
    /// for its own bookkeeping, and cuts it to `net.core.wmem_max`. Usually it grows and shrinks by itself, which this ends.
    pub fn send_buffer(mut self, bytes: usize) -> SocketOptions {
        self.send_buffer = Some(bytes);
        self
    }

    /// How many received bytes the kernel may hold (`SO_RCVBUF`); as for the [send buffer](SocketOptions::send_buffer), with
    /// `net.core.rmem_max`.
    pub fn receive_buffer(mut self, bytes: usize) -> SocketOptions {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Whether others who ask for it as well may have the same address and port (`SO_REUSEPORT`, socket(7)): several processes of
    /// one user, among which the kernel shares out what comes. Usually nobody may. Loops of one server need it not:
    /// [`ListenerPerLoop`](crate::LoadBalancing::ListenerPerLoop) sets it for itself.
    pub fn reuse_port(mut self, reuse_port: bool) -> SocketOptions {
        self.reuse_port = reuse_port;
        self
    }

    /// Whether a socket for IPv6 keeps to it, or takes IPv4 too (`IPV6_V6ONLY`, ipv6(7)). Usually as the system says
    /// (`net.ipv6.bindv6only`). Without effect on a socket for IPv4.
    pub fn only_v6(mut self, only_v6: bool) -> SocketOptions {
        self.only_v6 = Some(only_v6);
        self
    }

    /// The network interface that the sockets keep to, as `eth0` (`SO_BINDTODEVICE`, socket(7)). Usually any.
    pub fn device(mut self, name: impl Into<String>) -> SocketOptions {
        self.device = Some(name.into().into_boxed_str());
        self
    }

    /// Sets those that concern a Unix socket, which is not connected yet.
    ///
    /// # Errors
    /// What the kernel says, with the option's name.
    pub(super) fn apply_to_unix(&self, socket: &Socket) -> io::Result<()> {
        match self.send_buffer {
            Some(bytes) => named("SO_SNDBUF", sockopt::set_socket_send_buffer_size(socket, bytes)),
            None => Ok(()),
        }
    }

    /// Sets them on a socket that is neither bound nor connected: some have a say in just that, and the buffers in what is agreed on
    /// when a connection is made.
    ///
    /// # Errors
    /// What the kernel says, with the option's name.
    pub(super) fn apply(&self, socket: &Socket, is_v6: bool) -> io::Result<()> {
        if self.nodelay {
            named("TCP_NODELAY", sockopt::set_tcp_nodelay(socket, true))?;
        }
        if let Some(keep_alive) = self.keep_alive {
            keep_alive.apply(socket)?;
        }
        if let Some(timeout) = self.user_timeout {
            set_user_timeout(socket, timeout)?;
        }
        if let Some(bytes) = self.send_buffer {
            named("SO_SNDBUF", sockopt::set_socket_send_buffer_size(socket, bytes))?;
        }
        if let Some(bytes) = self.receive_buffer {
            named("SO_RCVBUF", sockopt::set_socket_recv_buffer_size(socket, bytes))?;
        }
        if self.reuse_port {
            named("SO_REUSEPORT", sockopt::set_socket_reuseport(socket, true))?;
        }
        if let Some(only_v6) = self.only_v6.filter(|_| is_v6) {
            named("IPV6_V6ONLY", sockopt::set_ipv6_v6only(socket, only_v6))?;
        }
        if let Some(device) = &self.device {
            named("SO_BINDTODEVICE", bind_to_device(socket, device))?;
        }
        Ok(())
    }
}

/// # Errors
/// What the kernel says, with the option's name.
pub(super) fn set_user_timeout(socket: impl AsFd, timeout: Duration) -> io::Result<()> {
    // The kernel counts milliseconds, and none stands for its usual patience.
    let millis = u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
    named("TCP_USER_TIMEOUT", sockopt::set_tcp_user_timeout(socket, millis))
}

fn bind_to_device(socket: &Socket, name: &str) -> io::Result<()> {
    // The kernel cuts a name at its 16th byte and at a byte 0, and takes an empty one as any device.
    if name.is_empty() || name.len() > 15 || name.contains(['\0', '/']) {
        let message = format!("{name:?} is not the name of a network interface");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    socket.bind_device(Some(name.as_bytes()))
}

fn named<E: Into<io::Error>>(option: &str, result: Result<(), E>) -> io::Result<()> {
    result.map_err(|error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("cannot set {option}: {error}"))
    })
}
