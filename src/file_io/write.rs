//! The write operations of [`FileIo`].

use std::io;

use super::operation::{Goal, Operation, Outcome, Position};
use super::{File, FileIo, OperationId};
use crate::event_loop::EventLoop;

impl FileIo {
    /// Writes `buffer` at `offset`. Does not change the file position.
    ///
    /// `then` receives the number of bytes written, and the unchanged buffer. A short write is not
    /// an error: a full disk, a limit or a pipe may be the cause, and the next write returns the
    /// error. [`write_all_at`](FileIo::write_all_at) continues by itself. A file without positions
    /// is written as by [`write`](FileIo::write), and a file opened for
    /// [appending](super::OpenOptions::appending) at its end.
    ///
    /// # Errors
    /// `then` receives the error of pwrite(2), such as [`StorageFull`](io::ErrorKind::StorageFull)
    /// (ENOSPC); [`InvalidInput`](io::ErrorKind::InvalidInput) if the offset exceeds `i64::MAX`.
    pub fn write_at(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.write_to(file, Position::At(offset), buffer, Goal::Some, then)
    }

    /// Same as [`write_at`](FileIo::write_at), but writes at the file position and advances it: for
    /// pipes, terminals, and sequential writes of files. Waits for buffer space also if the
    /// descriptor is in non-blocking mode.
    ///
    /// Start it when the previous write has completed: two writes at a time are not ordered.
    ///
    /// # Errors
    /// Same as [`write_at`](FileIo::write_at); [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the
    /// other end of a pipe is closed.
    pub fn write(
        &self,
        file: &File,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.write_to(file, Position::Current, buffer, Goal::Some, then)
    }

    /// Writes the whole of `buffer` at `offset`, with as many writes as necessary.
    ///
    /// # Errors
    /// Same as [`write_at`](FileIo::write_at), but a part may have been written;
    /// [`WriteZero`](io::ErrorKind::WriteZero) if a write returns 0.
    pub fn write_all_at(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<()>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.write_to(file, Position::At(offset), buffer, Goal::All, |event_loop, written, buffer| {
            then(event_loop, written.map(drop), buffer);
        })
    }

    /// Same as [`write_all_at`](FileIo::write_all_at), but writes at the file position and advances
    /// it.
    ///
    /// # Errors
    /// Same as [`write`](FileIo::write), but a part may have been written;
    /// [`WriteZero`](io::ErrorKind::WriteZero) if a write returns 0.
    pub fn write_all(
        &self,
        file: &File,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<()>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.write_to(file, Position::Current, buffer, Goal::All, |event_loop, written, buffer| {
            then(event_loop, written.map(drop), buffer);
        })
    }

    fn write_to(
        &self,
        file: &File,
        to: Position,
        buffer: Vec<u8>,
        goal: Goal,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        let operation = match to.check() {
            Ok(()) => Ok(Operation::Write { file: file.share(), to, buffer, done: 0, goal }),
            Err(error) => Err(Outcome::Transferred(Err(error), buffer)),
        };
        self.start(operation, |event_loop, outcome| {
            let (written, buffer) = outcome.into_transferred();
            then(event_loop, written, buffer);
        })
    }
}
