//! How a UDP socket is to be, and its making.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{getpeername, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::UdpSocket;
use super::core::Core;
use super::driver::establish;
use super::handler::{DatagramHandler, OnDatagram};
use super::queue::Limits;
use super::udp_ref::UdpRef;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::net::result::IntoHandlerResult;
use crate::net::sys::int_options::report_destinations;
use crate::net::sys::stream::local_socket_addr;

#[derive(Clone, Debug, Default)]
struct Options {
    peer: Option<SocketAddr>,
    reuse_address: bool,
    reuse_port: bool,
    broadcast: bool,
    only_v6: Option<bool>,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    ttl: Option<u32>,
    multicast_ttl: Option<u32>,
    multicast_loop: Option<bool>,
    groups_v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    groups_v6: Vec<(Ipv6Addr, u32)>,
}

/// A UDP socket that is being made, from [`UdpSocket::bind`] or [`UdpSocket::connect`].
#[must_use = "a socket is made by `on_datagram` or `serve`"]
pub struct UdpSocketBuilder<'a> {
    event_loop: &'a EventLoop,
    addresses: Vec<SocketAddr>,
    options: Options,
    limits: Limits,
}

impl<'a> UdpSocketBuilder<'a> {
    pub(super) fn new(event_loop: &'a EventLoop, addresses: Vec<SocketAddr>) -> UdpSocketBuilder<'a> {
        let limits = Limits { datagrams: 1024, bytes: 1024 * 1024 };
        UdpSocketBuilder { event_loop, addresses, options: Options::default(), limits }
    }

    /// Connects the socket to `peer`: it receives from there only, [`send`](UdpSocket::send) sends there, and it is told when
    /// nobody listens there ([`DatagramHandler::on_error`]). No packet is sent for it.
    pub fn connect(mut self, peer: SocketAddr) -> Self {
        self.options.peer = Some(peer);
        self
    }

    /// Lets other sockets that ask for the same have the same address (`SO_REUSEPORT`, socket(7)). The kernel deals datagrams
    /// out among them by their source, so that those of one peer come to one socket.
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.options.reuse_port = reuse;
        self
    }

    /// Lets other sockets that ask for the same have the same address (`SO_REUSEADDR`, socket(7)). Each of them receives what
    /// is sent to a multicast group; anything else goes to one of them.
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.options.reuse_address = reuse;
        self
    }

    /// Allows broadcast addresses as destinations (`SO_BROADCAST`).
    pub fn broadcast(mut self, broadcast: bool) -> Self {
        self.options.broadcast = broadcast;
        self
    }

    /// Whether a socket at `[::]` leaves IPv4 alone (`IPV6_V6ONLY`); else as the system says (`net.ipv6.bindv6only`). Of no
    /// effect on an IPv4 socket.
    pub fn only_v6(mut self, only: bool) -> Self {
        self.options.only_v6 = Some(only);
        self
    }

    /// How many bytes the kernel may keep until they are received (`SO_RCVBUF`); what comes when it is full is lost. The kernel
    /// doubles it for its own needs, which it counts as well, and cuts it to `net.core.rmem_max`.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.options.receive_buffer = Some(bytes);
        self
    }

    /// How many bytes the kernel may keep until they are sent (`SO_SNDBUF`); when it is full the socket queues. The kernel
    /// doubles it for its own needs, which it counts as well, and cuts it to `net.core.wmem_max`.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.options.send_buffer = Some(bytes);
        self
    }

    /// Over how many routers a datagram may go, 1 to 255 (`IP_TTL`, `IPV6_UNICAST_HOPS`).
    pub fn ttl(mut self, routers: u32) -> Self {
        self.options.ttl = Some(routers);
        self
    }

    /// Over how many routers a datagram to a multicast group may go, 0 to 255; 1 if not told, the local network.
    pub fn multicast_ttl(mut self, routers: u32) -> Self {
        self.options.multicast_ttl = Some(routers);
        self
    }

    /// Whether what is sent to a multicast group is received on this machine as well; it is, if not told otherwise.
    pub fn multicast_loop(mut self, on_this_machine: bool) -> Self {
        self.options.multicast_loop = Some(on_this_machine);
        self
    }

    /// Joins a multicast group, as [`UdpRef::join_v4`]. May be called for several groups.
    pub fn join_v4(mut self, group: Ipv4Addr, interface: Ipv4Addr) -> Self {
        self.options.groups_v4.push((group, interface));
        self
    }

    /// Joins an IPv6 multicast group, as [`UdpRef::join_v6`]. May be called for several groups.
    pub fn join_v6(mut self, group: Ipv6Addr, interface: u32) -> Self {
        self.options.groups_v6.push((group, interface));
        self
    }

    /// How much may be queued while the kernel takes no more; a datagram that would pass either limit is refused with
    /// [`Full`](super::DatagramError::Full). Usually 1024 datagrams and 1 MiB. As much again may be on its way from other
    /// threads.
    pub fn max_unsent(mut self, datagrams: usize, bytes: usize) -> Self {
        self.limits = Limits { datagrams, bytes };
        self
    }

    /// Makes a socket that calls `on_datagram` with each datagram and the address it comes from.
    ///
    /// What `on_datagram` returns is nothing or a `Result`; an error is logged, at level debug, and the socket goes on. For
    /// anything else that goes wrong, write a [`DatagramHandler`].
    ///
    /// # Errors
    /// As [`serve`](UdpSocketBuilder::serve).
    pub fn serve_fn<F, R>(self, mut on_datagram: F) -> io::Result<UdpSocket>
    where
        F: FnMut(&UdpRef<'_>, &[u8], SocketAddr) -> R + 'static,
        R: IntoHandlerResult + 'static,
    {
        self.serve(OnDatagram(move |socket: &UdpRef<'_>, datagram: &[u8], from| {
            on_datagram(socket, datagram, from).into_result()
        }))
    }

    /// Makes a socket that calls `handler`.
    ///
    /// # Errors
    /// What the kernel says: an address in use, one that is not this machine's, a port that is not allowed, an option that it
    /// does not take, a peer that cannot be reached. The error names the address.
    pub fn serve<H: DatagramHandler>(self, handler: H) -> io::Result<UdpSocket> {
        let handler = Contained::new(handler);
        let UdpSocketBuilder { event_loop, addresses, options, limits } = self;
        let fd = make_first(&addresses, &options)?;
        let local = local_socket_addr(&fd)?;
        // As the kernel has it: a connection to 0.0.0.0 is one to 127.0.0.1.
        let peer = match options.peer {
            Some(_) => getpeername(&fd)?.and_then(|peer| SocketAddr::try_from(peer).ok()),
            None => None,
        };
        let core = establish(event_loop, |id| Core::new(id, fd, local, peer, limits), handler)?;
        Ok(UdpSocket::new(event_loop, &core))
    }
}

impl fmt::Debug for UdpSocketBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocketBuilder")
            .field("addresses", &self.addresses)
            .field("options", &self.options)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn make_first(addresses: &[SocketAddr], options: &Options) -> io::Result<OwnedFd> {
    check_routers("ttl", 1, options.ttl)?;
    check_routers("multicast_ttl", 0, options.multicast_ttl)?;
    let mut first_error = None;
    for &address in addresses {
        match make(address, options) {
            Ok(fd) => return Ok(fd),
            Err(error) => {
                let error = io::Error::new(error.kind(), format!("no UDP socket at {address}: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the address stands for no socket address");
    Err(first_error.unwrap_or_else(none))
}

/// The kernel would take some other numbers for its default.
fn check_routers(option: &str, least: u32, routers: Option<u32>) -> io::Result<()> {
    match routers {
        Some(routers) if !(least..=255).contains(&routers) => {
            let message = format!("{option}: {routers} is not a number from {least} to 255");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
        _ => Ok(()),
    }
}

fn make(address: SocketAddr, options: &Options) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if options.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.broadcast {
        socket.set_broadcast(true)?;
    }
    if let Some(bytes) = options.receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        sockopt::set_socket_send_buffer_size(&socket, bytes)?;
    }
    match address {
        SocketAddr::V4(_) => set_options_v4(&socket, options)?,
        SocketAddr::V6(_) => set_options_v6(&socket, options)?,
    }
    if options.peer.is_none() && address.ip().to_canonical().is_unspecified() {
        report_destinations(&socket, address.is_ipv6())?;
    }
    socket.bind(&address.into())?;
    for (group, interface) in &options.groups_v4 {
        socket.join_multicast_v4(group, interface)?;
    }
    for (group, interface) in &options.groups_v6 {
        socket.join_multicast_v6(group, *interface)?;
    }
    if let Some(peer) = options.peer {
        let error =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot connect to {peer}: {error}"));
        socket.connect(&peer.into()).map_err(error)?;
    }
    Ok(socket.into())
}

fn set_options_v4(socket: &Socket, options: &Options) -> io::Result<()> {
    // Else a socket at 0.0.0.0 would receive what is sent to groups that others on this machine have joined.
    socket.set_multicast_all_v4(false)?;
    if let Some(routers) = options.ttl {
        socket.set_ttl_v4(routers)?;
    }
    if let Some(routers) = options.multicast_ttl {
        socket.set_multicast_ttl_v4(routers)?;
    }
    if let Some(on_this_machine) = options.multicast_loop {
        socket.set_multicast_loop_v4(on_this_machine)?;
    }
    Ok(())
}

fn set_options_v6(socket: &Socket, options: &Options) -> io::Result<()> {
    // As above. Before Linux 4.20 there is no such option, and no need to do without sockets.
    let _ = socket.set_multicast_all_v6(false);
    if let Some(only) = options.only_v6 {
        socket.set_only_v6(only)?;
    }
    if let Some(routers) = options.ttl {
        socket.set_unicast_hops_v6(routers)?;
    }
    if let Some(routers) = options.multicast_ttl {
        socket.set_multicast_hops_v6(routers)?;
    }
    if let Some(on_this_machine) = options.multicast_loop {
        socket.set_multicast_loop_v6(on_this_machine)?;
    }
    Ok(())
}
