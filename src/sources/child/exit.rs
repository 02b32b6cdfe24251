//! The exit of a process as a future.

use std::io;
use std::process::{Command, ExitStatus};

use super::{Child, ended};
use crate::event_loop::tasks::completion::{Completion, completion};
use crate::event_loop::tasks::executor::current;

/// Where the exit status goes.
pub(super) enum Exit {
    ToCallback,
    Awaited(Completion<io::Result<ExitStatus>>),
    Returned(ExitStatus),
    Failed,
}

impl Child {
    /// Starts `command` on this thread's loop, without a callback. The exit is
    /// [awaited](Child::wait).
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use reveille::process::Child;
    /// use std::process::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// event_loop.spawn_local(async {
    ///     let mut child = Child::spawn_async(&mut Command::new("true")).expect("a program");
    ///     assert!(child.wait().await.expect("an exit status").success());
    /// });
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`spawn`](Child::spawn).
    ///
    /// # Panics
    /// If this thread has no loop.
    #[track_caller]
    pub fn spawn_async(command: &mut Command) -> io::Result<Child> {
        let (completer, completion) = completion();
        let mut child = Child::spawn(&current(), command, |_, status| completer.complete(status))?;
        child.exit = Exit::Awaited(completion);
        Ok(child)
    }

    /// Waits until the process has terminated, and returns its exit status. Later calls return the
    /// same status.
    ///
    /// Cancel safe: dropping the future changes nothing, and the next call waits again.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) for a child of [`spawn`](Child::spawn),
    ///   whose status goes to its callback.
    /// - The error that a callback would receive, in the first call.
    ///   [`NotFound`](io::ErrorKind::NotFound) after that.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = match &mut self.exit {
            Exit::Awaited(exit) => exit.await.unwrap_or_else(|| Err(ended())),
            Exit::Returned(status) => return Ok(*status),
            Exit::Failed => return Err(ended()),
            Exit::ToCallback => {
                let message = "the exit status of this process goes to its callback";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        self.exit = status.as_ref().map_or(Exit::Failed, |status| Exit::Returned(*status));
        status
    }
}
