//! The disposition of a signal and the signal mask of a thread (sigaction(2), pthread_sigmask(3)).
//!
//! None of the crate's dependencies wraps these calls safely, so this is one of the few files with
//! `unsafe`.

#![allow(unsafe_code, reason = "sigaction and pthread_sigmask take and fill structures by pointers")]

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::{c_int, sigaction, sigset_t};

/// The disposition of a signal.
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

/// The current disposition of the signal. Allocates neither a descriptor nor memory.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if the signal does not exist.
pub(crate) fn current(signal: c_int) -> io::Result<Action> {
    Ok(Action::of(&exchange(signal, None)?))
}

/// The address of the handler of the crate `signal-hook`; 0 until it is known.
static SIGNAL_HOOK: AtomicUsize = AtomicUsize::new(0);

/// Makes the handler that `signal-hook` has installed since `before` run on the thread's alternate
/// stack, if the thread has one (`SA_ONSTACK`, sigaltstack(2)). `signal-hook` does not set the
/// flag, and its handler would overflow a small stack, such as that of a Go thread. A handler of
/// other code is left unchanged.
///
/// # Errors
/// If no handler is installed: other code has removed it, and the signal would never be reported.
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
            // Another thread has installed its handler since the call of `exchange` above. That
            // handler is the newer one and chains to this one; restore it.
            exchange(signal, Some(&replaced))?;
        }
    }
    Ok(())
}

/// Restores the default disposition of every signal that has a handler, except signals that report
/// a fault of the program itself. An exec does the same. Async-signal-safe.
pub(crate) fn restore_defaults() {
    for signal in 1..=libc::SIGRTMAX() {
        if FAULTS.contains(&signal) {
            continue;
        }
        // The C library rejects its own internal signals.
        let Ok(mut action) = exchange(signal, None) else { continue };
        if let Action::Handler(_) = Action::of(&action) {
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = 0;
            let _ = exchange(signal, Some(&action));
        }
    }
}

/// Blocking these has no effect: the kernel still terminates a process that causes one.
const FAULTS: [c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// The signal mask of a thread.
#[derive(Clone, Copy)]
pub(crate) struct Mask(sigset_t);

impl Mask {
    /// Blocks all signals except faults on this thread, and returns the previous mask.
    /// Async-signal-safe.
    pub(crate) fn block_all() -> Mask {
        let mut all = empty_set();
        // SAFETY: both functions write to a valid set, and the numbers are valid signal numbers.
        unsafe {
            libc::sigfillset(&raw mut all);
            for fault in FAULTS {
                libc::sigdelset(&raw mut all, fault);
            }
        }
        Mask(all).set()
    }

    /// Sets this as the thread's mask, and returns the previous mask. Async-signal-safe.
    pub(crate) fn set(self) -> Mask {
        let mut old = empty_set();
        // SAFETY: reads one valid set and writes another. It fails only for an unknown first
        // argument.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut old) };
        Mask(old)
    }
}

fn empty_set() -> sigset_t {
    // SAFETY: a set consists of integers, so all zeroes is a valid value; it is the empty set.
    unsafe { mem::zeroed() }
}

/// Installs `new`, if given, and returns the previous action.
fn exchange(signal: c_int, new: Option<&sigaction>) -> io::Result<sigaction> {
    // SAFETY: the structure consists of integers and a nullable pointer, so all zeroes is valid.
    let mut old: sigaction = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a structure that an earlier call has filled, so its handler is the
    // default or one that its owner has installed for this signal. `old` is valid for writes.
    match unsafe { libc::sigaction(signal, new, &raw mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}
