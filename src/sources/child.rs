//! Child processes whose termination is an event of the loop.
//!
//! Each process is watched through its own pidfd (pidfd_open(2)), which becomes readable when the
//! process terminates. The pidfd always refers to that process, even if its PID is reused. So
//! neither SIGCHLD nor a thread is needed, and other code may wait for its own children.
//!
//! The standard library starts the process and is not used afterwards: it waits and kills by PID.

mod exit;
mod fork;

use std::any::type_name_of_val;
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

use self::exit::Exit;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{Description, EventLoop, Source, WeakLoop};
use crate::readiness::{Interest, Readiness};
use crate::sources::signals::signal::Signal;

/// A child process whose termination is reported by the loop.
///
/// The callback is called once, with the exit status, whether or not this value still exists. The
/// loop reaps the process, so no zombie remains. Dropping this does not kill the process and does
/// not stop waiting for it, unless [`kill_on_drop`](Child::kill_on_drop) is set; it closes the ends
/// of the process's pipes that were not taken.
///
/// If the loop is dropped first, the callback is called then: with the exit status if the process
/// has terminated, otherwise with an error. A running process continues, but nothing waits for it;
/// if it terminates before this process, it stays a zombie until this process terminates. With
/// `kill_on_drop` it is killed and reaped instead.
///
/// Bound to the loop's thread, like the loop. Needs Linux 5.4.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::process::Child;
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let mut command = Command::new("sh");
/// command.args(["-c", "exit 3"]);
/// let child = Child::spawn(&event_loop, &mut command, |event_loop, status| {
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
/// A stream that the command makes a pipe (`Stdio::piped`) can be taken as a non-blocking `File`,
/// ready for a [`Channel`](crate::io::Channel). The termination of the process and the end of its
/// output are two events, in either order: output already written stays in the pipe, and processes
/// that it started may keep writing.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::io::{Channel, Interest};
/// use reveille::process::Child;
/// use std::io::Read;
/// use std::process::{Command, Stdio};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let mut command = Command::new("echo");
/// command.arg("hello").stdout(Stdio::piped());
/// let on_exit = |_: &EventLoop, status: std::io::Result<std::process::ExitStatus>| {
///     assert!(status.unwrap().success());
/// };
/// let mut child = Child::spawn(&event_loop, &mut command, on_exit)?;
/// let mut output = Vec::new();
/// let stdout = child.take_stdout().expect("a pipe");
/// let _output = Channel::new(&event_loop, stdout, Interest::READABLE, move |event| {
///     let mut bytes = [0; 1024];
///     match event.source().read(&mut bytes) {
///         Ok(0) => {
///             assert_eq!(output, b"hello\n");
///             event.event_loop().quit();
///         }
///         Ok(n) => output.extend_from_slice(&bytes[..n]),
///         Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
///     }
/// })?;
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
pub struct Child {
    process: Weak<ChildSource>,
    event_loop: WeakLoop,
    id: u32,
    kill_on_drop: bool,
    exit: Exit,
    /// The process that started the child. Only this process kills the child on drop, not a fork of
    /// it.
    parent: ProcessMark,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Child {
    /// Starts `command`. The loop calls `callback` when the process has terminated.
    ///
    /// A signal sent to the process before its exec has its default effect, as it would on the
    /// program: no handler of this process runs there, even while hooks of the command run
    /// ([`pre_exec`](std::os::unix::process::CommandExt::pre_exec)).
    ///
    /// The callback is called in phase 3 of a turn, never from within this call. It receives an
    /// error instead of a status if other code has reaped the process (a wait for any child, or
    /// SIGCHLD set to be ignored), or if the loop is dropped while the process runs.
    ///
    /// # Errors
    /// - The error of the standard library if the process cannot be started.
    /// - The system's error if the process cannot be watched: typically EMFILE if no descriptor is
    ///   free, or ENOSYS if the kernel is too old. The process is then killed at once.
    ///
    /// The callback is dropped on error.
    pub fn spawn(
        event_loop: &EventLoop,
        command: &mut Command,
        callback: impl FnOnce(&EventLoop, io::Result<ExitStatus>) + 'static,
    ) -> io::Result<Child> {
        let name = type_name_of_val(&callback);
        let callback: Callback = Contained::new(Box::new(callback));
        event_loop.check_process()?;
        let mut started = Unwatched(Some(fork::with_default_actions(|| command.spawn())?));
        let child = started.0.as_mut().expect("it was set in the line above");
        let id = child.id();
        let pid = Pid::from_child(child);
        let mut child = Child {
            process: Weak::new(),
            event_loop: event_loop.downgrade(),
            id,
            kill_on_drop: false,
            exit: Exit::ToCallback,
            parent: ProcessMark::current(),
            stdin: child.stdin.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
            stdout: child.stdout.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
            stderr: child.stderr.take().map(|pipe| nonblocking(pipe.into())).transpose()?,
        };
        // Unless other code has already reaped it, the PID still refers to this process.
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => {
                // The process has been reaped and its PID may be reused: there is nothing to kill.
                started.0 = None;
                return Err(reaped());
            }
            Err(error) => return Err(error.into()),
        };
        let process = event_loop.register(Interest::READABLE, |id| {
            Rc::new(ChildSource {
                id,
                pidfd,
                kill_on_close: Cell::new(false),
                callback: RefCell::new(Some(callback)),
                name,
            })
        })?;
        started.0 = None;
        child.process = Rc::downgrade(&process);
        Ok(child)
    }

    /// Kills the process (SIGKILL) when this value or the loop is dropped. Default: the process
    /// continues. The callback is called in either case.
    pub fn kill_on_drop(mut self) -> Child {
        self.kill_on_drop = true;
        if let Some(process) = self.process.upgrade() {
            process.kill_on_close.set(true);
        }
        self
    }

    /// The PID. It may be reused by another process once this one [no longer
    /// runs](Child::is_running).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the callback has not been called yet.
    pub fn is_running(&self) -> bool {
        self.process.upgrade().is_some_and(|process| process.callback.borrow().is_some())
    }

    /// Sends `signal` to the process. A process that reuses its PID is not affected.
    ///
    /// A process that has terminated, but whose callback has not been called yet, accepts any
    /// signal without effect.
    ///
    /// # Errors
    /// - [`NotFound`](io::ErrorKind::NotFound) if the callback has been called, or the loop has
    ///   been dropped.
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the process now runs as another
    ///   user.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        let process = self.process.upgrade().filter(|process| process.callback.borrow().is_some());
        process.ok_or_else(ended)?.signal(signal)
    }

    /// Excludes the process from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// callback is called if the process terminates while the loop runs.
    pub fn exclude_from_idle(&self) {
        self.set_counted(false);
    }

    /// Ends the effect of [`exclude_from_idle`](Child::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.set_counted(true);
    }

    fn set_counted(&self, counted: bool) {
        if let Some(process) = self.process.upgrade() {
            self.event_loop.with(|event_loop| event_loop.set_counted(process.id, counted));
        }
    }

    /// Takes the write end of the process's standard input. Non-blocking. Returns `None` if it is
    /// not a pipe or has already been taken.
    ///
    /// Closing it signals end of input to the process.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.stdin.take()
    }

    /// Takes the read end of the process's standard output. Non-blocking. Returns `None` if it is
    /// not a pipe or has already been taken.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.stdout.take()
    }

    /// Takes the read end of the process's standard error. Non-blocking. Returns `None` if it is
    /// not a pipe or has already been taken.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.stderr.take()
    }

    /// Returns pipes that were taken.
    pub(crate) fn put_back(&mut self, stdin: Option<File>, stdout: Option<File>) {
        self.stdin = stdin;
        self.stdout = stdout;
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

/// A process between its start and its registration with the loop. Dropping this kills the process
/// if it is still set.
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

struct ChildSource {
    id: ChannelId,
    pidfd: OwnedFd,
    kill_on_close: Cell<bool>,
    /// `None` once it has been called.
    callback: RefCell<Option<Callback>>,
    /// The type of the callback.
    name: &'static str,
}

impl ChildSource {
    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal.to_rustix()) {
            Err(Errno::SRCH) => Err(ended()),
            result => Ok(result?),
        }
    }

    /// Reaps the process and returns its status. Returns `None` if it has not terminated and
    /// `options` contains `NOHANG`.
    fn reap(&self, options: WaitIdOptions) -> Option<io::Result<ExitStatus>> {
        let wait =
            || rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options | WaitIdOptions::EXITED);
        match retry_on_intr(wait) {
            Ok(status) => status.as_ref().map(|status| Ok(exit_status(status))),
            Err(Errno::CHILD) => Some(Err(reaped())),
            Err(error) => Some(Err(error.into())),
        }
    }

    fn call_back(&self, event_loop: &EventLoop, status: io::Result<ExitStatus>) {
        let callback = self.callback.borrow_mut().take();
        if let Some(callback) = callback {
            callback.into_inner()(event_loop, status);
        }
    }
}

impl Source for ChildSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.pidfd.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a child process").handler(self.name)
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        match self.reap(WaitIdOptions::NOHANG) {
            Some(status) => {
                event_loop.remove(self.id);
                self.call_back(event_loop, status);
            }
            // A tracer has not released it yet; the release is a further event.
            None => event_loop.clear_ready(self.id, !Readiness::NONE),
        }
    }

    fn on_close(&self, event_loop: &EventLoop) {
        let status = if self.kill_on_close.get() && self.signal(Signal::KILL).is_ok() {
            self.reap(WaitIdOptions::empty())
        } else {
            self.reap(WaitIdOptions::NOHANG)
        };
        let status =
            status.unwrap_or_else(|| Err(io::Error::other("the loop is dropped while the process runs")));
        self.call_back(event_loop, status);
    }
}

/// The status word of wait(2): the exit code in the second byte, or the signal in the first byte
/// with a bit for a core dump.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | if status.dumped() { 0x80 } else { 0 },
        (None, None) => unreachable!("only terminated processes were requested"),
    };
    ExitStatus::from_raw(raw)
}

/// Changes the mode of this end only: the process holds the other end, which has a mode of its own.
fn nonblocking(pipe: OwnedFd) -> io::Result<File> {
    rustix::io::ioctl_fionbio(&pipe, true)?;
    Ok(File::from(pipe))
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended")
}

fn reaped() -> io::Error {
    let message =
        "the process has ended, and other code has reaped it (a wait for any child, or an ignored SIGCHLD)";
    io::Error::new(io::ErrorKind::NotFound, message)
}
