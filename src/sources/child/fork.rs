//! Default signal dispositions in a child process between its fork and its exec.
//!
//! A forked process keeps the parent's handlers until it executes the program, and a signal meant
//! for that program would run such a handler and be lost. Therefore the forking thread blocks all
//! signals, and the child restores the default dispositions before it unblocks them; signals that
//! arrived meanwhile then have their default effect, as they would on the program. `posix_spawn`
//! does the same itself. The standard library uses `posix_spawn` if a command needs no special
//! settings, and forks otherwise.
//!
//! This uses pthread_atfork(3), so it runs before the command's own hooks and does not modify the
//! command. A hook of the command would run after those, would be added again with each start, and
//! would prevent the use of `posix_spawn`. Other forks are unaffected: a process that continues
//! with this program keeps its handlers.

#![allow(unsafe_code, reason = "pthread_atfork takes functions to call around a fork")]

use std::cell::Cell;
use std::io;

use parking_lot::Mutex;

use crate::sources::signals::signal::action::{self, Mask};

/// What the thread is doing.
#[derive(Clone, Copy)]
enum Stage {
    Other,
    /// Starting a program; it may fork.
    Starting,
    /// Forking; holds the mask from before.
    Forking(Mask),
}

thread_local! {
    // Without a destructor or a lazy initialiser, so a forked process can read it.
    static STAGE: Cell<Stage> = const { Cell::new(Stage::Other) };
}

/// Calls `start`, which may fork and execute a program.
///
/// # Errors
/// ENOMEM on the first call, if the C library cannot allocate memory for the registration.
pub(super) fn with_default_actions<R>(start: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    static IS_REGISTERED: Mutex<bool> = Mutex::new(false);
    {
        let mut is_registered = IS_REGISTERED.lock();
        if !*is_registered {
            // SAFETY: the functions exist for the lifetime of the program, and call only
            // async-signal-safe functions.
            match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
                0 => *is_registered = true,
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            STAGE.set(Stage::Other);
        }
    }
    STAGE.set(Stage::Starting);
    let _reset = Reset;
    start()
}

extern "C" fn before() {
    if let Stage::Starting = STAGE.get() {
        STAGE.set(Stage::Forking(Mask::block_all()));
    }
}

extern "C" fn in_parent() {
    if let Stage::Forking(mask) = STAGE.get() {
        STAGE.set(Stage::Starting);
        mask.set();
    }
}

extern "C" fn in_child() {
    if let Stage::Forking(mask) = STAGE.get() {
        STAGE.set(Stage::Other);
        action::restore_defaults();
        mask.set();
    }
}
