//! What is passed to the peer: made here, checked there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::{Errno, FdFlags};

use super::layout::BellIds;
use super::memory::SEALS;
use crate::eventfd::EventFd;

/// A memfd of so many bytes, all zero, whose size cannot be changed.
pub(super) fn sealed_memory(bytes: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let make = |flags| rustix::fs::memfd_create("reveille shared ring", flags);
    // Systems may refuse memory that could be executed (vm.memfd_noexec), and kernels before Linux 6.3 do not know how it is
    // refused.
    let memory = match make(flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => make(flags)?,
        made => made?,
    };
    rustix::fs::ftruncate(&memory, bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// What the kernel calls the eventfds, so that they can be told from one another. 0 for one that it has no number for.
pub(super) fn ids(maker: &EventFd, taker: &EventFd) -> io::Result<BellIds> {
    Ok([maker.id()?.unwrap_or(0), taker.id()?.unwrap_or(0)])
}

/// Checks a descriptor that is to be an eventfd, and makes sure that no program started from here inherits it.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is none, or one that blocks, or one that cannot be read and written.
pub(super) fn bell(descriptor: OwnedFd) -> io::Result<EventFd> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let flags = rustix::fs::fcntl_getfl(&descriptor)?;
    let bell = EventFd::from(descriptor);
    match bell.counter() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return refused("the descriptor of a bell is not an eventfd");
        }
        Err(error) => return Err(error),
    }
    if !flags.contains(OFlags::NONBLOCK) {
        return refused("the eventfd of a bell blocks, and whoever rings it could be kept");
    }
    if flags & OFlags::ACCMODE != OFlags::RDWR {
        return refused("the eventfd of a bell cannot be both read and written");
    }
    not_inherited(&bell)?;
    Ok(bell)
}

/// Has the descriptor closed in programs that this process executes.
pub(super) fn not_inherited(descriptor: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}
