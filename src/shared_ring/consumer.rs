//! The reading side of a ring.
//!
//! The peer may have changed anything that is read here, and may change it during the read. So each
//! word is read once, checked, and used as read; and a message is only exposed as a copy.

use super::error::RingError;
use super::event_index::{self, Word};
use super::layout::Ring;
use super::record;

/// The consumer's state. Its own position is kept here and never read from the memory, where the
/// peer could change it.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    head: u64,
    /// The tail as last read.
    tail: u64,
    /// The head as last published to the producer.
    published: u64,
}

/// The result of reading the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Polled {
    /// Whether there is a message.
    pub(super) found: bool,
    /// Whether the producer must be signalled.
    pub(super) must_ring: bool,
}

impl Consumer {
    /// Copies the next message into `message`, replacing its content, if there is one.
    ///
    /// The head is published when the ring is empty, and whenever an eighth of the capacity has
    /// been read since the last time. Publishing it for each message would cost a fence per
    /// message.
    #[inline]
    pub(super) fn receive(
        &mut self,
        ring: Ring<'_>,
        capacity: usize,
        message: &mut Vec<u8>,
    ) -> Result<Polled, RingError> {
        if self.head == self.tail {
            self.accept_tail(ring.tail.load_acquire(), capacity)?;
            if self.head == self.tail {
                return Ok(Polled { found: false, must_ring: self.publish(ring) });
            }
        }
        let written = self.tail.wrapping_sub(self.head) as usize;
        let (header, _) = ring.pieces(self.head, 8);
        let length = usize::try_from(header[0].load_relaxed())
            .ok()
            .filter(|n| *n <= record::max_message_len(capacity));
        let length = length.filter(|n| record::total_len(*n) <= written).ok_or(RingError::Length)?;
        let bytes = record::total_len(length);
        let (first, second) = ring.pieces(self.head, bytes);
        message.resize(bytes - 8, 0);
        if second.is_empty() {
            read(&first[1..], message);
        } else {
            read(first.iter().chain(second).skip(1), message);
        }
        message.truncate(length);
        self.head = self.head.wrapping_add(bytes as u64);
        let is_due = self.head.wrapping_sub(self.published) as usize >= capacity / 8;
        Ok(Polled { found: true, must_ring: is_due && self.publish(ring) })
    }

    /// Requests a doorbell signal for the next message, then rechecks whether there is one.
    pub(super) fn prepare_sleep(&mut self, ring: Ring<'_>, capacity: usize) -> Result<Polled, RingError> {
        let tail = event_index::set_mark(ring.tail, ring.tail_mark, self.head);
        self.accept_tail(tail, capacity)?;
        Ok(Polled { found: self.head != self.tail, must_ring: self.publish(ring) })
    }

    /// Publishes the head to the producer. Returns whether the producer must be signalled.
    fn publish(&mut self, ring: Ring<'_>) -> bool {
        let from = self.published;
        self.published = self.head;
        from != self.head && event_index::move_on(ring.head, ring.head_mark, from, self.head)
    }

    /// Stores a tail that was read, if it is valid: not behind an earlier one, at most one capacity
    /// ahead of the head, and a multiple of eight.
    fn accept_tail(&mut self, tail: u64, capacity: usize) -> Result<(), RingError> {
        let known = self.tail.wrapping_sub(self.head);
        let written = tail.wrapping_sub(self.head);
        if !(known..=capacity as u64).contains(&written) || tail % 8 != 0 {
            return Err(RingError::Position);
        }
        self.tail = tail;
        Ok(())
    }
}

/// Fills the whole words of `message`.
#[inline]
fn read<'a, W: Word + 'a>(words: impl IntoIterator<Item = &'a W>, message: &mut [u8]) {
    for (bytes, word) in message.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.load_relaxed().to_ne_bytes());
    }
}

#[cfg(test)]
impl Consumer {
    pub(super) fn starting_at(position: u64) -> Consumer {
        Consumer { head: position, tail: position, published: position }
    }
}
