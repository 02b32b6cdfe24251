//! What waits to be sent, in order: bytes that were copied, bytes that are shared with others, and ranges of files.
//!
//! Bytes that a caller gives away or shares are queued as they are, whatever their number; those that are borrowed are copied once.
//! Small ones are collected in pieces of bounded size, so that a queue that grows never moves what it holds.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::retry_on_intr;

use super::replies::Replies;
use crate::net::sys::fd_passing::{are_too_many, send_with_descriptors};
use crate::net::sys::stream::{self, Transferred};

/// How far a piece grows to which small sends are added.
const PIECE: usize = 64 * 1024;

/// How many pieces go out in one system call.
const MAX_IOVECS: usize = 16;

/// A file of which no more is left than this is copied into memory: a descriptor is dearer.
const SMALL_FILE: u64 = PIECE as u64;

/// How many files may wait to be sent.
const MAX_FILES: usize = 64;

/// After so many bytes in one turn of the loop it is the turn of the others.
const BYTES_PER_TURN: u64 = 1024 * 1024;

/// Bytes and files on their way to the kernel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    segments: VecDeque<Segment>,
    /// The unsent bytes that are in memory.
    in_memory: usize,
    /// How much memory the segments take, what is sent of them included.
    memory: usize,
    /// The bytes that are left in files.
    in_files: u64,
    files: usize,
    /// How many of all these bytes are replies; kept by whoever adds and sends.
    pub(super) replies: Replies,
}

#[derive(Debug)]
enum Segment {
    Owned {
        bytes: Vec<u8>,
        sent: usize,
    },
    Shared {
        bytes: Arc<[u8]>,
        sent: usize,
        /// How many held the bytes when they were queued, each of which counts its part of the memory.
        holders: usize,
    },
    File {
        file: OwnedFd,
        offset: u64,
        left: u64,
    },
    /// Descriptors that go with the first of the bytes, of which none has been sent.
    WithFds {
        bytes: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    },
}

impl Segment {
    /// What it holds in memory to be sent with others, which is never nothing unless it is a file, or has a call for itself.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Segment::Owned { bytes, sent } => Some(&bytes[*sent..]),
            Segment::Shared { bytes, sent, .. } => Some(&bytes[*sent..]),
            Segment::File { .. } | Segment::WithFds { .. } => None,
        }
    }

    /// How much memory it takes. A block stays whole until the last of its bytes has been sent.
    fn memory(&self) -> usize {
        match self {
            Segment::Owned { bytes, .. } | Segment::WithFds { bytes, .. } => bytes.capacity(),
            Segment::Shared { bytes, holders, .. } => bytes.len() / holders,
            Segment::File { .. } => 0,
        }
    }
}

/// How a queue's turn has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// The kernel takes no more for now.
    Blocked,
    /// The kernel takes no descriptors for now, and does not report when it does.
    FdsBlocked,
    /// All is sent, or as much as one turn allows.
    Done,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// All that is queued, in bytes.
    pub(super) fn len(&self) -> usize {
        self.in_memory.saturating_add(usize::try_from(self.in_files).unwrap_or(usize::MAX))
    }

    /// How much of it is in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// How much memory that takes: whole blocks, and of shared ones a part.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    fn add(&mut self, segment: Segment) {
        self.memory += segment.memory();
        self.segments.push_back(segment);
    }

    fn pop_front_segment(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            self.memory -= segment.memory();
        }
    }

    /// Copies `bytes` behind what is there.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.in_memory += bytes.len();
        if let Some(Segment::Owned { bytes: last, .. }) = self.segments.back_mut() {
            let len = last.len() + bytes.len();
            if len <= last.capacity() || len <= PIECE {
                let before = last.capacity();
                last.extend_from_slice(bytes);
                self.memory += last.capacity() - before;
                return;
            }
        }
        self.add(Segment::Owned { bytes: bytes.to_vec(), sent: 0 });
    }

    /// Adds `bytes`, of which so many have been `sent`.
    pub(super) fn push_owned(&mut self, bytes: Vec<u8>, sent: usize) {
        // A few bytes are better copied than kept in a block of their own.
        if bytes.len() - sent < PIECE / 16 {
            return self.push(&bytes[sent..]);
        }
        self.in_memory += bytes.len() - sent;
        self.add(Segment::Owned { bytes, sent });
    }

    /// As [`push_owned`](Queue::push_owned), of bytes that others hold as well.
    pub(super) fn push_shared(&mut self, bytes: Arc<[u8]>, sent: usize) {
        if bytes.len() - sent < PIECE / 16 {
            return self.push(&bytes[sent..]);
        }
        self.in_memory += bytes.len() - sent;
        let holders = Arc::strong_count(&bytes);
        self.add(Segment::Shared { bytes, sent, holders });
    }

    /// Whether one more file may be added. A peer that asks for file after file and reads none would otherwise have as many descriptors
    /// of ours as it likes.
    pub(super) fn can_queue_file(&self) -> bool {
        self.files < MAX_FILES
    }

    /// Adds `left` bytes of a file, which are not none.
    pub(super) fn push_file(&mut self, file: OwnedFd, offset: u64, left: u64) {
        self.in_files = self.in_files.saturating_add(left);
        self.files += 1;
        self.add(Segment::File { file, offset, left });
    }

    /// Reads what is left of the file that was added last, and closes it, if that is little and no more than `room`.
    ///
    /// # Errors
    /// As from [`write_to`](Queue::write_to); the file stays where it is.
    pub(super) fn read_small_file(&mut self, room: usize) -> io::Result<()> {
        let Some(Segment::File { file, offset, left }) = self.segments.back() else { return Ok(()) };
        if *left > SMALL_FILE.min(room as u64) {
            return Ok(());
        }
        let mut bytes = vec![0; *left as usize];
        let mut read = 0;
        while read < bytes.len() {
            let at = offset + read as u64;
            match retry_on_intr(|| rustix::io::pread(file, &mut bytes[read..], at))? {
                0 => return Err(file_too_short((bytes.len() - read) as u64)),
                n => read += n,
            }
        }
        self.pop_last_file();
        self.push_owned(bytes, 0);
        Ok(())
    }

    /// Takes the file that was added last out again, if nothing has been added behind it.
    pub(super) fn pop_last_file(&mut self) {
        if let Some(Segment::File { left, .. }) = self.segments.back() {
            self.in_files -= left;
            self.files -= 1;
            self.segments.pop_back();
        }
    }

    /// Adds bytes, which are not none, and descriptors to go with them.
    pub(super) fn push_with_fds(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        self.in_memory += bytes.len();
        self.add(Segment::WithFds { bytes, descriptors });
    }

    /// How many descriptors wait to be sent.
    pub(super) fn descriptors(&self) -> usize {
        let waiting = self.segments.iter().map(|segment| match segment {
            Segment::WithFds { descriptors, .. } => descriptors.len(),
            _ => 0,
        });
        waiting.sum()
    }

    /// Sends what the socket takes, and no more than a turn allows by much.
    ///
    /// # Errors
    /// What the kernel says of the socket, or of a file; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if a file is shorter than
    /// was promised.
    pub(super) fn write_to(&mut self, socket: BorrowedFd<'_>) -> io::Result<WriteOutcome> {
        let mut budget = BYTES_PER_TURN;
        while budget > 0 && !self.is_empty() {
            let (wrote, offered) = match self.segments.front() {
                Some(Segment::File { .. }) => (self.write_file(socket, budget)?, 0),
                Some(Segment::WithFds { .. }) => match self.write_with_fds(socket) {
                    Err(error) if are_too_many(&error) => return Ok(WriteOutcome::FdsBlocked),
                    wrote => wrote?,
                },
                _ => self.write_bytes(socket)?,
            };
            // Of bytes in memory, a short write says that the socket is full. Of a file it may also have other causes, so
            // that is tried again.
            if wrote == 0 || wrote < offered {
                return Ok(WriteOutcome::Blocked);
            }
            budget = budget.saturating_sub(wrote);
        }
        Ok(WriteOutcome::Done)
    }

    /// One call for the bytes at the front. Answers how many have been taken, and of how many.
    fn write_bytes(&mut self, socket: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
        let mut slices = [IoSlice::new(&[]); MAX_IOVECS];
        let pieces = self.segments.iter().map_while(Segment::bytes);
        let (mut count, mut offered) = (0, 0);
        for (slice, bytes) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(bytes);
            offered += bytes.len();
            count += 1;
        }
        let taken = match &slices[..count] {
            [one] => stream::send(socket, one)?,
            several => stream::send_vectored(socket, several)?,
        };
        let taken = match taken {
            Transferred::Bytes(n) => n,
            Transferred::WouldBlock => 0,
        };
        self.consume(taken);
        Ok((taken as u64, offered as u64))
    }

    /// Drops the first `n` bytes, all of which are in memory.
    fn consume(&mut self, mut n: usize) {
        self.in_memory -= n;
        while n > 0 {
            let (sent, len) = match self.segments.front_mut() {
                Some(Segment::Owned { bytes, sent }) => (sent, bytes.len()),
                Some(Segment::Shared { bytes, sent, .. }) => (sent, bytes.len()),
                Some(Segment::File { .. } | Segment::WithFds { .. }) | None => {
                    unreachable!("no more is sent than there is")
                }
            };
            let left = len - *sent;
            if n < left {
                *sent += n;
                return;
            }
            n -= left;
            self.pop_front_segment();
        }
    }

    /// Sends the bytes at the front with their descriptors, which are closed then. Answers as [`write_bytes`](Queue::write_bytes).
    fn write_with_fds(&mut self, socket: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
        let Some(Segment::WithFds { bytes, descriptors }) = self.segments.front_mut() else {
            return Ok((0, 0));
        };
        let offered = bytes.len();
        let taken = match send_with_descriptors(socket, bytes, descriptors)? {
            Transferred::WouldBlock => 0,
            Transferred::Bytes(n) => n,
        };
        if taken > 0 {
            // What is left are bytes like others.
            let bytes = std::mem::take(bytes);
            self.segments[0] = Segment::Owned { bytes, sent: 0 };
            self.consume(taken);
        }
        Ok((taken as u64, offered as u64))
    }

    /// Sends of the file at the front, at most so many bytes. Answers how many the socket has taken; 0 if it is full.
    fn write_file(&mut self, socket: BorrowedFd<'_>, most: u64) -> io::Result<u64> {
        let Some(Segment::File { file, offset, left }) = self.segments.front_mut() else { return Ok(0) };
        let wanted = most.min(*left);
        let taken = match stream::send_file(socket, file.as_fd(), offset, wanted as usize)? {
            Transferred::WouldBlock => return Ok(0),
            Transferred::Bytes(0) => return Err(file_too_short(*left)),
            Transferred::Bytes(n) => n as u64,
        };
        *left -= taken;
        self.in_files -= taken;
        if *left == 0 {
            self.files -= 1;
            self.pop_front_segment();
        }
        Ok(taken)
    }
}

fn file_too_short(missing: u64) -> io::Error {
    let message = format!("the file ends {missing} bytes before what was promised of it");
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}

#[cfg(test)]
mod tests;
