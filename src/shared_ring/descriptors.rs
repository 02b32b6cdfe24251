//! The memory shared with the peer, and flags of passed descriptors.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};

use super::memory::SEALS;

/// Creates a zeroed memfd of `bytes` bytes whose size is sealed.
pub(super) fn sealed_memory(bytes: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let make = |flags| rustix::fs::memfd_create("reveille shared ring", flags);
    // Systems may reject executable memory (vm.memfd_noexec), and kernels before Linux 6.3 do not
    // know the flag that avoids it.
    let memory = match make(flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => make(flags)?,
        made => made?,
    };
    rustix::fs::ftruncate(&memory, bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// Sets the descriptor to close on exec.
pub(super) fn set_cloexec(descriptor: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}
