//! The writing side of a ring.

use super::error::{RingError, RingSendError};
use super::event_index::{self, Word};
use super::layout::Ring;
use super::record;

/// The producer's state. Its own position is kept here and never read from the memory, where the
/// peer could change it.
#[derive(Debug, Default)]
pub(super) struct Producer {
    tail: u64,
    /// The head as last read.
    head: u64,
    /// Set after a message did not fit: the head position at which the producer is notified.
    awaited_head: Option<u64>,
}

impl Producer {
    /// Writes a message. Returns whether the consumer must be signalled.
    ///
    /// # Errors
    /// On [`Full`](RingSendError::Full) a mark is set: the consumer rings when there is space.
    #[inline]
    pub(super) fn send(
        &mut self,
        ring: Ring<'_>,
        capacity: usize,
        message: &[u8],
    ) -> Result<bool, RingSendError> {
        if message.len() > record::max_message_len(capacity) {
            return Err(RingSendError::TooLong { longest: record::max_message_len(capacity) });
        }
        let bytes = record::total_len(message.len());
        if self.free_space(capacity) < bytes {
            self.reserve(ring, capacity, bytes)?;
        }
        let (first, second) = ring.pieces(self.tail, bytes);
        let mut words = first.iter().chain(second);
        let header = words.next().expect("a record has a header");
        header.store_relaxed(message.len() as u64);
        // Nearly every record is contiguous; the loop then runs over one slice.
        if second.is_empty() {
            write(&first[1..], message);
        } else {
            write(words, message);
        }
        let from = self.tail;
        self.tail = from.wrapping_add(bytes as u64);
        Ok(event_index::move_on(ring.tail, ring.tail_mark, from, self.tail))
    }

    /// Whether there is now space for the message that did not fit. Returns `true` once per such
    /// message.
    pub(super) fn take_space_event(&mut self, ring: Ring<'_>) -> Result<bool, RingError> {
        let Some(awaited_head) = self.awaited_head else { return Ok(false) };
        self.accept_head(ring.head.load_acquire())?;
        let has_space = self.is_beyond(awaited_head.wrapping_sub(1));
        if has_space {
            self.awaited_head = None;
        }
        Ok(has_space)
    }

    fn free_space(&self, capacity: usize) -> usize {
        // `accept_head` has checked the difference.
        capacity - self.tail.wrapping_sub(self.head) as usize
    }

    /// Reads the head again, and sets a mark if there still is too little space.
    ///
    /// The mark requests that half of the ring is free, or more if the message needs more: a
    /// producer woken for each message that is read would sleep once per message.
    #[cold]
    fn reserve(&mut self, ring: Ring<'_>, capacity: usize, bytes: usize) -> Result<(), RingSendError> {
        self.accept_head(ring.head.load_acquire()).map_err(RingSendError::Ended)?;
        if self.free_space(capacity) >= bytes {
            return Ok(());
        }
        let needed = bytes.max(capacity / 2);
        let awaited_head = self.tail.wrapping_sub((capacity - needed) as u64);
        let head = event_index::set_mark(ring.head, ring.head_mark, awaited_head.wrapping_sub(1));
        self.accept_head(head).map_err(RingSendError::Ended)?;
        if self.free_space(capacity) >= bytes {
            return Ok(());
        }
        self.awaited_head = Some(awaited_head);
        Err(RingSendError::Full)
    }

    /// Whether the known head is beyond `mark`, which lies before the tail by less than one
    /// capacity.
    fn is_beyond(&self, mark: u64) -> bool {
        self.tail.wrapping_sub(self.head) < self.tail.wrapping_sub(mark)
    }

    /// Stores a head that was read, if it is valid: not behind an earlier one, not beyond what has
    /// been written, and a multiple of eight.
    fn accept_head(&mut self, head: u64) -> Result<(), RingError> {
        let is_valid = head.wrapping_sub(self.head) <= self.tail.wrapping_sub(self.head) && head % 8 == 0;
        if !is_valid {
            return Err(RingError::Position);
        }
        self.head = head;
        Ok(())
    }
}

/// Fills words with the message, and pads the last one with zeroes.
#[inline]
fn write<'a, W: Word + 'a>(words: impl IntoIterator<Item = &'a W>, message: &[u8]) {
    for (word, bytes) in words.into_iter().zip(message.chunks(8)) {
        let whole = bytes.try_into().unwrap_or_else(|_| {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            whole
        });
        word.store_relaxed(u64::from_ne_bytes(whole));
    }
}

#[cfg(test)]
impl Producer {
    pub(super) fn starting_at(position: u64) -> Producer {
        Producer { tail: position, head: position, awaited_head: None }
    }

    /// The offset of the next record in the ring.
    pub(super) fn tail_offset(&self, capacity: usize) -> usize {
        self.tail as usize % capacity
    }
}
