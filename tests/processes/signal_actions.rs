//! The actions of signals, as sigaction(2) shows them: in a process that is being started, and in
//! this process.
//!
//! Actions belong to a process, so each test runs in its own process.

#![allow(unsafe_code, reason = "hooks between fork and exec, and sigaction(2)")]

use std::cell::Cell;
use std::io;
use std::mem;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::ptr;
use std::rc::Rc;

use crate::support::alone::alone;
use crate::support::net::turn_until;
use libc::c_int;
use reveille::EventLoop;
use reveille::process::Child;
use reveille::signal::{Signal, Signals};

fn event_loop() -> EventLoop {
    EventLoop::new().unwrap()
}

fn run_to_end(event_loop: &EventLoop, command: &mut Command) -> ExitStatus {
    let outcome = Rc::new(Cell::new(None));
    let recording = Rc::clone(&outcome);
    let _child = Child::spawn(event_loop, command, move |_, status| recording.set(Some(status))).unwrap();
    turn_until(event_loop, || {
        let status = outcome.take();
        let is_set = status.is_some();
        outcome.set(status);
        is_set
    });
    outcome.take().expect("an end").unwrap()
}

fn kill_self(signal: c_int) -> io::Result<()> {
    // SAFETY: both calls take and return plain numbers, and are async-signal-safe.
    match unsafe { libc::kill(libc::getpid(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn action_of(signal: c_int) -> libc::sigaction {
    // SAFETY: zero is a valid value of plain numbers, and the kernel fills the structure.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        assert_eq!(libc::sigaction(signal, ptr::null(), &raw mut action), 0);
        action
    }
}

#[test]
fn a_signal_between_fork_and_exec_acts_on_the_new_process() {
    alone(|| {
        let event_loop = event_loop();
        let _ours = Signals::new(&event_loop, [Signal::USR1, Signal::TERM], |_, _| ()).unwrap();
        // A handler that the program registered itself behaves the same.
        let _own = signal_hook_flag(Signal::USR2);
        for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGUSR2] {
            // The same command is started again, so that state left in it by a start would show.
            let mut command = Command::new("true");
            // SAFETY: the hook is async-signal-safe.
            unsafe { command.pre_exec(move || kill_self(signal)) };
            for _ in 0..3 {
                assert_eq!(run_to_end(&event_loop, &mut command).signal(), Some(signal));
            }
        }
    });
}

/// Registers a handler the way a program would, independently of the crate.
fn signal_hook_flag(signal: Signal) -> impl Sized {
    extern "C" fn nothing(_: c_int) {}
    let handler: extern "C" fn(c_int) = nothing;
    // SAFETY: the handler does nothing.
    assert_ne!(unsafe { libc::signal(signal.as_raw(), handler as libc::sighandler_t) }, libc::SIG_ERR);
}

/// Returns the numbers of the signals that the calling thread blocks.
fn blocked() -> Vec<c_int> {
    // SAFETY: the set is valid for writing, and is read only after it has been filled.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut set), 0);
        (1..=libc::SIGRTMAX()).filter(|signal| libc::sigismember(&raw const set, *signal) == 1).collect()
    }
}

#[test]
fn a_start_preserves_the_masks_of_both_processes() {
    alone(|| {
        let event_loop = event_loop();
        let _signals = Signals::new(&event_loop, [Signal::USR1], |_, _| ()).unwrap();
        // SAFETY: the set is a local variable, which is initialised before it is read.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGALRM);
            assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()), 0);
        }
        for forks in [false, true] {
            let mut command = Command::new("grep");
            // SIGALRM is 14, bit 13.
            command.args(["-q", "^SigBlk:.*0000000000002000$", "/proc/self/status"]);
            if forks {
                // SAFETY: the hook only reads its mask, in memory that this thread owns.
                unsafe {
                    command.pre_exec(|| match blocked() == [libc::SIGALRM] {
                        true => Ok(()),
                        false => Err(io::ErrorKind::InvalidData.into()),
                    })
                };
            }
            assert!(run_to_end(&event_loop, &mut command).success(), "forks: {forks}");
            assert_eq!(blocked(), [libc::SIGALRM], "forks: {forks}");
        }
    });
}

#[test]
fn a_fork_that_starts_no_program_keeps_the_handlers() {
    alone(|| {
        let event_loop = event_loop();
        let _signals = Signals::new(&event_loop, [Signal::USR1], |_, _| ()).unwrap();
        run_to_end(&event_loop, &mut Command::new("true"));
        // SAFETY: the new process makes only calls that are async-signal-safe.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let _ = kill_self(libc::SIGUSR1);
                libc::_exit(3);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            assert_eq!(ExitStatus::from_raw(status).code(), Some(3));
        }
    });
}

#[test]
fn handlers_run_on_an_alternate_stack_and_restart_system_calls() {
    alone(|| {
        let event_loop = event_loop();
        let all = [Signal::INT, Signal::TERM, Signal::USR1, Signal::PIPE];
        let _signals = Signals::new(&event_loop, all, |_, _| ()).unwrap();
        for signal in all {
            let flags = action_of(signal.as_raw()).sa_flags;
            let expected = libc::SA_ONSTACK | libc::SA_RESTART;
            assert_eq!(flags & expected, expected, "{signal}: {flags:#x}");
        }
    });
}

#[test]
fn a_removed_handler_is_an_error_of_the_next_source() {
    alone(|| {
        let event_loop = event_loop();
        let first = Signals::new(&event_loop, [Signal::USR1], |_, _| ()).unwrap();
        // SAFETY: the default action is no handler.
        assert_ne!(unsafe { libc::signal(libc::SIGUSR1, libc::SIG_DFL) }, libc::SIG_ERR);
        let error = Signals::new(&event_loop, [Signal::USR1], |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("handler was removed"), "{error}");
        drop(first);
    });
}
