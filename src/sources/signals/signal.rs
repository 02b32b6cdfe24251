//! The signals that the crate supports.

pub(crate) mod action;

use std::fmt;

use rustix::process::Signal as Known;

/// A signal number, with its name.
///
/// Covers the signals that programs send to each other and those by which the kernel reports an
/// event. Excludes real-time signals, and signals that report a fault of the program itself
/// (SIGSEGV and similar), since their handler could not return.
///
/// ```
/// use reveille::signal::Signal;
///
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// assert_eq!(Signal::from_raw(15), Some(Signal::TERM));
/// assert_eq!(Signal::from_raw(11), None);
/// ```
///
/// See signal(7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

const ALL: [(Signal, Known, &str); 17] = [
    (Signal::HUP, Known::HUP, "SIGHUP"),
    (Signal::INT, Known::INT, "SIGINT"),
    (Signal::QUIT, Known::QUIT, "SIGQUIT"),
    (Signal::KILL, Known::KILL, "SIGKILL"),
    (Signal::USR1, Known::USR1, "SIGUSR1"),
    (Signal::USR2, Known::USR2, "SIGUSR2"),
    (Signal::PIPE, Known::PIPE, "SIGPIPE"),
    (Signal::ALRM, Known::ALARM, "SIGALRM"),
    (Signal::TERM, Known::TERM, "SIGTERM"),
    (Signal::CHLD, Known::CHILD, "SIGCHLD"),
    (Signal::CONT, Known::CONT, "SIGCONT"),
    (Signal::STOP, Known::STOP, "SIGSTOP"),
    (Signal::TSTP, Known::TSTP, "SIGTSTP"),
    (Signal::TTIN, Known::TTIN, "SIGTTIN"),
    (Signal::TTOU, Known::TTOU, "SIGTTOU"),
    (Signal::URG, Known::URG, "SIGURG"),
    (Signal::WINCH, Known::WINCH, "SIGWINCH"),
];

impl Signal {
    /// SIGHUP: the terminal was closed. By convention, a daemon reloads its configuration when it
    /// receives this signal.
    pub const HUP: Signal = Signal(Known::HUP.as_raw());
    /// SIGINT: Ctrl-C.
    pub const INT: Signal = Signal(Known::INT.as_raw());
    /// SIGQUIT: Ctrl-\\.
    pub const QUIT: Signal = Signal(Known::QUIT.as_raw());
    /// SIGKILL: terminates the process. Cannot be caught or ignored.
    pub const KILL: Signal = Signal(Known::KILL.as_raw());
    /// SIGUSR1: application-defined.
    pub const USR1: Signal = Signal(Known::USR1.as_raw());
    /// SIGUSR2: application-defined.
    pub const USR2: Signal = Signal(Known::USR2.as_raw());
    /// SIGPIPE: a write to a pipe or socket without a reader. The Rust runtime ignores it from the
    /// start.
    pub const PIPE: Signal = Signal(Known::PIPE.as_raw());
    /// SIGALRM: the timer of alarm(2).
    pub const ALRM: Signal = Signal(Known::ALARM.as_raw());
    /// SIGTERM: requests the process to terminate.
    pub const TERM: Signal = Signal(Known::TERM.as_raw());
    /// SIGCHLD: a child has terminated or stopped. [`Child`](crate::process::Child) does not need
    /// it.
    pub const CHLD: Signal = Signal(Known::CHILD.as_raw());
    /// SIGCONT: resumes a stopped process.
    pub const CONT: Signal = Signal(Known::CONT.as_raw());
    /// SIGSTOP: stops the process. Cannot be caught or ignored.
    pub const STOP: Signal = Signal(Known::STOP.as_raw());
    /// SIGTSTP: Ctrl-Z.
    pub const TSTP: Signal = Signal(Known::TSTP.as_raw());
    /// SIGTTIN: a background process reads from the terminal.
    pub const TTIN: Signal = Signal(Known::TTIN.as_raw());
    /// SIGTTOU: a background process writes to the terminal.
    pub const TTOU: Signal = Signal(Known::TTOU.as_raw());
    /// SIGURG: a socket has urgent data.
    pub const URG: Signal = Signal(Known::URG.as_raw());
    /// SIGWINCH: the terminal was resized.
    pub const WINCH: Signal = Signal(Known::WINCH.as_raw());

    /// The signal with this number, if it is one of the above.
    pub fn from_raw(number: i32) -> Option<Signal> {
        ALL.iter().map(|(signal, ..)| *signal).find(|signal| signal.0 == number)
    }

    /// The signal number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Whether a handler can be installed: `false` for SIGKILL and SIGSTOP.
    pub(crate) fn can_be_caught(self) -> bool {
        self != Signal::KILL && self != Signal::STOP
    }

    pub(crate) fn to_rustix(self) -> Known {
        self.entry().1
    }

    fn entry(self) -> &'static (Signal, Known, &'static str) {
        ALL.iter().find(|(signal, ..)| *signal == self).expect("every signal is in the table")
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.entry().2)
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_rows_match_their_signal_numbers_and_names() {
        for (signal, known, name) in ALL {
            assert_eq!(signal.0, known.as_raw(), "{name}");
            assert_eq!(Signal::from_raw(signal.0), Some(signal));
            assert_eq!(format!("{signal} {signal:?}"), format!("{name} {name}"));
        }
        assert_eq!(Signal::from_raw(0), None);
    }
}
