//! The child process, and the socket to it: for descriptors, for messages, and to detect that it
//! has ended.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::{Task, Way};
use crate::Result;
use crate::machine::Machine;

/// Limit for the end of the child.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Number of descriptors of a ring.
const DESCRIPTORS: usize = 3;

/// A child process. Killed on drop.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    socket: Option<OwnedFd>,
}

impl Peer {
    /// Starts this program again. Its end of the socket is its standard input.
    pub(super) fn start(way: Way, task: Task, machine: &Machine) -> Result<Peer> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["doorbell-peer", way.word(), task.word()]);
        command.args(machine.server_cpu.map(|cpu| cpu.to_string()));
        let child = command.stdin(Stdio::from(theirs)).spawn()?;
        Ok(Peer { child, socket: Some(ours) })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("open until the end").as_fd()
    }

    /// Closes the socket, and waits for the child to end. Fails if it ends with an error.
    pub(super) fn finish(mut self) -> Result<()> {
        self.socket = None;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the peer ended with {status}").into()),
                None if Instant::now() > deadline => {
                    return Err(format!("the peer did not end within {TIMEOUT:?}").into());
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail harmlessly after `finish` has reaped the child.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn pass(socket: BorrowedFd<'_>, descriptors: &[OwnedFd]) -> Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err("too many descriptors".into());
    }
    sendmsg(socket, &[IoSlice::new(b"!")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

pub(super) fn take(socket: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut taken = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            taken.extend(descriptors);
        }
    }
    Ok(taken)
}
