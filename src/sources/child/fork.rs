//! A process between its fork and its exec: no handler of this process's runs in it.
//!
//! A forked process has the handlers until it becomes another program, and a signal that was meant for that program would end
//! in one of them and be lost. So the thread that forks blocks all signals, and the new process restores the defaults before it
//! takes them: what has come meanwhile acts then, as it would on the program. `posix_spawn` does the same by itself. The standard
//! library uses that if a command needs nothing special, and forks otherwise.
//!
//! It is done by pthread_atfork(3), so that it comes before a command's own hooks and changes nothing of the command. A hook
//! would come after them, would be added again with each start, and would rule `posix_spawn` out. Other forks are left alone: a
//! process that goes on with this program keeps its handlers.

#![allow(unsafe_code, reason = "functions are given to the C library to be called around a fork")]

use std::cell::Cell;
use std::io;

use parking_lot::Mutex;

use crate::sources::signals::signal::action::{self, Mask};

/// What a thread is doing.
#[derive(Clone, Copy)]
enum Stage {
    Other,
    /// Starts a program; it may fork.
    Starting,
    /// Forks; with the mask that it had.
    Forking(Mask),
}

thread_local! {
    // Without a destructor and a lazy initialiser, so it can be read in a forked process.
    static STAGE: Cell<Stage> = const { Cell::new(Stage::Other) };
}

/// Calls `start`, which may fork and execute a program.
///
/// # Errors
/// ENOMEM, the first time, if the C library has no memory for it.
pub(super) fn with_default_actions<R>(start: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    static IS_REGISTERED: Mutex<bool> = Mutex::new(false);
    {
        let mut is_registered = IS_REGISTERED.lock();
        if !*is_registered {
            // SAFETY: the functions stay for as long as the program does, and call only what is async-signal-safe.
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
