//! Sending and receiving descriptors along with bytes: the system calls, for Unix sockets only.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::socket::{Transferred, transferred};

/// How many descriptors the kernel takes in one message (`SCM_MAX_FD`, unix(7)).
pub(super) const MOST: u8 = 253;

/// Enough for as many.
const ROOM: usize = rustix::cmsg_space!(ScmRights(MOST as usize));

/// Sends `bytes` and, with the first of them, `descriptors`: if any byte is taken, so are they. Neither may be none.
pub(super) fn send_with_descriptors(
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

/// Receives into `into`, and puts descriptors that come along into `arrived`, closed on exec. The kernel ends a read behind the bytes
/// that descriptors came with, so they are those of one message.
///
/// # Errors
/// What the kernel says; [`InvalidData`](io::ErrorKind::InvalidData) if it had to drop descriptors, or there are more than `most`.
/// Those that came are closed then, and the bytes are lost.
pub(super) fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    most: u8,
    arrived: &mut Vec<OwnedFd>,
) -> io::Result<Transferred> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let room = &mut room[..rustix::cmsg_space!(ScmRights(usize::from(most)))];
    let mut control = RecvAncillaryBuffer::new(room);
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
    // The room is rounded up, so one more than was asked for may find place.
    if message.flags.contains(ReturnFlags::CTRUNC) || arrived.len() > usize::from(most) {
        arrived.clear();
        let problem = "more descriptors came along than the connection takes, or than this process may have";
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(Transferred::Bytes(message.bytes))
}
