//! Processes that are forked from the test process, without exec.

#![allow(unsafe_code, reason = "fork(2)")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

thread_local! {
    /// The result of [`fork_process`], in the parent and in the child.
    static FORKED: Cell<Option<ForkResult>> = const { Cell::new(None) };
}

/// Calls `child` in a child process and returns when that has exited. A failed assertion, a crash
/// or a hang of the child fails the test. For tests that run in a separate process.
#[track_caller]
pub(crate) fn in_child(child: impl FnOnce()) {
    fork_process();
    exit_child_and_wait(child);
}

/// Forks. Both processes return and must call [`exit_child_and_wait`].
pub(crate) fn fork_process() {
    // SAFETY: the C library makes its allocator usable in the child, and the other threads of the
    // test's process hold no lock of the standard library that the child needs.
    let forked = unsafe { fork() }.expect("a child");
    if forked.is_child() {
        // Kills a child that hangs.
        alarm::set(30);
    }
    FORKED.set(Some(forked));
}

/// In the child: calls `child` and exits. In the parent: waits for the child and checks its status.
#[track_caller]
pub(crate) fn exit_child_and_wait(child: impl FnOnce()) {
    match FORKED.take().expect("not forked") {
        ForkResult::Child => {
            let succeeded = catch_unwind(AssertUnwindSafe(child)).is_ok();
            // SAFETY: no destructor of the parent's objects has to run in the child.
            unsafe { libc::_exit(i32::from(!succeeded)) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
    }
}
