//! Writing to files: the calls of [`FileIo`] for that.

use std::io;

use super::operation::{Goal, Operation, Outcome, Position};
use super::{File, FileIo, OperationId};
use crate::event_loop::EventLoop;

impl FileIo {
    /// Writes `buffer` at `offset`; the position in the file stays where it is.
    ///
    /// `then` is told how many bytes were written, and has the buffer back, which is as it was. Fewer than there are
    /// is no error: a full disk, a limit or a pipe may be the cause, and the next write tells.
    /// [`write_all_at`](FileIo::write_all_at) goes on by itself. What has no positions is written as by
    /// [`write`](FileIo::write), and what was opened for [appending](super::OpenOptions::appending) at its end.
    ///
    /// # Errors
    /// `then` is told them: what the kernel says (pwrite(2)), such as [`StorageFull`](io::ErrorKind::StorageFull)
    /// (ENOSPC); [`InvalidInput`](io::ErrorKind::InvalidInput) if the offset is more than an `i64` can hold.
    pub fn write_at(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.write_to(file, Position::At(offset), buffer, Goal::Some, then)
    }

    /// As [`write_at`](FileIo::write_at), at the file's position, which moves along; for pipes, terminals, and files
    /// that are written one piece after the other. Room is waited for, also in what is in non-blocking mode.
    ///
    /// Begin it when the one before has ended: two at a time come in no order.
    ///
    /// # Errors
    /// As [`write_at`](FileIo::write_at); [`BrokenPipe`](io::ErrorKind::BrokenPipe) if nobody reads any longer.
    pub fn write(
        &self,
        file: &File,
        buffer: Vec<u8>,
        then: impl FnOnce(&EventLoop, io::Result<usize>, Vec<u8>) + 'static,
    ) -> OperationId {
        self.write_to(file, Position::Current, buffer, Goal::Some, then)
    }

    /// Writes the whole of `buffer` at `offset`, with as many operations as that takes.
    ///
    /// # Errors
    /// As [`write_at`](FileIo::write_at), and then a part of it may have been written;
    /// [`WriteZero`](io::ErrorKind::WriteZero) if nothing is taken any longer, without an error.
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

    /// As [`write_all_at`](FileIo::write_all_at), at the file's position, which moves along.
    ///
    /// # Errors
    /// As [`write`](FileIo::write), and then a part of it may have been written;
    /// [`WriteZero`](io::ErrorKind::WriteZero) if nothing is taken any longer, without an error.
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
            Err(error) => Err(Outcome::Moved(Err(error), buffer)),
        };
        self.start(operation, |event_loop, outcome| {
            let (written, buffer) = outcome.into_moved();
            then(event_loop, written, buffer);
        })
    }
}
