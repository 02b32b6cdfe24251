//! The operations on files, with all their data, and their outcomes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx};
use rustix::io::{Errno, retry_on_intr};

use super::file::File;
use super::metadata::Metadata;

/// An operation, and everything that it needs until it has completed.
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
    /// Writes the buffer except its first `done` bytes.
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
    Metadata {
        of: Target,
    },
    Close {
        descriptor: OwnedFd,
    },
}

/// A position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// The offset from the beginning; at most `i64::MAX`.
    At(u64),
    /// The file position, at which the previous read or write has ended.
    Current,
}

impl Position {
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if no file can have that position. The kernel
    /// would misinterpret some of them.
    pub(super) fn check(self) -> io::Result<()> {
        match self {
            Position::At(offset) if i64::try_from(offset).is_err() => {
                let message = "the offset exceeds i64::MAX";
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
            _ => Ok(()),
        }
    }

    /// The position after `bytes` more.
    pub(super) fn advanced_by(self, bytes: usize) -> Position {
        match self {
            Position::At(offset) => Position::At(offset.saturating_add(bytes as u64)),
            Position::Current => Position::Current,
        }
    }
}

/// The condition for the completion of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// At least a part of the buffer is written.
    Some,
    All,
}

/// What a sync flushes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    All,
    Data,
}

pub(super) enum Target {
    File(File),
    Path(CString),
}

/// The outcome of an operation.
#[derive(Debug)]
pub(super) enum Outcome {
    Opened(io::Result<OwnedFd>),
    /// The number of bytes read or written, and the buffer.
    Transferred(io::Result<usize>, Vec<u8>),
    Done(io::Result<()>),
    Metadata(io::Result<Box<Statx>>),
}

impl Operation {
    /// Performs the operation, and blocks until it has completed.
    ///
    /// # Errors
    /// Returns the remaining operation, for a write whose goal is `All`.
    pub(super) fn perform(self) -> Result<Outcome, Operation> {
        Ok(match self {
            Operation::Open { path, flags, mode } => {
                let opened = retry_on_intr(|| rustix::fs::openat(CWD, &path, flags, mode));
                Outcome::Opened(opened.map_err(io::Error::from))
            }
            Operation::Read { file, from, mut buffer } => {
                let read = match from {
                    Position::At(offset) => read_at(&file, &mut buffer, offset),
                    Position::Current => read_current(&file, &mut buffer),
                };
                Outcome::Transferred(read.map_err(io::Error::from), buffer)
            }
            Operation::Write { ref file, to, ref buffer, done, .. } => {
                let bytes = &buffer[done..];
                let written = match to {
                    Position::At(offset) => write_at(file, bytes, offset),
                    Position::Current => write_current(file, bytes),
                };
                match written {
                    Ok(n) => return self.written(n),
                    Err(error) => self.fail(error.into()),
                }
            }
            Operation::Sync { file, what } => {
                let synced = retry_on_intr(|| match what {
                    Sync::All => rustix::fs::fsync(&file),
                    Sync::Data => rustix::fs::fdatasync(&file),
                });
                Outcome::Done(synced.map_err(io::Error::from))
            }
            Operation::Metadata { of } => {
                let status = retry_on_intr(|| stat(&of)).map(Box::new);
                Outcome::Metadata(status.map_err(io::Error::from))
            }
            Operation::Close { descriptor } => {
                // There is no safe call that returns the error of close(2).
                drop(descriptor);
                Outcome::Done(Ok(()))
            }
        })
    }

    /// The outcome of a write after `n` more bytes have been written.
    ///
    /// # Errors
    /// Returns the operation for the remaining bytes.
    pub(super) fn written(self, n: usize) -> Result<Outcome, Operation> {
        match self {
            Operation::Write { file, to, buffer, done, goal: Goal::All } if done + n < buffer.len() => {
                if n == 0 {
                    let error = io::Error::new(io::ErrorKind::WriteZero, "a write returned 0");
                    return Ok(Outcome::Transferred(Err(error), buffer));
                }
                Err(Operation::Write { file, to: to.advanced_by(n), buffer, done: done + n, goal: Goal::All })
            }
            Operation::Write { buffer, done, .. } => Ok(Outcome::Transferred(Ok(done + n), buffer)),
            _ => unreachable!("only a write is written"),
        }
    }

    /// Whether the operation can be cancelled. A close is always performed.
    pub(super) fn may_be_cancelled(&self) -> bool {
        !matches!(self, Operation::Close { .. })
    }

    /// The outcome if the operation is cancelled before it has had an effect.
    pub(super) fn cancelled(self) -> Outcome {
        self.fail(Errno::CANCELED.into())
    }

    /// The outcome if the operation fails with `error` before it has begun.
    pub(super) fn fail(self, error: io::Error) -> Outcome {
        match self {
            Operation::Open { .. } => Outcome::Opened(Err(error)),
            Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => {
                Outcome::Transferred(Err(error), buffer)
            }
            Operation::Sync { .. } | Operation::Close { .. } => Outcome::Done(Err(error)),
            Operation::Metadata { .. } => Outcome::Metadata(Err(error)),
        }
    }
}

/// Each operation has outcomes of one kind, also if it fails before it has begun.
impl Outcome {
    pub(super) fn into_opened(self) -> io::Result<OwnedFd> {
        match self {
            Outcome::Opened(opened) => opened,
            other => unreachable!("an open ends in {other:?}"),
        }
    }

    pub(super) fn into_transferred(self) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Outcome::Transferred(moved, buffer) => (moved, buffer),
            other => unreachable!("a read or a write ends in {other:?}"),
        }
    }

    pub(super) fn into_done(self) -> io::Result<()> {
        match self {
            Outcome::Done(done) => done,
            other => unreachable!("a sync or a close ends in {other:?}"),
        }
    }

    pub(super) fn into_metadata(self) -> io::Result<Metadata> {
        match self {
            Outcome::Metadata(status) => status.map(|statx| Metadata::from(*statx)),
            other => unreachable!("a metadata request ends in {other:?}"),
        }
    }
}

/// A file without positions, such as a pipe, is read at its current position; io_uring does the
/// same.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    match retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset)) {
        Err(Errno::SPIPE) => read_current(file, buffer),
        result => result,
    }
}

fn read_current(file: &File, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    waiting(file, PollFlags::IN, || retry_on_intr(|| rustix::io::read(file, &mut *buffer)))
}

fn write_at(file: &File, bytes: &[u8], offset: u64) -> rustix::io::Result<usize> {
    match retry_on_intr(|| rustix::io::pwrite(file, bytes, offset)) {
        Err(Errno::SPIPE) => write_current(file, bytes),
        result => result,
    }
}

fn write_current(file: &File, bytes: &[u8]) -> rustix::io::Result<usize> {
    waiting(file, PollFlags::OUT, || retry_on_intr(|| rustix::io::write(file, bytes)))
}

/// Waits for readiness even if the descriptor is in non-blocking mode, like io_uring.
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

fn stat(of: &Target) -> rustix::io::Result<Statx> {
    match of {
        Target::File(file) => rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, Metadata::MASK),
        Target::Path(path) => rustix::fs::statx(CWD, path, AtFlags::empty(), Metadata::MASK),
    }
}
