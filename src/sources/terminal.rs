//! Terminals: raw mode, the size of the window, and its changes.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::event_loop::EventLoop;
use crate::event_loop::containment::logger;
use crate::event_loop::process_mark::ProcessMark;
use crate::sources::signals::Signals;
use crate::sources::signals::signal::Signal;

/// A terminal, for its mode and its size. Its bytes are read and written by a connection:
/// [`TcpConnection::adopt_pipes`](crate::TcpConnection::adopt_pipes) for the standard input and
/// output, or [`adopt`](crate::TcpConnection::adopt) for one descriptor.
///
/// ```no_run
/// use reveille::io::Terminal;
/// use reveille::{Buffer, EventLoop, ConnectionHandler, TcpConnection};
/// use std::io;
/// use std::os::fd::AsFd;
///
/// struct Keys;
///
/// impl ConnectionHandler for Keys {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         match input.take_all() {
///             b"q" => conn.close(),
///             key => conn.send(format!("{}\r\n", key.escape_ascii()))?,
///         }
///         Ok(())
///     }
/// }
///
/// fn main() -> io::Result<()> {
///     let event_loop = EventLoop::new()?;
///     let terminal = Terminal::new(io::stdin())?;
///     let resized = |_: &EventLoop, size| print!("{size}\r\n");
///     let resizes = terminal.on_resize(&event_loop, resized)?;
///     resizes.exclude_from_idle();
///     let _raw = terminal.raw_mode()?; // until `main` returns, or panics
///     let input = io::stdin().as_fd().try_clone_to_owned()?;
///     let output = io::stdout().as_fd().try_clone_to_owned()?;
///     TcpConnection::adopt_pipes(&event_loop, input, output, |_| Keys)?;
///     event_loop.run_until_idle()
/// }
/// ```
#[derive(Debug)]
pub struct Terminal {
    shared: Arc<Shared>,
}

/// What a terminal and its raw modes share.
#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    raw: Mutex<Raw>,
}

/// The raw modes of a terminal that exist.
#[derive(Debug, Default)]
struct Raw {
    count: usize,
    /// The mode before the first of them.
    saved: Option<Termios>,
}

impl Terminal {
    /// The terminal that `fd` is open for, such as the standard input. `fd` is duplicated.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a terminal. EMFILE if no
    /// descriptor is free.
    pub fn new(fd: impl AsFd) -> io::Result<Terminal> {
        match tcgetattr(&fd) {
            Ok(_) => {
                let (fd, raw) = (fd.as_fd().try_clone_to_owned()?, Mutex::default());
                Ok(Terminal { shared: Arc::new(Shared { fd, raw }) })
            }
            Err(Errno::NOTTY) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a terminal"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Switches the terminal to raw mode: each key is input at once, without echo, line editing or
    /// signals, and output is unchanged. The former mode is restored when the result is dropped, in
    /// any order with the terminal. If this was called several times, the last of the results
    /// restores the mode before the first call. Values of `Terminal` for the same terminal do not
    /// know of each other.
    ///
    /// A panic that unwinds drops it too. If the program aborts or is killed, the terminal stays in
    /// raw mode; the shell command `stty sane` restores it. A panic in a callback is caught by the
    /// loop and does not change the mode.
    ///
    /// # Errors
    /// That of tcsetattr(3), such as EIO for a process in the background.
    pub fn raw_mode(&self) -> io::Result<RawMode> {
        let Shared { fd, raw } = &*self.shared;
        let mut raw = raw.lock();
        let current = tcgetattr(fd)?;
        let mut mode = current.clone();
        mode.make_raw();
        tcsetattr(fd, OptionalActions::Now, &mode)?;
        raw.count += 1;
        raw.saved.get_or_insert(current);
        drop(raw);
        Ok(RawMode { shared: Arc::clone(&self.shared), process: ProcessMark::current() })
    }

    /// The size of the window.
    ///
    /// # Errors
    /// That of the ioctl `TIOCGWINSZ`.
    pub fn window_size(&self) -> io::Result<WindowSize> {
        let size = tcgetwinsize(&self.shared.fd)?;
        Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
    }

    /// Calls `callback` with the new size after each change (SIGWINCH), which the kernel signals to
    /// the process if this is its controlling terminal and it is in the foreground. Several changes
    /// may be reported as one. The callback ends when the result is dropped.
    ///
    /// # Errors
    /// Same as [`Signals::new`](crate::signal::Signals::new).
    pub fn on_resize(
        &self,
        event_loop: &EventLoop,
        mut callback: impl FnMut(&EventLoop, WindowSize) + 'static,
    ) -> io::Result<Signals> {
        let terminal = Terminal { shared: Arc::clone(&self.shared) };
        Signals::new(event_loop, [Signal::WINCH], move |event_loop, _| match terminal.window_size() {
            Ok(size) => callback(event_loop, size),
            Err(error) => logger::recurring("the size of a terminal", |left_out| {
                log::warn!("cannot read the size of a terminal: {error}{left_out}");
            }),
        })
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }
}

/// The raw mode of a [`Terminal`]. Dropping the last of a terminal restores the mode before the
/// first. In a forked child it has no effect.
#[must_use = "the former mode is restored when this is dropped"]
pub struct RawMode {
    shared: Arc<Shared>,
    process: ProcessMark,
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // In a forked child the lock may be held for ever.
        if !self.process.is_current() {
            return;
        }
        let mut raw = self.shared.raw.lock();
        raw.count -= 1;
        if raw.count > 0 {
            return;
        }
        let Some(saved) = raw.saved.take() else { return };
        let restored = tcsetattr(&self.shared.fd, OptionalActions::Now, &saved);
        // Released before the logger is called.
        drop(raw);
        // It fails if the terminal has hung up, which has no mode.
        if let Err(error) = restored {
            logger::call(|| log::debug!("cannot restore the mode of a terminal: {error}"));
        }
    }
}

impl fmt::Debug for RawMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMode").field("fd", &self.shared.fd).finish_non_exhaustive()
    }
}

/// The size of a terminal's window, in characters. Zero if it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct WindowSize {
    /// The number of rows.
    pub rows: u16,
    /// The number of columns.
    pub columns: u16,
}

impl fmt::Display for WindowSize {
    /// Columns first, as in `80x24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.columns, self.rows)
    }
}
