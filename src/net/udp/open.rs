//! Creates a UDP socket, or prepares one that the program has.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::sys::adopted::{Flags, check_udp};
use crate::net::sys::int_options::report_destinations;

#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) peer: Option<SocketAddr>,
    pub(super) reuse_address: bool,
    pub(super) reuse_port: bool,
    pub(super) broadcast: bool,
    pub(super) only_v6: Option<bool>,
    pub(super) receive_buffer: Option<usize>,
    pub(super) send_buffer: Option<usize>,
    pub(super) ttl: Option<u32>,
    pub(super) multicast_ttl: Option<u32>,
    pub(super) no_multicast_loop: bool,
    pub(super) groups_v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    pub(super) groups_v6: Vec<(Ipv6Addr, u32)>,
}

/// Where a socket comes from.
pub(super) enum Origin {
    /// It is bound to the first of these addresses that can be bound.
    Addresses(Vec<SocketAddr>),
    /// A bound UDP socket that the program has. Its flags are still those of the caller.
    Adopted(OwnedFd),
}

impl Origin {
    pub(super) fn open(self, options: &Options) -> io::Result<OwnedFd> {
        check_hops("ttl", 1, options.ttl)?;
        check_hops("multicast_ttl", 0, options.multicast_ttl)?;
        match self {
            Origin::Addresses(addresses) => open_first(&addresses, options),
            Origin::Adopted(socket) => {
                adopt(&socket, options).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot adopt a UDP socket: {error}"))
                })?;
                Ok(socket)
            }
        }
    }
}

fn open_first(addresses: &[SocketAddr], options: &Options) -> io::Result<OwnedFd> {
    let mut first_error = None;
    for &address in addresses {
        match open(address, options) {
            Ok(fd) => return Ok(fd),
            Err(error) => {
                let error =
                    io::Error::new(error.kind(), format!("cannot create a UDP socket at {address}: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the address resolves to no socket address");
    Err(first_error.unwrap_or_else(none))
}

/// Outside of this range the kernel would take some numbers as its default.
fn check_hops(option: &str, least: u32, hops: Option<u32>) -> io::Result<()> {
    match hops {
        Some(hops) if !(least..=255).contains(&hops) => {
            let message = format!("{option}: {hops} is not a number from {least} to 255");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
        _ => Ok(()),
    }
}

fn open(address: SocketAddr, options: &Options) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if options.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    // Otherwise a socket at 0.0.0.0 would receive datagrams of groups that other sockets on this
    // machine have joined.
    match address {
        SocketAddr::V4(_) => socket.set_multicast_all_v4(false)?,
        SocketAddr::V6(_) => {
            // Linux before 4.20 has no such option, which is no reason to fail.
            let _ = socket.set_multicast_all_v6(false);
            if let Some(only) = options.only_v6 {
                socket.set_only_v6(only)?;
            }
        }
    }
    set_options(&socket, options, address, options.peer.is_some())?;
    socket.bind(&address.into())?;
    join_and_connect(&socket, options)?;
    Ok(socket.into())
}

fn adopt(socket: &OwnedFd, options: &Options) -> io::Result<()> {
    let (local, peer) = check_udp(socket)?;
    if options.reuse_address || options.reuse_port || options.only_v6.is_some() {
        let message =
            "it is bound, and reuse_address, reuse_port, only_v6 and dual_stack take effect before that";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let socket = SockRef::from(socket);
    set_options(&socket, options, local, peer.is_some() || options.peer.is_some())?;
    join_and_connect(&socket, options)?;
    Flags::prepare(&*socket)?;
    Ok(())
}

/// Sets the options that may be set before or after the bind.
fn set_options(socket: &Socket, options: &Options, local: SocketAddr, is_connected: bool) -> io::Result<()> {
    if options.broadcast {
        socket.set_broadcast(true)?;
    }
    if let Some(bytes) = options.receive_buffer {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        sockopt::set_socket_send_buffer_size(socket, bytes)?;
    }
    match local {
        SocketAddr::V4(_) => set_options_v4(socket, options)?,
        SocketAddr::V6(_) => set_options_v6(socket, options)?,
    }
    if !is_connected && local.ip().to_canonical().is_unspecified() {
        report_destinations(socket, local.is_ipv6())?;
    }
    Ok(())
}

fn join_and_connect(socket: &Socket, options: &Options) -> io::Result<()> {
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
    Ok(())
}

fn set_options_v4(socket: &Socket, options: &Options) -> io::Result<()> {
    if let Some(hops) = options.ttl {
        socket.set_ttl_v4(hops)?;
    }
    if let Some(hops) = options.multicast_ttl {
        socket.set_multicast_ttl_v4(hops)?;
    }
    if options.no_multicast_loop {
        socket.set_multicast_loop_v4(false)?;
    }
    Ok(())
}

fn set_options_v6(socket: &Socket, options: &Options) -> io::Result<()> {
    if let Some(hops) = options.ttl {
        socket.set_unicast_hops_v6(hops)?;
    }
    if let Some(hops) = options.multicast_ttl {
        socket.set_multicast_hops_v6(hops)?;
    }
    if options.no_multicast_loop {
        socket.set_multicast_loop_v6(false)?;
    }
    Ok(())
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Addresses(addresses) => addresses.fmt(f),
            Origin::Adopted(_) => f.write_str("a socket of the program"),
        }
    }
}
