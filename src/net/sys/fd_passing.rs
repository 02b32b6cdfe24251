//! Passing file descriptors over Unix sockets (`SCM_RIGHTS`): the system calls.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::tcp_info::set_pass_rights;
use super::transport::{Transferred, transferred};
use crate::event_loop::containment::logger;
use crate::net::address::Address;
use crate::net::disposal::close_descriptors;

/// The maximum number of descriptors in one message (`SCM_MAX_FD`, unix(7)).
pub(in crate::net) const MAX_FDS: u8 = 253;

/// The size of a control message with `MAX_FDS` descriptors.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MAX_FDS as usize));

/// Sends `bytes`, with `descriptors` attached to the first byte: if any byte is accepted, so are
/// all descriptors. Neither may be empty.
pub(in crate::net) fn send_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> io::Result<Transferred> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let slices = [IoSlice::new(bytes)];
    transferred(retry_on_intr(|| rustix::net::sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)))
}

/// Returns `true` if the kernel refused to send descriptors because the user has too many in
/// flight, in all processes together (`RLIMIT_NOFILE`, unix(7)). The condition ends when receivers
/// have received some. No event reports that.
pub(in crate::net) fn is_too_many_refs(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
}

/// Makes the kernel refuse, or accept again, the descriptors that a peer sends from now on. Returns
/// `false` if the kernel cannot refuse them, as before Linux 6.16.
pub(in crate::net) fn refuse_descriptors(socket: BorrowedFd<'_>, refuse: bool) -> bool {
    static IS_UNSUPPORTED: AtomicBool = AtomicBool::new(false);
    if IS_UNSUPPORTED.load(Relaxed) {
        return false;
    }
    match set_pass_rights(socket, !refuse) {
        Ok(()) => true,
        Err(error) => {
            if error.raw_os_error() == Some(Errno::NOPROTOOPT.raw_os_error()) {
                IS_UNSUPPORTED.store(true, Relaxed);
            } else {
                logger::call(|| log::debug!("cannot set SO_PASSRIGHTS: {error}"));
            }
            false
        }
    }
}

/// Closes a socket that no connection was created for. A Unix socket may already hold descriptors,
/// so it is closed on another thread.
pub(in crate::net) fn close_unopened(socket: OwnedFd, peer: &Address) {
    if peer.is_unix() {
        close_descriptors([socket]);
    }
}

/// Receives bytes into `into`, and descriptors into `received`, closed on exec.
///
/// The kernel ends a read after the bytes that descriptors were attached to, so all of them belong
/// to one message. If `max` is 0, they are [closed](close_descriptors), and the bytes are returned
/// without them.
///
/// The control buffer always has space for the maximum of one message. The kernel would close
/// descriptors that do not fit on this thread, and such a close may take as long as the sender
/// chooses. The kernel still closes descriptors on this thread if the process has no free
/// descriptor numbers for them.
///
/// # Errors
/// The error of recvmsg(2). [`InvalidData`](io::ErrorKind::InvalidData) if the kernel dropped
/// descriptors, or there are more than `max`: the received ones are closed, and the bytes are lost.
pub(in crate::net) fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    max: u8,
    received: &mut Vec<OwnedFd>,
) -> io::Result<Transferred> {
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(into)];
    let receive = || rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
    let message = match retry_on_intr(receive) {
        Ok(message) => message,
        Err(error) => return transferred(Err(error)),
    };
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            received.extend(descriptors);
        }
    }
    if max == 0 {
        close_descriptors(received.drain(..));
    } else if message.flags.contains(ReturnFlags::CTRUNC) || received.len() > usize::from(max) {
        close_descriptors(received.drain(..));
        let problem =
            "more descriptors were received than the connection accepts, or than this process may open";
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(Transferred::Bytes(message.bytes))
}
