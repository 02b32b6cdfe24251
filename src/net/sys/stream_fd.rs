//! [`StreamFd`]: a descriptor of a stream that the crate has taken over.
//!
//! The non-blocking mode belongs to the open file, not to the descriptor. A terminal or a pipe that
//! was inherited is shared with the shell and with other programs, which do not expect `EAGAIN`.
//! So a terminal, pipe or FIFO that blocks is opened again (`/proc/self/fd`), which gives this
//! process an open file of its own. If that fails, the mode is changed, and restored when the
//! descriptor is dropped.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::{FileType, Mode, OFlags, Stat, fcntl_getfl, fstat, major, minor};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SocketType, sockopt};

use super::adopted::Flags;
use super::descriptors::Directions;
use crate::event_loop::Refused;
use crate::event_loop::process_mark::ProcessMark;

/// The device number of the masters of pseudo-terminals (`/dev/ptmx`).
const PTY_MASTER: (u32, u32) = (5, 2);

/// The directions that a descriptor is open for.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a stream. The error of fstat(2) or
/// fcntl(2), such as `EBADF`.
pub(in crate::net) fn directions(fd: BorrowedFd<'_>) -> io::Result<Directions> {
    let (stat, status) = (fstat(fd)?, fcntl_getfl(fd)?);
    check_type(fd, &stat, status)?;
    let is_fifo = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    match status & OFlags::RWMODE {
        OFlags::RDONLY => Ok(Directions::Input),
        OFlags::WRONLY => Ok(Directions::Output),
        // It would read its own output. A program opens a FIFO in this way for an input that does
        // not end with its last writer.
        _ if is_fifo => Ok(Directions::Input),
        _ if has_position(&stat) => refuse(
            "a file that is open for reading and writing has one position for both; open it for one of them",
        ),
        _ => Ok(Directions::Both),
    }
}

/// Checks that a descriptor is a stream that is open for `direction`.
///
/// # Errors
/// Same as [`directions`].
pub(in crate::net) fn check_direction(fd: BorrowedFd<'_>, direction: Directions) -> io::Result<()> {
    let (stat, status) = (fstat(fd)?, fcntl_getfl(fd)?);
    check_type(fd, &stat, status)?;
    match status & OFlags::RWMODE {
        OFlags::RDONLY if direction.has_output() => refuse("the descriptor is not open for writing"),
        OFlags::WRONLY if direction.has_input() => refuse("the descriptor is not open for reading"),
        _ => Ok(()),
    }
}

/// Whether the descriptor is a socket.
pub(in crate::net) fn is_socket(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

fn check_type(fd: BorrowedFd<'_>, stat: &Stat, status: OFlags) -> io::Result<()> {
    if status.contains(OFlags::PATH) {
        return refuse("the descriptor is a path, and is not open for reading or writing");
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::CharacterDevice | FileType::RegularFile | FileType::BlockDevice => Ok(()),
        FileType::Socket if sockopt::socket_type(fd)? != SocketType::STREAM => {
            refuse("the socket is not a stream socket")
        }
        FileType::Socket if sockopt::socket_acceptconn(fd)? => {
            refuse("the socket listens, and is not a connection")
        }
        FileType::Socket => Ok(()),
        FileType::Directory => refuse("a directory is not a stream"),
        // epoll, eventfd, timerfd, signalfd, pidfd and others.
        _ => refuse("the descriptor is not a stream"),
    }
}

fn has_position(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice)
}

/// A descriptor of a stream: non-blocking, and closed on exec.
pub(in crate::net) struct StreamFd {
    /// `None` only in `into_original` and `drop`.
    fd: Option<OwnedFd>,
    /// What the program had, if that was opened again. `None` once it is not needed.
    original: Cell<Option<OwnedFd>>,
    /// The flags to restore, unless it was opened again.
    flags: Option<Flags>,
    process: ProcessMark,
    is_terminal: bool,
    is_socket: bool,
    is_pollable: bool,
}

impl StreamFd {
    /// Prepares a descriptor that has been checked.
    ///
    /// # Errors
    /// Those of epoll_create(2), epoll_ctl(2) and fcntl(2). The descriptor is unchanged.
    pub(in crate::net) fn prepare(fd: OwnedFd) -> Result<StreamFd, Refused<OwnedFd, io::Error>> {
        match StreamFd::try_prepare(&fd) {
            Err(error) => Err(Refused::new(fd, error)),
            Ok((Some(reopened), mut stream)) => {
                stream.fd = Some(reopened);
                stream.original.set(Some(fd));
                Ok(stream)
            }
            Ok((None, mut stream)) => {
                stream.fd = Some(fd);
                Ok(stream)
            }
        }
    }

    /// Returns what `fd` was replaced by, and the rest of a `StreamFd`.
    fn try_prepare(fd: &OwnedFd) -> io::Result<(Option<OwnedFd>, StreamFd)> {
        let stat = fstat(fd)?;
        let status = fcntl_getfl(fd)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(fd);
        let is_pollable = is_pollable(fd.as_fd())?;
        let reopened = match kind {
            // The path of a master leads to another pseudo-terminal.
            _ if is_terminal && (major(stat.st_rdev), minor(stat.st_rdev)) == PTY_MASTER => None,
            _ if status.contains(OFlags::NONBLOCK) => None,
            FileType::Fifo => reopen(fd.as_fd(), status),
            _ if is_terminal => reopen(fd.as_fd(), status),
            _ => None,
        };
        let flags = match reopened {
            Some(_) => None,
            // The mode has no effect on a descriptor that is always ready.
            None if !is_pollable => Some(Flags::close_on_exec(fd)?),
            None => Some(Flags::prepare(fd)?),
        };
        let stream = StreamFd {
            fd: None,
            original: Cell::new(None),
            flags,
            process: ProcessMark::current(),
            is_terminal,
            is_socket: kind == FileType::Socket,
            is_pollable,
        };
        Ok((reopened, stream))
    }

    /// Closes the descriptor that the program had, if it was opened again.
    pub(in crate::net) fn keep(&self) {
        self.original.take();
    }

    /// What the program had, with its flags restored. Not after [`keep`](StreamFd::keep).
    pub(in crate::net) fn into_original(mut self) -> OwnedFd {
        self.restore();
        let fd = self.fd.take().expect("it is taken once");
        self.original.take().unwrap_or(fd)
    }

    pub(in crate::net) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(in crate::net) fn is_socket(&self) -> bool {
        self.is_socket
    }

    /// Whether epoll accepts it. Otherwise it is always ready.
    pub(in crate::net) fn is_pollable(&self) -> bool {
        self.is_pollable
    }

    fn restore(&mut self) {
        // The open file is shared with the parent of a forked process.
        if let (Some(fd), Some(flags), true) = (&self.fd, self.flags.take(), self.process.is_current()) {
            flags.restore(fd);
        }
    }
}

impl AsFd for StreamFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("it is taken at the end only").as_fd()
    }
}

impl Drop for StreamFd {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Whether epoll accepts the descriptor: not a regular file, `/dev/null` or `/dev/zero`.
fn is_pollable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    match epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens the file of a terminal or pipe again, non-blocking. `None` if that is not possible, or if
/// the writers of a pipe are gone: only the existing open file knows that there were any.
fn reopen(fd: BorrowedFd<'_>, status: OFlags) -> Option<OwnedFd> {
    let kept = status & (OFlags::RWMODE | OFlags::APPEND | OFlags::DIRECT);
    let flags = kept | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let reopened = retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty())).ok()?;
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let polled = retry_on_intr(|| rustix::event::poll(&mut fds, Some(&Timespec::default())));
    let has_ended = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
    (polled.is_ok() && !has_ended).then_some(reopened)
}

fn refuse<T>(message: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
