//! What can be done with a file, with all that it takes, and what comes of it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx};
use rustix::io::{Errno, retry_on_intr};

use super::file::File;
use super::metadata::Metadata;

/// Something to be done, and everything that it needs until it is done.
pub(super) enum Operation {
    Open {
        path: CString,
        flags: OFlags,
        mode: Mode,
    },
    Read {
        file: File,
        from: Position,
        buffer: Vec<u8>,
    },
    /// What is behind the first `done` bytes of the buffer.
    Write {
        file: File,
        to: Position,
        buffer: Vec<u8>,
        done: usize,
        goal: Goal,
    },
    Sync {
        file: File,
        what: Sync,
    },
    Status {
        of: Target,
    },
    Close {
        descriptor: OwnedFd,
    },
}

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// So far from its beginning; not more than an `i64` can hold.
    At(u64),
    /// Where the last operation of this kind has ended.
    Current,
}

impl Position {
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if no file can have it. The kernel would take some of these for
    /// something else.
    pub(super) fn check(self) -> io::Result<()> {
        match self {
            Position::At(offset) if i64::try_from(offset).is_err() => {
                let message = "no file is so large that there could be such an offset";
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
            _ => Ok(()),
        }
    }

    /// So many bytes further on.
    pub(super) fn behind(self, bytes: usize) -> Position {
        match self {
            Position::At(offset) => Position::At(offset.saturating_add(bytes as u64)),
            Position::Current => Position::Current,
        }
    }
}

/// When a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// When the kernel has taken some.
    Some,
    All,
}

/// What is to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    All,
    Data,
}

pub(super) enum Target {
    File(File),
    Path(CString),
}

/// What has come of an operation.
#[derive(Debug)]
pub(super) enum Outcome {
    Opened(io::Result<OwnedFd>),
    /// How many bytes were read or written, and the buffer.
    Moved(io::Result<usize>, Vec<u8>),
    Done(io::Result<()>),
    Status(io::Result<Box<Statx>>),
}

impl Operation {
    /// Does it, for as long as it takes.
    ///
    /// # Errors
    /// What is left to do, of a write whose goal is all.
    pub(super) fn perform(self) -> Result<Outcome, Operation> {
        Ok(match self {
            Operation::Open { path, flags, mode } => {
                let opened = retry_on_intr(|| rustix::fs::openat(CWD, &path, flags, mode));
                Outcome::Opened(opened.map_err(io::Error::from))
            }
            Operation::Read { file, from, mut buffer } => {
                let read = match from {
                    Position::At(offset) => read_at(&file, &mut buffer, offset),
                    Position::Current => read_on(&file, &mut buffer),
                };
                Outcome::Moved(read.map_err(io::Error::from), buffer)
            }
            Operation::Write { ref file, to, ref buffer, done, .. } => {
                let bytes = &buffer[done..];
                let written = match to {
                    Position::At(offset) => write_at(file, bytes, offset),
                    Position::Current => write_on(file, bytes),
                };
                match written {
                    Ok(n) => return self.written(n),
                    Err(error) => self.refuse(error.into()),
                }
            }
            Operation::Sync { file, what } => {
                let synced = retry_on_intr(|| match what {
                    Sync::All => rustix::fs::fsync(&file),
                    Sync::Data => rustix::fs::fdatasync(&file),
                });
                Outcome::Done(synced.map_err(io::Error::from))
            }
            Operation::Status { of } => {
                let status = retry_on_intr(|| status(&of)).map(Box::new);
                Outcome::Status(status.map_err(io::Error::from))
            }
            Operation::Close { descriptor } => {
                // There is no safe call that would tell what the kernel says.
                drop(descriptor);
                Outcome::Done(Ok(()))
            }
        })
    }

    /// What comes of a write of which `n` bytes have been written, or what is left to do of it.
    ///
    /// # Errors
    /// The operation for the rest.
    pub(super) fn written(self, n: usize) -> Result<Outcome, Operation> {
        match self {
            Operation::Write { file, to, buffer, done, goal: Goal::All } if done + n < buffer.len() => {
                if n == 0 {
                    let error = io::Error::new(io::ErrorKind::WriteZero, "nothing is taken any longer");
                    return Ok(Outcome::Moved(Err(error), buffer));
                }
                Err(Operation::Write { file, to: to.behind(n), buffer, done: done + n, goal: Goal::All })
            }
            Operation::Write { buffer, done, .. } => Ok(Outcome::Moved(Ok(done + n), buffer)),
            _ => unreachable!("only a write is written"),
        }
    }

    /// Whether it can be given up. A close is done in any case.
    pub(super) fn may_be_cancelled(&self) -> bool {
        !matches!(self, Operation::Close { .. })
    }

    /// What comes of it if it is given up before it has begun, or so that it has done nothing.
    pub(super) fn cancelled(self) -> Outcome {
        self.refuse(Errno::CANCELED.into())
    }

    /// What comes of it if it is not done, because of `error`.
    pub(super) fn refuse(self, error: io::Error) -> Outcome {
        match self {
            Operation::Open { .. } => Outcome::Opened(Err(error)),
            Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => {
                Outcome::Moved(Err(error), buffer)
            }
            Operation::Sync { .. } | Operation::Close { .. } => Outcome::Done(Err(error)),
            Operation::Status { .. } => Outcome::Status(Err(error)),
        }
    }
}

/// Each operation has outcomes of one kind, also those that it is refused with.
impl Outcome {
    pub(super) fn into_opened(self) -> io::Result<OwnedFd> {
        match self {
            Outcome::Opened(opened) => opened,
            other => unreachable!("an open ends in {other:?}"),
        }
    }

    pub(super) fn into_moved(self) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Outcome::Moved(moved, buffer) => (moved, buffer),
            other => unreachable!("a read or a write ends in {other:?}"),
        }
    }

    pub(super) fn into_done(self) -> io::Result<()> {
        match self {
            Outcome::Done(done) => done,
            other => unreachable!("a sync or a close ends in {other:?}"),
        }
    }

    pub(super) fn into_status(self) -> io::Result<Metadata> {
        match self {
            Outcome::Status(status) => status.map(|statx| Metadata::from(*statx)),
            other => unreachable!("a question for the status ends in {other:?}"),
        }
    }
}

/// What has no positions, as a pipe, is read where it is; io_uring does the same.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    match retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset)) {
        Err(Errno::SPIPE) => read_on(file, buffer),
        result => result,
    }
}

fn read_on(file: &File, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    waiting(file, PollFlags::IN, || retry_on_intr(|| rustix::io::read(file, &mut *buffer)))
}

fn write_at(file: &File, bytes: &[u8], offset: u64) -> rustix::io::Result<usize> {
    match retry_on_intr(|| rustix::io::pwrite(file, bytes, offset)) {
        Err(Errno::SPIPE) => write_on(file, bytes),
        result => result,
    }
}

fn write_on(file: &File, bytes: &[u8]) -> rustix::io::Result<usize> {
    waiting(file, PollFlags::OUT, || retry_on_intr(|| rustix::io::write(file, bytes)))
}

/// Waits where what is in non-blocking mode does not, as io_uring does.
fn waiting(
    file: &File,
    until: PollFlags,
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    loop {
        match call() {
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(file, until)];
                retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
            }
            result => return result,
        }
    }
}

fn status(of: &Target) -> rustix::io::Result<Statx> {
    match of {
        Target::File(file) => rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, Metadata::MASK),
        Target::Path(path) => rustix::fs::statx(CWD, path, AtFlags::empty(), Metadata::MASK),
    }
}
