//! Receiving a datagram with its destination, and sending one with its source: the system calls.
//!
//! The kernel passes both in control messages (`IP_PKTINFO`, ip(7); `IPV6_PKTINFO`, ipv6(7)), which the crates below cannot read or
//! write. They are read and written here as bytes.

#![allow(unsafe_code, reason = "recvmsg(2) and sendmsg(2) with IP_PKTINFO have no safe call")]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, cmsghdr, in_pktinfo, in6_pktinfo, iovec, msghdr, sockaddr_in, sockaddr_in6};
use socket2::SockAddr;

use super::destination::{UdpDestination, UdpSource};

/// What the kernel rounds the parts of a control message up to.
const UNIT: usize = size_of::<usize>();

/// Where the data of a control message begins.
const HEADER: usize = size_of::<cmsghdr>().next_multiple_of(UNIT);

/// Room for control messages of both families, and for some that a user may have enabled.
const ROOM: usize = 256;

/// Room for one control message of either family.
const ROOM_OF_ONE: usize = HEADER + size_of::<in6_pktinfo>().next_multiple_of(UNIT);

/// Bytes with the alignment that the kernel's structures need.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// A datagram that was received.
pub(super) struct Arrived {
    /// Its length, which may be more than there was room for.
    pub(super) bytes: usize,
    pub(super) from: Option<SocketAddr>,
    pub(super) destination: Option<UdpDestination>,
}

/// Receives one datagram into `into`.
///
/// # Errors
/// What the kernel returns.
pub(super) fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Arrived> {
    let mut name = Aligned([0; size_of::<sockaddr_in6>()]);
    let mut control = Aligned([0; ROOM]);
    let mut slice = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: `msghdr` consists of integers and of pointers, for all of which zero is a value.
    let mut header: msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.0.as_mut_ptr().cast();
    header.msg_namelen = name.0.len() as _;
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let bytes = uninterrupted(|| {
        // SAFETY: the descriptor is open, as it is borrowed for longer than the call. Each pointer of `header` is to memory of this
        // function's or its caller's that is writable for the length beside it and borrowed by nobody else, and any byte is a value
        // there. The kernel keeps none of them. A call that is interrupted writes nothing, so the lengths are still right when it is
        // made again.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_TRUNC) }
    })?;
    let control = &control.0[..ROOM.min(header.msg_controllen as usize)];
    Ok(Arrived { bytes, from: address(&name.0), destination: destination(control) })
}

/// Sends one datagram from `source`.
///
/// # Errors
/// What the kernel returns: `EINVAL` or `ENETUNREACH` for a source that is not an address of this machine. [`Unsupported`](io::ErrorKind::Unsupported) if
/// the source and the destination are of different families, for which the kernel would ignore the source.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddr,
    source: UdpSource,
) -> io::Result<usize> {
    if to.ip().to_canonical().is_ipv4() != source.address().is_ipv4() {
        let message = format!("a datagram to {to} cannot come from {}", source.address());
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let name = SockAddr::from(to);
    let mut control = Aligned([0; ROOM_OF_ONE]);
    let length = write_source(&mut control.0, source);
    let mut slice = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: as in `receive`.
    let mut header: msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.as_ptr().cast::<c_void>().cast_mut();
    header.msg_namelen = name.len();
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = length as _;
    uninterrupted(|| {
        // SAFETY: the descriptor is open, as it is borrowed for longer than the call. Each pointer of `header` is to memory that is
        // readable for the length beside it and lives until this function returns. The call only reads through them and keeps none.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) }
    })
}

fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A socket address as the kernel writes it.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let port = |at| Some(u16::from_be_bytes(field(name, at)?));
    match c_int::from(libc::sa_family_t::from_ne_bytes(field(name, 0)?)) {
        libc::AF_INET => {
            let ip: [u8; 4] = field(name, mem::offset_of!(sockaddr_in, sin_addr))?;
            Some(SocketAddrV4::new(ip.into(), port(mem::offset_of!(sockaddr_in, sin_port))?).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = field(name, mem::offset_of!(sockaddr_in6, sin6_addr))?;
            let flow = u32::from_ne_bytes(field(name, mem::offset_of!(sockaddr_in6, sin6_flowinfo))?);
            let scope = u32::from_ne_bytes(field(name, mem::offset_of!(sockaddr_in6, sin6_scope_id))?);
            let port = port(mem::offset_of!(sockaddr_in6, sin6_port))?;
            Some(SocketAddrV6::new(ip.into(), port, flow, scope).into())
        }
        _ => None,
    }
}

/// The destination, if a control message has it. An IPv6 socket has one message of each family for an IPv4 datagram, of which only that
/// of IPv4 says whether the address is one of this machine's.
fn destination(mut control: &[u8]) -> Option<UdpDestination> {
    let mut found = None;
    while let Some(length) = field(control, mem::offset_of!(cmsghdr, cmsg_len)).map(usize::from_ne_bytes) {
        let Some(data) = control.get(HEADER..length) else { break };
        let number = |at| Some(c_int::from_ne_bytes(field(control, at)?));
        let level = number(mem::offset_of!(cmsghdr, cmsg_level))?;
        match (level, number(mem::offset_of!(cmsghdr, cmsg_type))?) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => return destination_v4(data),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => found = destination_v6(data),
            _ => {}
        }
        control = control.get(length.next_multiple_of(UNIT)..).unwrap_or_default();
    }
    found
}

fn destination_v4(data: &[u8]) -> Option<UdpDestination> {
    let ip: fn([u8; 4]) -> Ipv4Addr = Ipv4Addr::from;
    let address = ip(field(data, mem::offset_of!(in_pktinfo, ipi_addr))?);
    let local = ip(field(data, mem::offset_of!(in_pktinfo, ipi_spec_dst))?);
    let interface = u32::from_ne_bytes(field(data, mem::offset_of!(in_pktinfo, ipi_ifindex))?);
    // For a group or a broadcast address the kernel returns an address of the interface as the local one.
    let source = (address == local).then(|| UdpSource::from(address));
    Some(UdpDestination { address: address.into(), interface, source })
}

fn destination_v6(data: &[u8]) -> Option<UdpDestination> {
    let ip: [u8; 16] = field(data, mem::offset_of!(in6_pktinfo, ipi6_addr))?;
    let interface = u32::from_ne_bytes(field(data, mem::offset_of!(in6_pktinfo, ipi6_ifindex))?);
    let address = Ipv6Addr::from(ip);
    let source = (!address.is_multicast()).then(|| {
        let source = UdpSource::from(address);
        if address.is_unicast_link_local() { source.through(interface) } else { source }
    });
    Some(UdpDestination { address: IpAddr::from(address).to_canonical(), interface, source })
}

/// Writes the control message that sets the source. Returns its length.
fn write_source(control: &mut [u8; ROOM_OF_ONE], source: UdpSource) -> usize {
    let interface = source.interface().to_ne_bytes();
    let (level, kind, length) = match source.address() {
        IpAddr::V4(address) => {
            put(control, HEADER + mem::offset_of!(in_pktinfo, ipi_ifindex), &interface);
            put(control, HEADER + mem::offset_of!(in_pktinfo, ipi_spec_dst), &address.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<in_pktinfo>())
        }
        IpAddr::V6(address) => {
            put(control, HEADER + mem::offset_of!(in6_pktinfo, ipi6_addr), &address.octets());
            put(control, HEADER + mem::offset_of!(in6_pktinfo, ipi6_ifindex), &interface);
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<in6_pktinfo>())
        }
    };
    put(control, mem::offset_of!(cmsghdr, cmsg_len), &(HEADER + length).to_ne_bytes());
    put(control, mem::offset_of!(cmsghdr, cmsg_level), &level.to_ne_bytes());
    put(control, mem::offset_of!(cmsghdr, cmsg_type), &kind.to_ne_bytes());
    HEADER + length.next_multiple_of(UNIT)
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    into[at..at + bytes.len()].copy_from_slice(bytes);
}
