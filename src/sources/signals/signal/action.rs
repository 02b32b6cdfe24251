//! What the process does on a signal, and which signals a thread blocks, as the kernel knows it (sigaction(2)).
//!
//! Of the crates below, none has these calls as safe ones. This file is one of the few that need `unsafe`.

#![allow(unsafe_code, reason = "sigaction and pthread_sigmask take and fill structures by pointers")]

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::{c_int, sigaction, sigset_t};

/// What happens on a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Default,
    Ignored,
    /// The address of the handler.
    Handler(usize),
}

impl Action {
    fn of(action: &sigaction) -> Action {
        match action.sa_sigaction {
            libc::SIG_DFL => Action::Default,
            libc::SIG_IGN => Action::Ignored,
            handler => Action::Handler(handler),
        }
    }
}

/// What happens on the signal now. Takes no descriptor and no memory.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is no such signal.
pub(crate) fn current(signal: c_int) -> io::Result<Action> {
    Ok(Action::of(&exchange(signal, None)?))
}

/// The handler of the crate `signal-hook`, once it is known; 0 before.
static SIGNAL_HOOK: AtomicUsize = AtomicUsize::new(0);

/// Has the handler that `signal-hook` has installed since `before` run on the thread's alternate stack, if the thread has one
/// (`SA_ONSTACK`, sigaltstack(2)). `signal-hook` does not set the flag, and a thread with a small stack, such as one of Go's,
/// would overflow it. A handler of somebody else's stays as it is.
///
/// # Errors
/// If there is no handler: another part of the program has taken it away, and the signal would never be reported.
pub(crate) fn run_on_alternate_stack(signal: c_int, before: Action) -> io::Result<()> {
    let mut action = exchange(signal, None)?;
    let Action::Handler(handler) = Action::of(&action) else {
        return Err(io::Error::other("the signal's handler was removed by another part of the program"));
    };
    if before != Action::Handler(handler) {
        SIGNAL_HOOK.store(handler, Relaxed);
    }
    if handler == SIGNAL_HOOK.load(Relaxed) && action.sa_flags & libc::SA_ONSTACK == 0 {
        action.sa_flags |= libc::SA_ONSTACK;
        let replaced = exchange(signal, Some(&action))?;
        if Action::of(&replaced) != Action::Handler(handler) {
            // Another thread has installed its own since the look above. That one is the later, and chains to this one.
            exchange(signal, Some(&replaced))?;
        }
    }
    Ok(())
}

/// Restores the default action of every signal that has a handler, except of those that report a fault of the program itself.
/// A program that is started gets them from the kernel in the same way. Async-signal-safe.
pub(crate) fn restore_defaults() {
    for signal in 1..=libc::SIGRTMAX() {
        if FAULTS.contains(&signal) {
            continue;
        }
        // The C library refuses the signals that it keeps for itself.
        let Ok(mut action) = exchange(signal, None) else { continue };
        if let Action::Handler(_) = Action::of(&action) {
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = 0;
            let _ = exchange(signal, Some(&action));
        }
    }
}

/// Blocking them would not keep the kernel from ending a process that causes one.
const FAULTS: [c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// Which signals a thread blocks.
#[derive(Clone, Copy)]
pub(crate) struct Mask(sigset_t);

impl Mask {
    /// Blocks all signals but faults on this thread, and returns what was blocked before. Async-signal-safe.
    pub(crate) fn block_all() -> Mask {
        let mut all = empty_set();
        // SAFETY: both functions write to a set that is there, and the numbers are those of signals.
        unsafe {
            libc::sigfillset(&raw mut all);
            for fault in FAULTS {
                libc::sigdelset(&raw mut all, fault);
            }
        }
        Mask(all).set()
    }

    /// Makes this the mask of the thread, and returns what it was. Async-signal-safe.
    pub(crate) fn set(self) -> Mask {
        let mut old = empty_set();
        // SAFETY: reads one set and writes the other, both of which are there. It fails for an unknown first argument only.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut old) };
        Mask(old)
    }
}

fn empty_set() -> sigset_t {
    // SAFETY: a set is plain numbers, so zero is a value of its; it is the empty set.
    unsafe { mem::zeroed() }
}

/// Installs `new`, if there is one, and returns what was there.
fn exchange(signal: c_int, new: Option<&sigaction>) -> io::Result<sigaction> {
    // SAFETY: the structure is plain numbers and a pointer that may be null, so zero is a value of its.
    let mut old: sigaction = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a structure that was filled by this call before, so that its handler is the default or one that
    // its owner has installed for this signal; `old` is there to be filled.
    match unsafe { libc::sigaction(signal, new, &raw mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}
