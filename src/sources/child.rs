//! Child processes whose end is an event of the loop.
//!
//! Each is watched through a descriptor of its own (pidfd_open(2)), which becomes readable when the process has ended and names that
//! process and no other, whatever becomes of its number. So neither SIGCHLD nor a thread is needed, and other parts of the
//! program may wait for children of theirs.
//!
//! The standard library starts the process and is not asked again: it would wait and kill by number.

mod fork;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, ExitStatus};
use std::rc::{Rc, Weak};

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus};

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use crate::sources::signals::signal::Signal;

/// A process that this one has started, and whose end a loop waits for.
///
/// The callback is called once, with how the process has ended, whether or not this value is still there; the loop takes the
/// status from the kernel, so no zombie is left. Dropping this neither ends the process nor forgets it, unless
/// [`kill_on_drop`](Child::kill_on_drop) says so; it closes those ends of the process's pipes that were not taken.
///
/// If the loop is dropped first, the callback is called then: with the status of a process that has ended, else with an
/// error. A process that still runs goes on running, without anybody to wait for it; when it ends before this process, it stays a zombie
/// until this process ends. One with `kill_on_drop` is killed instead, and waited for.
///
/// Bound to the loop's thread, like the loop. Needs Linux 5.4.
///
/// ```
/// use reveille::{Child, EventLoop};
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let child = Child::spawn(&event_loop, Command::new("sh").args(["-c", "exit 3"]), |event_loop, status| {
///     assert_eq!(status.unwrap().code(), Some(3));
///     event_loop.quit();
/// })?;
/// event_loop.run()?;
/// assert!(!child.is_running());
/// # Ok(())
/// # }
/// ```
///
/// # Pipes
/// A stream that the command makes a pipe of (`Stdio::piped`) can be taken as a non-blocking `File`, ready for a
/// [`Channel`](crate::Channel). The end of the process and the end of its output are two events, in either order: what it has
/// written stays in the pipe, and what it has started may go on writing.
///
/// ```
/// use reveille::{Channel, Child, EventLoop, Interest};
/// use std::io::Read;
/// use std::process::{Command, Stdio};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let mut command = Command::new("echo");
/// command.arg("hello").stdout(Stdio::piped());
/// let mut child = Child::spawn(&event_loop, &mut command, |_, status| assert!(status.unwrap().success()))?;
/// let mut heard = Vec::new();
/// let stdout = child.take_stdout().expect("a pipe");
/// let _output = Channel::new(&event_loop, stdout, Interest::READABLE, move |event| {
///     let mut bytes = [0; 1024];
///     match event.source().read(&mut bytes) {
///         Ok(0) => {
///             assert_eq!(heard, b"hello\n");
///             event.event_loop().quit();
///         }
///         Ok(n) => heard.extend_from_slice(&bytes[..n]),
///         Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
///     }
/// })?;
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
pub struct Child {
    process: Weak<Process>,
    id: u32,
    kill_on_drop: bool,
    /// Only this one may kill it when it drops this value.
    parent: ProcessMark,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Child {
    /// Starts `command`, and has the loop call `callback` when it has ended.
    ///
    /// A signal that the process gets before it has become the program acts by default, as it would on the program: no handler of
    /// this process's runs there, also while hooks of the command do ([`pre_exec`](std::os::unix::process::CommandExt::pre_exec)).
    ///
    /// The callback is called in phase 3 of a turn, never from within this call. It gets an error instead of a status if there is
    /// none to be had: somebody else has taken it (a wait for any child, or SIGCHLD set to be ignored), or the loop
    /// is dropped while the process runs.
    ///
    /// # Errors
    /// What the standard library says if the process cannot be started; what the kernel says if it cannot be watched, mostly
    /// because descriptors have run out (EMFILE) or the kernel is too old (ENOSYS). A process that cannot be watched is killed at
    /// once. The callback is dropped then.
    pub fn spawn(
        event_loop: &EventLoop,
        command: &mut Command,
        callback: impl FnOnce(&EventLoop, io::Result<ExitStatus>) + 'static,
    ) -> io::Result<Child> {
        let callback: Callback = Contained::new(Box::new(callback));
        event_loop.check_process()?;
        let mut started = Unwatched(Some(fork::with_default_actions(|| command.spawn())?));
        let child = started.0.as_mut().expect("it has just been put there");
        let id = child.id();
        let pid = Pid::from_child(child);
        let mut child = Child {
            process: Weak::new(),
            id,
            kill_on_drop: false,
            parent: ProcessMark::current(),
            stdin: child.stdin.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
            stdout: child.stdout.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
            stderr: child.stderr.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
        };
        // Nobody should have waited for it, so that the number is still its own.
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => {
                // It has ended, and the number is not its own any longer: there is nothing to kill.
                started.0 = None;
                return Err(taken());
            }
            Err(error) => return Err(error.into()),
        };
        let process = event_loop.register(Interest::READABLE, |id| {
            Rc::new(Process {
                id,
                pidfd,
                kill_at_end: Cell::new(false),
                callback: RefCell::new(Some(callback)),
            })
        })?;
        started.0 = None;
        child.process = Rc::downgrade(&process);
        Ok(child)
    }

    /// Whether dropping this value, or the loop, kills the process (SIGKILL). Usually not. The callback is called all the same.
    pub fn kill_on_drop(mut self, kill: bool) -> Child {
        self.kill_on_drop = kill;
        if let Some(process) = self.process.upgrade() {
            process.kill_at_end.set(kill);
        }
        self
    }

    /// The process's number. It may be another process's when this one [no longer runs](Child::is_running).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the callback has yet to be called.
    pub fn is_running(&self) -> bool {
        self.process.upgrade().is_some_and(|process| process.callback.borrow().is_some())
    }

    /// Sends `signal` to the process, and to no other that has its number by now.
    ///
    /// A process that has ended, and whose callback has yet to be called, takes any signal without effect.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if the process has ended and its callback has been called, or the loop has gone;
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if it runs as somebody else by now.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        let process = self.process.upgrade().filter(|process| process.callback.borrow().is_some());
        process.ok_or_else(gone)?.signal(signal)
    }

    /// The end to write to of a standard input that is a pipe; `None` if it is not, or has been taken. Non-blocking.
    ///
    /// The process reads the end of its input when this is closed.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.stdin.take()
    }

    /// The end to read from of a standard output that is a pipe; `None` if it is not, or has been taken. Non-blocking.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.stdout.take()
    }

    /// The end to read from of a standard error that is a pipe; `None` if it is not, or has been taken. Non-blocking.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.stderr.take()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill_on_drop && self.parent.is_current() && self.is_running() {
            if let Err(error) = self.kill(Signal::KILL) {
                logger::recurring("killing a process", |left_out| {
                    log::warn!("cannot kill process {}: {error}{left_out}", self.id);
                });
            }
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("id", &self.id)
            .field("is_running", &self.is_running())
            .finish_non_exhaustive()
    }
}

/// A process between its start and the loop's taking it on. Left in here, it is killed.
struct Unwatched(Option<process::Child>);

impl Drop for Unwatched {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let killed = child.kill().and_then(|()| child.wait());
            if let Err(error) = killed {
                logger::recurring("killing a process that cannot be watched", |left_out| {
                    log::warn!(
                        "cannot kill process {}, which cannot be watched: {error}{left_out}",
                        child.id()
                    );
                });
            }
        }
    }
}

type Callback = Contained<Box<dyn FnOnce(&EventLoop, io::Result<ExitStatus>)>>;

struct Process {
    id: ChannelId,
    pidfd: OwnedFd,
    kill_at_end: Cell<bool>,
    /// Taken when it is called.
    callback: RefCell<Option<Callback>>,
}

impl Process {
    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal.to_rustix()) {
            Err(Errno::SRCH) => Err(gone()),
            result => Ok(result?),
        }
    }

    /// How the process has ended, taken from the kernel for good. `None` if it has not, and `options` says not to wait.
    fn reap(&self, options: WaitIdOptions) -> Option<io::Result<ExitStatus>> {
        let wait =
            || rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options | WaitIdOptions::EXITED);
        match retry_on_intr(wait) {
            Ok(status) => status.as_ref().map(|status| Ok(exit_status(status))),
            Err(Errno::CHILD) => Some(Err(taken())),
            Err(error) => Some(Err(error.into())),
        }
    }

    fn tell(&self, event_loop: &EventLoop, how: io::Result<ExitStatus>) {
        let callback = self.callback.borrow_mut().take();
        if let Some(callback) = callback {
            callback.into_inner()(event_loop, how);
        }
    }
}

impl Source for Process {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.pidfd.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        match self.reap(WaitIdOptions::NOHANG) {
            Some(how) => {
                event_loop.remove(self.id);
                self.tell(event_loop, how);
            }
            // Somebody traces it, and has yet to let go; that is an event of its own.
            None => event_loop.clear_ready(self.id, !Readiness::NONE),
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }

    fn on_close(&self, event_loop: &EventLoop) {
        let how = if self.kill_at_end.get() && self.signal(Signal::KILL).is_ok() {
            self.reap(WaitIdOptions::empty())
        } else {
            self.reap(WaitIdOptions::NOHANG)
        };
        let how = how.unwrap_or_else(|| Err(io::Error::other("the loop is dropped while the process runs")));
        self.tell(event_loop, how);
    }
}

/// In the form of wait(2): the code in the second byte, or the signal in the first with a bit for the core dump.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | if status.dumped() { 0x80 } else { 0 },
        (None, None) => unreachable!("the kernel was asked for processes that have ended"),
    };
    ExitStatus::from_raw(raw)
}

/// Only this end: the process has the other one, whose mode is its own.
fn nonblocking(pipe: OwnedFd) -> io::Result<File> {
    rustix::io::ioctl_fionbio(&pipe, true)?;
    Ok(File::from(pipe))
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended")
}

fn taken() -> io::Error {
    let message = "the process has ended, and somebody else has taken its status (a wait for any child, or an ignored SIGCHLD)";
    io::Error::new(io::ErrorKind::NotFound, message)
}
