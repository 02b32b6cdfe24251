//! Creates a ring, and explains why there is none.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode};

use crate::eventfd::EventFd;

/// Creates a ring that has all required features, and signals `done`.
///
/// # Errors
/// The reason why no ring can be created.
pub(super) fn set_up(entries: u32, done: &EventFd) -> io::Result<IoUring> {
    let ring = make(entries).map_err(explain)?;
    // Without the first feature the kernel drops completions that have no space. Without the second
    // there are no reads at the current position.
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_rw_cur_pos() {
        return Err(too_old());
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => too_old(),
        _ => explain(error),
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
    ring.submitter().register_eventfd(done.as_raw_fd()).map_err(explain)?;
    Ok(ring)
}

fn make(entries: u32) -> io::Result<IoUring> {
    // Linux 6.1: the kernel runs its deferred work for this thread only when the thread enters the
    // kernel for completions, and does not interrupt the thread for it, neither while it runs nor
    // while it waits. The eventfd is signalled for such work.
    let preferred = IoUring::builder()
        .dontfork()
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    match preferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().dontfork().setup_clamp().build(entries)
        }
        result => result,
    }
}

/// Explains the error of a system call that creates a ring.
pub(super) fn explain(error: io::Error) -> io::Error {
    let (kind, message) = match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            (io::ErrorKind::Unsupported, "the kernel does not support it (ENOSYS)".to_owned())
        }
        Some(libc::EPERM | libc::EACCES) => (
            io::ErrorKind::PermissionDenied,
            "it is disabled for this process, by kernel.io_uring_disabled or a seccomp filter (EPERM)"
                .to_owned(),
        ),
        Some(libc::ENOMEM) => (
            io::ErrorKind::OutOfMemory,
            "not enough memory, or too little that may be locked (RLIMIT_MEMLOCK, ENOMEM)".to_owned(),
        ),
        _ => (error.kind(), error.to_string()),
    };
    io::Error::new(kind, format!("no io_uring: {message}"))
}

fn too_old() -> io::Error {
    let message =
        "no io_uring: this kernel lacks file operations of io_uring (Linux 5.6 or later is required)";
    io::Error::new(io::ErrorKind::Unsupported, message)
}
