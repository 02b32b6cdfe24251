//! Socket options with an integer value for which rustix and socket2 have no safe call.

#![allow(unsafe_code, reason = "setsockopt(2) of an option by its number has no safe call")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, socklen_t};

/// Makes a bind to port 0 leave the port open until the socket connects (`IP_BIND_ADDRESS_NO_PORT`,
/// ip(7)). The kernel then chooses a port that is free for that destination. Otherwise the bind
/// takes a port that is free for every destination, of which there are about 28,000. Valid for both
/// families.
pub(in crate::net) fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Makes the kernel report the destination address of each datagram (`IP_PKTINFO`,
/// `IPV6_RECVPKTINFO`). An IPv6 socket sets both options, since it may receive datagrams of both
/// families.
pub(in crate::net) fn report_destinations(socket: impl AsFd, is_v6: bool) -> io::Result<()> {
    if is_v6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    }
    set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

fn set(socket: impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. The pointer is to
    // a local `c_int`, whose size is `length`. The kernel reads at most `length` bytes and does not
    // keep the pointer.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
