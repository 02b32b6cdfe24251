//! Sending and receiving descriptors along with bytes: the system calls, for Unix sockets only.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::stream::{Transferred, transferred};
use super::tcp_info::set_pass_rights;
use crate::event_loop::containment::logger;
use crate::net::address::Address;
use crate::net::disposal::close_descriptors;

/// How many descriptors the kernel takes in one message (`SCM_MAX_FD`, unix(7)).
pub(in crate::net) const MOST: u8 = 253;

/// Enough for as many.
const ROOM: usize = rustix::cmsg_space!(ScmRights(MOST as usize));

/// Sends `bytes` and, with the first of them, `descriptors`: if any byte is taken, so are they. Neither may be none.
pub(in crate::net) fn send_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> io::Result<Transferred> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let slices = [IoSlice::new(bytes)];
    transferred(retry_on_intr(|| rustix::net::sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)))
}

/// Whether the kernel has refused to send descriptors because the user has too many on their way, in all processes together
/// (`RLIMIT_NOFILE`, unix(7)). This ends when receivers have taken some, which nothing reports.
pub(in crate::net) fn are_too_many(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
}

/// Has the kernel refuse descriptors that a peer sends from now on, or take them again. Returns false if it cannot refuse them, as before
/// Linux 6.16.
pub(in crate::net) fn refuse_descriptors(socket: BorrowedFd<'_>, refuse: bool) -> bool {
    static IS_UNKNOWN: AtomicBool = AtomicBool::new(false);
    if IS_UNKNOWN.load(Relaxed) {
        return false;
    }
    match set_pass_rights(socket, !refuse) {
        Ok(()) => true,
        Err(error) => {
            if error.raw_os_error() == Some(Errno::NOPROTOOPT.raw_os_error()) {
                IS_UNKNOWN.store(true, Relaxed);
            } else {
                logger::call(|| log::debug!("cannot set SO_PASSRIGHTS: {error}"));
            }
            false
        }
    }
}

/// Closes a socket that no connection was made of. A Unix socket may hold descriptors by now, which are closed with it.
pub(in crate::net) fn close_unopened(socket: OwnedFd, peer: &Address) {
    if peer.is_unix() {
        close_descriptors([socket]);
    }
}

/// Receives into `into`, and puts descriptors that come along into `arrived`, closed on exec. The kernel ends a read behind the bytes
/// that descriptors came with, so they are those of one message. With a `most` of 0 they are
/// [closed](close_descriptors), and the bytes come without them.
///
/// There is always room for as many as one message can have. The kernel closes what has no room on this thread, and such a close may
/// take as long as the sender likes. What this process has no free descriptors for it closes all the same.
///
/// # Errors
/// What the kernel says; [`InvalidData`](io::ErrorKind::InvalidData) if it had to drop descriptors, or there are more than `most`.
/// Those that came are closed then, and the bytes are lost.
pub(in crate::net) fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    most: u8,
    arrived: &mut Vec<OwnedFd>,
) -> io::Result<Transferred> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let mut slices = [IoSliceMut::new(into)];
    let receive = || rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
    let message = match retry_on_intr(receive) {
        Ok(message) => message,
        Err(error) => return transferred(Err(error)),
    };
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            arrived.extend(descriptors);
        }
    }
    if most == 0 {
        close_descriptors(arrived.drain(..));
    } else if message.flags.contains(ReturnFlags::CTRUNC) || arrived.len() > usize::from(most) {
        close_descriptors(arrived.drain(..));
        let problem = "more descriptors came along than the connection takes, or than this process may have";
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(Transferred::Bytes(message.bytes))
}
