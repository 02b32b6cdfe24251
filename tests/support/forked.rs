//! Processes that are forked from this one and run on as copies of it.

#![allow(unsafe_code, reason = "fork(2)")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};

thread_local! {
    /// What [`fork_here`] has made; here, or the child that is here.
    static MADE: Cell<Option<ForkResult>> = const { Cell::new(None) };
}

/// Calls `child` in a child of this process, and returns when that has ended. An assertion that
/// fails there, a crash and a hang fail the test. For tests that are alone in their process.
#[track_caller]
pub(crate) fn in_child(child: impl FnOnce()) {
    fork_here();
    end_here(child);
}

/// Forks. Both processes go on, to [`end_here`].
pub(crate) fn fork_here() {
    // SAFETY: the C library makes its allocator usable in the child, and the other threads of the
    // test's process hold no lock of the standard library that the child needs.
    let made = unsafe { fork() }.expect("a child");
    if made.is_child() {
        // Ends a child that hangs.
        alarm::set(30);
    }
    MADE.set(Some(made));
}

/// Ends the child, after a call of `child` there, and has the parent wait for that.
#[track_caller]
pub(crate) fn end_here(child: impl FnOnce()) {
    match MADE.take().expect("forked before") {
        ForkResult::Child => {
            let is_well = catch_unwind(AssertUnwindSafe(child)).is_ok();
            // SAFETY: no destructor of the parent's has to run here.
            unsafe { libc::_exit(i32::from(!is_well)) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
    }
}
