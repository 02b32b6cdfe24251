//! Socket options of a server or a client.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::Socket;

/// Options for the sockets of a server or a client.
///
/// A server sets them once, on its listening socket. The kernel copies them to each accepted
/// socket, so connections pay nothing for them. A client sets them before it connects.
///
/// Most are options of TCP and have no effect on Unix sockets. The exception is a client's
/// [`send_buffer`](SocketOptions::send_buffer). A Unix socket has no receive buffer, and its
/// listening socket does not pass its send buffer on to accepted sockets.
///
/// ```
/// use reveille::{EventLoop, TcpServer};
/// use reveille::net::{KeepAlive, SocketOptions};
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

/// TCP keep-alive (tcp(7)): probes an idle peer. The connection fails with
/// [`TimedOut`](io::ErrorKind::TimedOut) after `count` consecutive unanswered probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is for `SocketOptions::keep_alive`, or for a connection"]
pub struct KeepAlive {
    idle: Duration,
    interval: Option<Duration>,
    count: Option<u32>,
}

impl KeepAlive {
    /// Sends the first probe after the peer has been idle for `idle` (`TCP_KEEPIDLE`). Resolution:
    /// seconds, from 1 to 32767. The kernel rejects any other value, such as zero.
    pub fn new(idle: Duration) -> KeepAlive {
        KeepAlive { idle, interval: None, count: None }
    }

    /// The time between probes (`TCP_KEEPINTVL`). Resolution: seconds, from 1 to 32767. The kernel
    /// rejects any other value, such as zero. Default: the system's, which is 75 s unless
    /// configured otherwise.
    pub fn interval(mut self, interval: Duration) -> KeepAlive {
        self.interval = Some(interval);
        self
    }

    /// The number of consecutive unanswered probes that fail the connection (`TCP_KEEPCNT`), from 1
    /// to 127. Default: the system's, which is 9 unless configured otherwise.
    pub fn count(mut self, count: u32) -> KeepAlive {
        self.count = Some(count);
        self
    }

    /// # Errors
    /// The error of setsockopt(2), with the option's name.
    pub(super) fn apply(self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        with_option_name("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(socket, self.idle))?;
        if let Some(interval) = self.interval {
            with_option_name("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(socket, interval))?;
        }
        if let Some(count) = self.count {
            with_option_name("TCP_KEEPCNT", sockopt::set_tcp_keepcnt(socket, count))?;
        }
        with_option_name("SO_KEEPALIVE", sockopt::set_socket_keepalive(socket, true))
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
    /// The defaults: `TCP_NODELAY` is set, everything else is as the system has it.
    pub fn new() -> SocketOptions {
        SocketOptions::default()
    }

    /// Lets the kernel delay small writes to combine them (Nagle's algorithm, RFC 896). Default:
    /// they are sent at once (`TCP_NODELAY`).
    pub fn delay_small_writes(mut self) -> SocketOptions {
        self.nodelay = false;
        self
    }

    /// Enables keep-alive probes, which detect that a peer has disappeared while nothing is being
    /// sent (`SO_KEEPALIVE`). Default: none.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> SocketOptions {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// How long sent data may stay unacknowledged, or unsent because of a closed receive window,
    /// before the connection fails with [`TimedOut`](io::ErrorKind::TimedOut) (`TCP_USER_TIMEOUT`).
    /// Resolution: milliseconds, rounded up. Default, and with a timeout of zero: the limit of
    /// retransmission, about a quarter of an hour; for a peer that does not read, there is no
    /// limit.
    ///
    /// With [keep-alive](SocketOptions::keep_alive), the connection fails after this timeout, not
    /// after the count of probes.
    pub fn user_timeout(mut self, timeout: Duration) -> SocketOptions {
        self.user_timeout = Some(timeout);
        self
    }

    /// The size of the kernel's send buffer, in bytes: data that is unsent or unacknowledged
    /// (`SO_SNDBUF`). The kernel doubles the number for its own bookkeeping and limits it to
    /// `net.core.wmem_max`. Default: the kernel adjusts the size automatically; setting one
    /// disables that.
    pub fn send_buffer(mut self, bytes: usize) -> SocketOptions {
        self.send_buffer = Some(bytes);
        self
    }

    /// The size of the kernel's receive buffer, in bytes (`SO_RCVBUF`). Same as for the [send
    /// buffer](SocketOptions::send_buffer), with `net.core.rmem_max`.
    pub fn receive_buffer(mut self, bytes: usize) -> SocketOptions {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Shares the address and port with other sockets that also set this option (`SO_REUSEPORT`,
    /// socket(7)): several processes of one user, among which the kernel distributes incoming
    /// connections. Default: off. The loops of one server do not need it:
    /// [`ListenerPerLoop`](crate::net::LoadBalancing::ListenerPerLoop) sets it itself.
    pub fn reuse_port(mut self) -> SocketOptions {
        self.reuse_port = true;
        self
    }

    /// Restricts an IPv6 socket to IPv6 (`IPV6_V6ONLY`, ipv6(7)). Default: the system's setting
    /// (`net.ipv6.bindv6only`). No effect on an IPv4 socket.
    pub fn only_v6(mut self) -> SocketOptions {
        self.only_v6 = Some(true);
        self
    }

    /// Lets an IPv6 socket accept IPv4 too, whose addresses it maps to IPv6. The opposite of
    /// [`only_v6`](SocketOptions::only_v6).
    pub fn dual_stack(mut self) -> SocketOptions {
        self.only_v6 = Some(false);
        self
    }

    /// Binds the sockets to a network interface, for example `eth0` (`SO_BINDTODEVICE`, socket(7)).
    /// Default: any interface.
    pub fn device(mut self, name: impl Into<String>) -> SocketOptions {
        self.device = Some(name.into().into_boxed_str());
        self
    }

    /// Sets the options that apply to a Unix socket. The socket is not connected yet.
    ///
    /// # Errors
    /// The error of setsockopt(2), with the option's name.
    pub(super) fn apply_to_unix(&self, socket: &Socket) -> io::Result<()> {
        match self.send_buffer {
            Some(bytes) => with_option_name("SO_SNDBUF", sockopt::set_socket_send_buffer_size(socket, bytes)),
            None => Ok(()),
        }
    }

    /// Sets the options on a socket that is neither bound nor connected. Some of them affect the
    /// bind or the connect, and the buffer sizes affect what is negotiated in the handshake.
    ///
    /// # Errors
    /// The error of setsockopt(2), with the option's name.
    pub(super) fn apply(&self, socket: &Socket, is_v6: bool) -> io::Result<()> {
        if self.nodelay {
            with_option_name("TCP_NODELAY", sockopt::set_tcp_nodelay(socket, true))?;
        }
        if let Some(keep_alive) = self.keep_alive {
            keep_alive.apply(socket)?;
        }
        if let Some(timeout) = self.user_timeout {
            set_user_timeout(socket, timeout)?;
        }
        if let Some(bytes) = self.send_buffer {
            with_option_name("SO_SNDBUF", sockopt::set_socket_send_buffer_size(socket, bytes))?;
        }
        if let Some(bytes) = self.receive_buffer {
            with_option_name("SO_RCVBUF", sockopt::set_socket_recv_buffer_size(socket, bytes))?;
        }
        if self.reuse_port {
            with_option_name("SO_REUSEPORT", sockopt::set_socket_reuseport(socket, true))?;
        }
        if let Some(only_v6) = self.only_v6.filter(|_| is_v6) {
            with_option_name("IPV6_V6ONLY", sockopt::set_ipv6_v6only(socket, only_v6))?;
        }
        if let Some(device) = &self.device {
            with_option_name("SO_BINDTODEVICE", bind_to_device(socket, device))?;
        }
        Ok(())
    }
}

/// Sets `TCP_USER_TIMEOUT`.
///
/// # Errors
/// The error of setsockopt(2), with the option's name.
pub(super) fn set_user_timeout(socket: impl AsFd, timeout: Duration) -> io::Result<()> {
    // The kernel counts milliseconds. 0 selects its default timeout.
    let millis = u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
    with_option_name("TCP_USER_TIMEOUT", sockopt::set_tcp_user_timeout(socket, millis))
}

fn bind_to_device(socket: &Socket, name: &str) -> io::Result<()> {
    // The kernel truncates a name at its 16th byte and at a 0 byte, and takes an empty name as any
    // device.
    if name.is_empty() || name.len() > 15 || name.contains(['\0', '/']) {
        let message = format!("{name:?} is not the name of a network interface");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    socket.bind_device(Some(name.as_bytes()))
}

fn with_option_name<E: Into<io::Error>>(option: &str, result: Result<(), E>) -> io::Result<()> {
    result.map_err(|error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("cannot set {option}: {error}"))
    })
}
