//! The memory that is passed to the peer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};

use super::memory::SEALS;

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

/// Has the descriptor closed in programs that this process executes.
pub(super) fn not_inherited(descriptor: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}
