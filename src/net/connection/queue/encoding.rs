//! The part of a queue that only connections with filters use: pieces are taken out to be encoded,
//! and encoded bytes come back to be sent before all others.
//!
//! A piece counts as queued from the moment it is taken until its last encoded byte is sent.

use std::io;

use rustix::io::retry_on_intr;

use super::{Queue, Segment, file_too_short};
use crate::buffer::Buffer;
use crate::net::sys::transport::{Transferred, Transport};

impl Queue {
    /// Whether encoded bytes are waiting to be sent.
    pub(in crate::net::connection) fn has_encoded(&self) -> bool {
        !self.encoded.is_empty()
    }

    /// Appends encoded bytes. They stand for `bytes` of the handler, which are added to the count.
    pub(in crate::net::connection) fn push_encoded(&mut self, encoded: &mut Buffer, bytes: usize) {
        self.in_memory += bytes;
        self.in_encoded += bytes;
        self.finish_piece(encoded);
    }

    /// Appends the encoded bytes of the pieces that were taken last.
    pub(in crate::net::connection) fn finish_piece(&mut self, encoded: &mut Buffer) {
        // An empty one keeps its storage.
        if !encoded.is_empty() {
            self.encoded.append_buffer(encoded);
        }
        self.settle();
    }

    /// Takes up to `max` bytes from the front of the queue, and appends them to `piece`, which is
    /// empty. Takes none if the queue waits for a reply, or holds only encoded bytes.
    ///
    /// # Errors
    /// Returns the error of a file; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if it is
    /// shorter than promised.
    pub(in crate::net::connection) fn take_piece(
        &mut self,
        piece: &mut Buffer,
        max: usize,
    ) -> io::Result<()> {
        while piece.len() < max {
            let space = max - piece.len();
            let taken = match self.segments.front_mut() {
                None => break,
                Some(Segment::WithFds { .. }) => unreachable!("filters exclude descriptors"),
                Some(Segment::Owned { bytes, sent: 0 }) if piece.is_empty() && bytes.len() <= max => {
                    let taken = bytes.len();
                    self.memory -= bytes.capacity();
                    *piece = Buffer::from(std::mem::take(bytes));
                    self.segments.pop_front();
                    taken
                }
                Some(Segment::Owned { bytes, sent }) => take_bytes(bytes, sent, piece, space),
                Some(Segment::Shared { bytes, sent, .. }) => take_bytes(bytes, sent, piece, space),
                Some(Segment::File { file, offset, left }) => {
                    let wanted = space.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    piece.reserve(wanted);
                    let into = &mut piece.writable_mut()[..wanted];
                    let read = retry_on_intr(|| rustix::io::pread(&*file, &mut *into, *offset))?;
                    if read == 0 {
                        return Err(file_too_short(*left));
                    }
                    piece.commit(read);
                    *offset += read as u64;
                    *left -= read as u64;
                    self.in_files -= read as u64;
                    self.in_memory += read;
                    read
                }
            };
            self.in_encoded += taken;
            self.pop_finished_segment();
        }
        Ok(())
    }

    fn pop_finished_segment(&mut self) {
        let is_file = match self.segments.front() {
            Some(Segment::Owned { bytes, sent }) if *sent == bytes.len() => false,
            Some(Segment::Shared { bytes, sent, .. }) if *sent == bytes.len() => false,
            Some(Segment::File { left: 0, .. }) => true,
            _ => return,
        };
        self.files -= usize::from(is_file);
        self.pop_front_segment();
    }

    /// Sends the encoded bytes. Returns whether all of them were taken.
    ///
    /// # Errors
    /// Returns the error of the transport.
    pub(in crate::net::connection) fn write_encoded(&mut self, transport: &Transport) -> io::Result<bool> {
        if self.encoded.is_empty() {
            return Ok(true);
        }
        match transport.send(self.encoded.readable())? {
            Transferred::WouldBlock => Ok(false),
            Transferred::Bytes(n) => {
                self.encoded.consume(n);
                self.settle();
                Ok(self.encoded.is_empty())
            }
        }
    }

    /// Counts the pieces as sent if no encoded byte is left.
    fn settle(&mut self) {
        if self.encoded.is_empty() {
            self.in_memory -= std::mem::take(&mut self.in_encoded);
            self.encoded.release();
        }
    }
}

/// Appends up to `max` of the unsent bytes to `piece`, and returns how many.
fn take_bytes(bytes: &[u8], sent: &mut usize, piece: &mut Buffer, max: usize) -> usize {
    let taken = max.min(bytes.len() - *sent);
    piece.append(&bytes[*sent..*sent + taken]);
    *sent += taken;
    taken
}
