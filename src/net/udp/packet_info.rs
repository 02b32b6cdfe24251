//! The system calls that receive a datagram with its destination, and send one with its source.
//!
//! The kernel passes both in control messages (`IP_PKTINFO`, ip(7); `IPV6_PKTINFO`, ipv6(7)), which
//! rustix and socket2 cannot read or write. They are read and written here as bytes.

#![allow(unsafe_code, reason = "recvmsg(2) and sendmsg(2) with IP_PKTINFO have no safe wrapper")]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, cmsghdr, in_pktinfo, in6_pktinfo, iovec, msghdr, sockaddr_in, sockaddr_in6};
use socket2::SockAddr;

use super::destination::{UdpDestination, UdpSource};

/// The alignment of the parts of a control message.
const ALIGNMENT: usize = size_of::<usize>();

/// The offset of a control message's data.
const HEADER: usize = size_of::<cmsghdr>().next_multiple_of(ALIGNMENT);

/// Space for the control messages of both families, and for others that the user may have enabled.
const CONTROL_LEN: usize = 256;

/// Space for one control message of either family.
const ONE_MESSAGE_LEN: usize = HEADER + size_of::<in6_pktinfo>().next_multiple_of(ALIGNMENT);

/// Bytes with the alignment of the kernel's structures.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// A datagram that was received.
pub(super) struct ReceivedDatagram {
    /// Its length, which may exceed the buffer.
    pub(super) bytes: usize,
    pub(super) from: Option<SocketAddr>,
    pub(super) destination: Option<UdpDestination>,
}

/// Receives one datagram into `into`.
///
/// # Errors
/// The error of recvmsg(2).
pub(super) fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<ReceivedDatagram> {
    let mut name = Aligned([0; size_of::<sockaddr_in6>()]);
    let mut control = Aligned([0; CONTROL_LEN]);
    let mut slice = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: `msghdr` consists of integers and pointers, for all of which zero is a valid value.
    let mut header: msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.0.as_mut_ptr().cast();
    header.msg_namelen = name.0.len() as _;
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let bytes = retry_on_interrupt(|| {
        // SAFETY: the descriptor is open, as it is borrowed for longer than the call. Each pointer
        // of `header` points to memory of this function or its caller that is writable for the
        // accompanying length and not borrowed elsewhere; every byte value is valid there. The
        // kernel keeps none of the pointers. A call that fails with EINTR writes nothing, so the
        // lengths are still valid for the retry.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_TRUNC) }
    })?;
    let control = &control.0[..CONTROL_LEN.min(header.msg_controllen as usize)];
    Ok(ReceivedDatagram { bytes, from: address(&name.0), destination: destination(control) })
}

/// Sends one datagram from `source`.
///
/// # Errors
/// The error of sendmsg(2): `EINVAL` or `ENETUNREACH` for a source that is not a local address.
/// [`Unsupported`](io::ErrorKind::Unsupported) if the source and the destination are of different
/// families, since the kernel would ignore the source.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddr,
    source: UdpSource,
) -> io::Result<usize> {
    if to.ip().to_canonical().is_ipv4() != source.ip().is_ipv4() {
        let message = format!("a datagram to {to} cannot be sent from {}", source.ip());
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let name = SockAddr::from(to);
    let mut control = Aligned([0; ONE_MESSAGE_LEN]);
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
    retry_on_interrupt(|| {
        // SAFETY: the descriptor is open, as it is borrowed for longer than the call. Each pointer
        // of `header` points to memory that is readable for the accompanying length and lives until
        // this function returns. The call only reads through them and keeps none of them.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) }
    })
}

fn retry_on_interrupt(mut call: impl FnMut() -> isize) -> io::Result<usize> {
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

/// Reads a socket address that the kernel wrote.
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

/// Returns the destination if a control message contains it. An IPv6 socket receives two messages
/// for an IPv4 datagram, one of each family. Only the IPv4 message shows whether the address is
/// local.
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
        control = control.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    found
}

fn destination_v4(data: &[u8]) -> Option<UdpDestination> {
    let ip: fn([u8; 4]) -> Ipv4Addr = Ipv4Addr::from;
    let address = ip(field(data, mem::offset_of!(in_pktinfo, ipi_addr))?);
    let local = ip(field(data, mem::offset_of!(in_pktinfo, ipi_spec_dst))?);
    let interface = u32::from_ne_bytes(field(data, mem::offset_of!(in_pktinfo, ipi_ifindex))?);
    // For a multicast group or a broadcast address the kernel returns an address of the interface
    // as the local one.
    let source = (address == local).then(|| UdpSource::from(address));
    Some(UdpDestination { ip: address.into(), interface, source })
}

fn destination_v6(data: &[u8]) -> Option<UdpDestination> {
    let ip: [u8; 16] = field(data, mem::offset_of!(in6_pktinfo, ipi6_addr))?;
    let interface = u32::from_ne_bytes(field(data, mem::offset_of!(in6_pktinfo, ipi6_ifindex))?);
    let address = Ipv6Addr::from(ip);
    let source = (!address.is_multicast()).then(|| {
        let source = UdpSource::from(address);
        if address.is_unicast_link_local() { source.through(interface) } else { source }
    });
    Some(UdpDestination { ip: IpAddr::from(address).to_canonical(), interface, source })
}

/// Writes the control message that sets the source. Returns its length.
fn write_source(control: &mut [u8; ONE_MESSAGE_LEN], source: UdpSource) -> usize {
    let interface = source.interface().to_ne_bytes();
    let (level, kind, length) = match source.ip() {
        IpAddr::V4(address) => {
            write_at(control, HEADER + mem::offset_of!(in_pktinfo, ipi_ifindex), &interface);
            write_at(control, HEADER + mem::offset_of!(in_pktinfo, ipi_spec_dst), &address.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<in_pktinfo>())
        }
        IpAddr::V6(address) => {
            write_at(control, HEADER + mem::offset_of!(in6_pktinfo, ipi6_addr), &address.octets());
            write_at(control, HEADER + mem::offset_of!(in6_pktinfo, ipi6_ifindex), &interface);
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<in6_pktinfo>())
        }
    };
    write_at(control, mem::offset_of!(cmsghdr, cmsg_len), &(HEADER + length).to_ne_bytes());
    write_at(control, mem::offset_of!(cmsghdr, cmsg_level), &level.to_ne_bytes());
    write_at(control, mem::offset_of!(cmsghdr, cmsg_type), &kind.to_ne_bytes());
    HEADER + length.next_multiple_of(ALIGNMENT)
}

fn write_at(into: &mut [u8], at: usize, bytes: &[u8]) {
    into[at..at + bytes.len()].copy_from_slice(bytes);
}
