//! The making of a ring, and why there is none.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode};

use crate::eventfd::EventFd;

/// A ring that has all that is needed of it, and signals `done`.
///
/// # Errors
/// Why there is none.
pub(super) fn set_up(entries: u32, done: &EventFd) -> io::Result<IoUring> {
    let ring = make(entries).map_err(explained)?;
    // Without the first of these the kernel drops completions that it finds no room for; without the other there are
    // no reads from the position.
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_rw_cur_pos() {
        return Err(too_old());
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => too_old(),
        _ => explained(error),
    })?;
    let needed = [
        opcode::OpenAt::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Statx::CODE,
        opcode::Close::CODE,
        opcode::AsyncCancel::CODE,
    ];
    if !needed.into_iter().all(|code| probe.is_supported(code)) {
        return Err(too_old());
    }
    ring.submitter().register_eventfd(done.as_raw_fd()).map_err(explained)?;
    Ok(ring)
}

fn make(entries: u32) -> io::Result<IoUring> {
    // Linux 6.1: what the kernel has to do for this thread it does when it is asked what there is, and does not
    // interrupt the thread for it, neither in its work nor in its wait. The counter is signalled for it.
    let asked = IoUring::builder()
        .dontfork()
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().dontfork().setup_clamp().build(entries)
        }
        result => result,
    }
}

/// The error of a call that belongs to the making of a ring, with what it means there.
pub(super) fn explained(error: io::Error) -> io::Error {
    let (kind, message) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (io::ErrorKind::Unsupported, "the kernel is without it (ENOSYS)".to_owned()),
        Some(libc::EPERM | libc::EACCES) => (
            io::ErrorKind::PermissionDenied,
            "it is switched off for this process, by kernel.io_uring_disabled or a filter of system calls (EPERM)"
                .to_owned(),
        ),
        Some(libc::ENOMEM) => (
            io::ErrorKind::OutOfMemory,
            "no memory for it, or none that may be locked (RLIMIT_MEMLOCK, ENOMEM)".to_owned(),
        ),
        _ => (error.kind(), error.to_string()),
    };
    io::Error::new(kind, format!("no io_uring: {message}"))
}

fn too_old() -> io::Error {
    let message = "no io_uring: that of this kernel lacks operations on files (Linux 5.6 has them)";
    io::Error::new(io::ErrorKind::Unsupported, message)
}
