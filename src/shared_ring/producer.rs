//! The side of a ring that writes.

use super::error::{RingError, RingSendError};
use super::event_index::{self, Word};
use super::layout::Ring;
use super::record;

/// What the producer knows. Its own position is here, and never read from the memory, where the peer could change it.
#[derive(Debug, Default)]
pub(super) struct Producer {
    tail: u64,
    /// The head as it was when last looked at.
    head: u64,
    /// After a message found no room: where the head has to come to.
    wanted: Option<u64>,
}

impl Producer {
    /// Writes a message. Answers whether the consumer has to be rung for.
    ///
    /// # Errors
    /// [`Full`](RingSendError::Full) comes with a mark: the consumer rings when there is room.
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
        let bytes = record::bytes_of(message.len());
        if self.room(capacity) < bytes {
            self.look_for_room(ring, capacity, bytes)?;
        }
        let (first, second) = ring.pieces(self.tail, bytes);
        let mut words = first.iter().chain(second);
        let header = words.next().expect("a record has a header");
        header.store_relaxed(message.len() as u64);
        // Without the seam the loop is over one slice, which is what nearly every message meets.
        if second.is_empty() {
            write(&first[1..], message);
        } else {
            write(words, message);
        }
        let from = self.tail;
        self.tail = from.wrapping_add(bytes as u64);
        Ok(event_index::move_on(ring.tail, ring.tail_mark, from, self.tail))
    }

    /// Whether there is the room that a refused message wanted; once.
    pub(super) fn has_got_room(&mut self, ring: Ring<'_>) -> Result<bool, RingError> {
        let Some(wanted) = self.wanted else { return Ok(false) };
        self.see_head(ring.head.load_acquire())?;
        let there = self.is_beyond(wanted.wrapping_sub(1));
        if there {
            self.wanted = None;
        }
        Ok(there)
    }

    fn room(&self, capacity: usize) -> usize {
        // The difference has been checked when the head was seen.
        capacity - self.tail.wrapping_sub(self.head) as usize
    }

    /// Looks whether the head has moved, and leaves a mark if that is not enough.
    ///
    /// Half of the ring is asked for, if the message is content with that: a producer that was woken for each message that was
    /// read would sleep as often.
    #[cold]
    fn look_for_room(&mut self, ring: Ring<'_>, capacity: usize, bytes: usize) -> Result<(), RingSendError> {
        self.see_head(ring.head.load_acquire()).map_err(RingSendError::Ended)?;
        if self.room(capacity) >= bytes {
            return Ok(());
        }
        let asked = bytes.max(capacity / 2);
        let wanted = self.tail.wrapping_sub((capacity - asked) as u64);
        let head = event_index::set_mark(ring.head, ring.head_mark, wanted.wrapping_sub(1));
        self.see_head(head).map_err(RingSendError::Ended)?;
        if self.room(capacity) >= bytes {
            return Ok(());
        }
        self.wanted = Some(wanted);
        Err(RingSendError::Full)
    }

    /// Whether the head that was seen is beyond `mark`, which lies before the tail and less than a ring behind it.
    fn is_beyond(&self, mark: u64) -> bool {
        self.tail.wrapping_sub(self.head) < self.tail.wrapping_sub(mark)
    }

    /// Takes note of a head that was read, if it can be one: not behind an earlier one, nor beyond what has been written.
    fn see_head(&mut self, head: u64) -> Result<(), RingError> {
        let is_possible = head.wrapping_sub(self.head) <= self.tail.wrapping_sub(self.head) && head % 8 == 0;
        if !is_possible {
            return Err(RingError::Position);
        }
        self.head = head;
        Ok(())
    }
}

/// Fills words with the message, and what the last has more with zeros.
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
        Producer { tail: position, head: position, wanted: None }
    }

    /// Where the next record begins.
    pub(super) fn tail_place(&self, capacity: usize) -> usize {
        self.tail as usize % capacity
    }
}
