//! The output queue, in order: copied bytes, shared bytes, and ranges of files.
//!
//! Owned and shared bytes are queued without a copy, in any number; borrowed bytes are
//! copied once. Small sends are collected in pieces of bounded size, so a growing queue never moves
//! its content.

mod encoding;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::retry_on_intr;

use super::replies::Replies;
use crate::buffer::Buffer;
use crate::net::sys::fd_passing::{is_too_many_refs, send_with_descriptors};
use crate::net::sys::transport::Transferred;
use crate::net::sys::transport::Transport;

/// Small sends are appended to a piece up to this size.
const PIECE: usize = 64 * 1024;

/// The maximum number of pieces per system call.
const MAX_IOVECS: usize = 16;

/// A file with at most this much left is copied into memory, since a descriptor is the scarcer
/// resource.
const SMALL_FILE: u64 = PIECE as u64;

/// The maximum number of queued files.
const MAX_FILES: usize = 64;

/// After this many bytes in one turn of the loop, other connections get their turn.
const BYTES_PER_TURN: u64 = 1024 * 1024;

/// Bytes and file ranges that are waiting to be sent.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Output that can be sent now.
    segments: VecDeque<Segment>,
    /// The reserved places of replies, in order. The first of them follows the segments.
    places: VecDeque<Place>,
    /// The number of the first place.
    first_place: u64,
    /// Bytes that the filters have encoded and that go before the segments, and how many bytes of
    /// the handler they stand for. These count until the last encoded byte is sent.
    encoded: Buffer,
    in_encoded: usize,
    /// The number of unsent bytes in memory.
    in_memory: usize,
    /// The memory that the segments take, including bytes already sent.
    memory: usize,
    /// The number of unsent bytes in files.
    in_files: u64,
    files: usize,
    /// The number of these bytes that are replies; updated by the code that adds and sends.
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
        /// The number of holders when the bytes were queued; each counts its share of the memory.
        holders: usize,
    },
    File {
        file: OwnedFd,
        offset: u64,
        left: u64,
    },
    /// Descriptors that are sent with the first of the bytes, none of which has been sent.
    WithFds {
        bytes: Vec<u8>,
        descriptors: Vec<OwnedFd>,
    },
}

/// The place of a reply that is filled later.
#[derive(Debug, Default)]
struct Place {
    reply: Option<Vec<u8>>,
    /// Output that was queued after the place was reserved.
    after: VecDeque<Segment>,
}

impl Segment {
    /// The segment's unsent bytes, if they can be sent together with other segments; never empty.
    /// `None` for a file, and for bytes with descriptors, which take a system call of their own.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Segment::Owned { bytes, sent } => Some(&bytes[*sent..]),
            Segment::Shared { bytes, sent, .. } => Some(&bytes[*sent..]),
            Segment::File { .. } | Segment::WithFds { .. } => None,
        }
    }

    /// The memory that the segment takes. A block stays allocated until its last byte has been
    /// sent.
    fn memory(&self) -> usize {
        match self {
            Segment::Owned { bytes, .. } | Segment::WithFds { bytes, .. } => bytes.capacity(),
            Segment::Shared { bytes, holders, .. } => bytes.len() / holders,
            Segment::File { .. } => 0,
        }
    }
}

/// The result of one turn of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// The socket is full.
    Blocked,
    /// The kernel refuses descriptors for now. epoll does not report when it accepts them again.
    FdsBlocked,
    /// Everything is sent, or the quota of the turn is used up.
    Done,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.places.is_empty() && self.encoded.is_empty()
    }

    /// Whether there is output that does not wait for a reply.
    pub(super) fn is_sendable(&self) -> bool {
        !self.segments.is_empty() || !self.encoded.is_empty()
    }

    /// The number of reserved places.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// The number of queued bytes.
    pub(super) fn len(&self) -> usize {
        self.in_memory.saturating_add(usize::try_from(self.in_files).unwrap_or(usize::MAX))
    }

    /// The number of queued bytes in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// The memory that they take: whole blocks, and a share of shared ones.
    pub(super) fn memory(&self) -> usize {
        self.memory + self.encoded.capacity()
    }

    /// The segments that new output is appended to.
    fn tail(&mut self) -> &mut VecDeque<Segment> {
        self.places.back_mut().map_or(&mut self.segments, |place| &mut place.after)
    }

    fn add(&mut self, segment: Segment) {
        self.memory += segment.memory();
        self.tail().push_back(segment);
    }

    fn pop_front_segment(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            self.memory -= segment.memory();
        }
    }

    /// Appends a copy of `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.in_memory += bytes.len();
        self.memory += append_copy(self.tail(), bytes);
    }

    /// Appends `bytes` without the first `sent`, which the kernel has taken.
    pub(super) fn push_owned(&mut self, bytes: Vec<u8>, sent: usize) {
        // A few bytes are cheaper to copy than to keep in a block of their own.
        if bytes.len() - sent < PIECE / 16 {
            return self.push(&bytes[sent..]);
        }
        self.in_memory += bytes.len() - sent;
        self.add(Segment::Owned { bytes, sent });
    }

    /// Same as [`push_owned`](Queue::push_owned), for bytes with other holders.
    pub(super) fn push_shared(&mut self, bytes: Arc<[u8]>, sent: usize) {
        if bytes.len() - sent < PIECE / 16 {
            return self.push(&bytes[sent..]);
        }
        self.in_memory += bytes.len() - sent;
        let holders = Arc::strong_count(&bytes);
        self.add(Segment::Shared { bytes, sent, holders });
    }

    /// Whether one more file may be queued. Without this limit, a peer that requests files and does
    /// not read would pin any number of our descriptors.
    pub(super) fn can_queue_file(&self) -> bool {
        self.files < MAX_FILES
    }

    /// Appends `left` bytes of a file; `left` is not 0.
    pub(super) fn push_file(&mut self, file: OwnedFd, offset: u64, left: u64) {
        self.in_files = self.in_files.saturating_add(left);
        self.files += 1;
        self.add(Segment::File { file, offset, left });
    }

    /// Copies the remainder of the last file into memory, and closes the file, if the remainder is
    /// small and at most `available`.
    ///
    /// # Errors
    /// Same as [`write_to`](Queue::write_to); the file stays queued.
    pub(super) fn read_small_file(&mut self, available: usize) -> io::Result<()> {
        let Some(Segment::File { file, offset, left }) = self.tail().back() else { return Ok(()) };
        if *left > SMALL_FILE.min(available as u64) {
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

    /// Removes the last file, if nothing has been queued after it.
    pub(super) fn pop_last_file(&mut self) -> Option<OwnedFd> {
        match self.tail().pop_back()? {
            Segment::File { file, left, .. } => {
                self.in_files -= left;
                self.files -= 1;
                Some(file)
            }
            other => {
                self.tail().push_back(other);
                None
            }
        }
    }

    /// Reserves the next place for a reply, and returns its number.
    pub(super) fn reserve(&mut self) -> u64 {
        self.places.push_back(Place::default());
        self.first_place + self.places.len() as u64 - 1
    }

    /// Fills a place. Returns whether it exists.
    pub(super) fn fill(&mut self, number: u64, reply: Vec<u8>) -> bool {
        let index = number.checked_sub(self.first_place).and_then(|index| usize::try_from(index).ok());
        let Some(place) = index.and_then(|index| self.places.get_mut(index)) else { return false };
        self.in_memory += reply.len();
        self.memory += reply.capacity();
        self.replies.add(reply.len());
        place.reply = Some(reply);
        true
    }

    /// Makes the filled replies before the first open place sendable, with the output after each.
    /// Returns whether there were any.
    pub(super) fn release(&mut self) -> bool {
        let mut released = false;
        while self.places.front().is_some_and(|place| place.reply.is_some()) {
            let Place { reply, after } = self.places.pop_front().unwrap_or_default();
            self.first_place += 1;
            let reply = Segment::Owned { bytes: reply.unwrap_or_default(), sent: 0 };
            for segment in iter::once(reply).chain(after) {
                self.release_segment(segment);
            }
            released = true;
        }
        released
    }

    /// Appends a segment that is counted already. A small one is copied, so that one system call
    /// sends many of them.
    fn release_segment(&mut self, segment: Segment) {
        match &segment {
            Segment::Owned { bytes, .. } if bytes.len() < PIECE / 16 => {
                self.memory -= segment.memory();
                if !bytes.is_empty() {
                    self.memory += append_copy(&mut self.segments, bytes);
                }
            }
            _ => self.segments.push_back(segment),
        }
    }

    /// Appends bytes, which are not empty, and the descriptors to send with them.
    pub(super) fn push_with_fds(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        self.in_memory += bytes.len();
        self.add(Segment::WithFds { bytes, descriptors });
    }

    /// The number of descriptors that are waiting to be sent.
    pub(super) fn descriptors(&self) -> usize {
        let held = self.places.iter().flat_map(|place| &place.after);
        let waiting = self.segments.iter().chain(held).map(|segment| match segment {
            Segment::WithFds { descriptors, .. } => descriptors.len(),
            _ => 0,
        });
        waiting.sum()
    }

    /// Sends as much as the socket takes, and not much more than the quota of a turn.
    ///
    /// # Errors
    /// Returns the error of the socket or of a file;
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if a file is shorter than promised.
    pub(super) fn write_to(&mut self, transport: &Transport) -> io::Result<WriteOutcome> {
        let mut budget = BYTES_PER_TURN;
        while budget > 0 && self.is_sendable() {
            let (wrote, offered) = match self.segments.front() {
                Some(Segment::File { .. }) => (self.write_file(transport, budget)?, 0),
                Some(Segment::WithFds { .. }) => match self.write_with_fds(transport) {
                    Err(error) if is_too_many_refs(&error) => return Ok(WriteOutcome::FdsBlocked),
                    wrote => wrote?,
                },
                _ => self.write_bytes(transport)?,
            };
            // For bytes in memory, a short write means that the socket is full. For a file it may
            // have other causes, so it is retried.
            if wrote == 0 || wrote < offered {
                return Ok(WriteOutcome::Blocked);
            }
            budget = budget.saturating_sub(wrote);
        }
        Ok(WriteOutcome::Done)
    }

    /// Sends the bytes at the front in one call. Returns how many were taken, and how many were
    /// offered.
    fn write_bytes(&mut self, transport: &Transport) -> io::Result<(u64, u64)> {
        let mut slices = [IoSlice::new(&[]); MAX_IOVECS];
        let pieces = self.segments.iter().map_while(Segment::bytes);
        let (mut count, mut offered) = (0, 0);
        for (slice, bytes) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(bytes);
            offered += bytes.len();
            count += 1;
        }
        let taken = match &slices[..count] {
            [one] => transport.send(one)?,
            several => transport.send_vectored(several)?,
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
                    unreachable!("no more bytes are sent than are queued")
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

    /// Sends the bytes at the front with their descriptors, which are then closed. Returns the same
    /// as [`write_bytes`](Queue::write_bytes).
    fn write_with_fds(&mut self, transport: &Transport) -> io::Result<(u64, u64)> {
        let Some(Segment::WithFds { bytes, descriptors }) = self.segments.front_mut() else {
            return Ok((0, 0));
        };
        let offered = bytes.len();
        let taken = match send_with_descriptors(transport.socket()?.as_fd(), bytes, descriptors)? {
            Transferred::WouldBlock => 0,
            Transferred::Bytes(n) => n,
        };
        if taken > 0 {
            // The remaining bytes are ordinary ones.
            let bytes = std::mem::take(bytes);
            self.segments[0] = Segment::Owned { bytes, sent: 0 };
            self.consume(taken);
        }
        Ok((taken as u64, offered as u64))
    }

    /// Sends at most `max` bytes of the file at the front. Returns how many the socket has taken; 0
    /// if it is full.
    fn write_file(&mut self, transport: &Transport, max: u64) -> io::Result<u64> {
        let Some(Segment::File { file, offset, left }) = self.segments.front_mut() else { return Ok(0) };
        let wanted = max.min(*left);
        let taken = match transport.send_file(file.as_fd(), offset, wanted as usize)? {
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

/// Appends a copy of `bytes`, which are not empty. Returns by how much the memory grows.
fn append_copy(segments: &mut VecDeque<Segment>, bytes: &[u8]) -> usize {
    if let Some(Segment::Owned { bytes: last, .. }) = segments.back_mut() {
        let len = last.len() + bytes.len();
        if len <= last.capacity() || len <= PIECE {
            let before = last.capacity();
            last.extend_from_slice(bytes);
            return last.capacity() - before;
        }
    }
    let copy = bytes.to_vec();
    let memory = copy.capacity();
    segments.push_back(Segment::Owned { bytes: copy, sent: 0 });
    memory
}

fn file_too_short(missing: u64) -> io::Error {
    let message = format!("the file is {missing} bytes shorter than promised");
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}

#[cfg(test)]
mod tests;
