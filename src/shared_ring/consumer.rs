//! The side of a ring that reads.
//!
//! Whatever it reads the peer may have changed, and may change while it is read. So each word is read once, checked, and used
//! as it was read; and nobody sees a message but in a copy.

use super::error::RingError;
use super::event_index::{self, Word};
use super::layout::Ring;
use super::record;

/// What the consumer knows. Its own position is here, and never read from the memory, where the peer could change it.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    head: u64,
    /// The tail as it was when last looked at.
    tail: u64,
    /// The head as the producer can see it.
    shown: u64,
}

/// What became of a look for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether there is one.
    pub(super) found: bool,
    /// Whether the producer has to be rung for.
    pub(super) ring: bool,
}

impl Consumer {
    /// Copies the next message into `message`, in place of what is there, if one has come.
    ///
    /// The head is shown to the producer when the ring has been read empty, and now and then before that. To show it each time
    /// would have cost a fence each.
    #[inline]
    pub(super) fn receive(
        &mut self,
        ring: Ring<'_>,
        capacity: usize,
        message: &mut Vec<u8>,
    ) -> Result<Look, RingError> {
        if self.head == self.tail {
            self.see_tail(ring.tail.load_acquire(), capacity)?;
            if self.head == self.tail {
                return Ok(Look { found: false, ring: self.show(ring) });
            }
        }
        let written = self.tail.wrapping_sub(self.head) as usize;
        let (header, _) = ring.pieces(self.head, 8);
        let length = usize::try_from(header[0].load_relaxed())
            .ok()
            .filter(|n| *n <= record::max_message_len(capacity));
        let length = length.filter(|n| record::bytes_of(*n) <= written).ok_or(RingError::Length)?;
        let bytes = record::bytes_of(length);
        let (first, second) = ring.pieces(self.head, bytes);
        message.resize(bytes - 8, 0);
        if second.is_empty() {
            read(&first[1..], message);
        } else {
            read(first.iter().chain(second).skip(1), message);
        }
        message.truncate(length);
        self.head = self.head.wrapping_add(bytes as u64);
        let is_much = self.head.wrapping_sub(self.shown) as usize >= capacity / 8;
        Ok(Look { found: true, ring: is_much && self.show(ring) })
    }

    /// Asks to be rung for at the next message, and looks once more whether there is one.
    pub(super) fn look_before_sleep(&mut self, ring: Ring<'_>, capacity: usize) -> Result<Look, RingError> {
        let tail = event_index::set_mark(ring.tail, ring.tail_mark, self.head);
        self.see_tail(tail, capacity)?;
        Ok(Look { found: self.head != self.tail, ring: self.show(ring) })
    }

    /// Lets the producer see how far has been read. Answers whether it has to be rung for.
    fn show(&mut self, ring: Ring<'_>) -> bool {
        let from = self.shown;
        self.shown = self.head;
        from != self.head && event_index::move_on(ring.head, ring.head_mark, from, self.head)
    }

    /// Takes note of a tail that was read, if it can be one: not behind an earlier one, nor more than a ring beyond the head.
    fn see_tail(&mut self, tail: u64, capacity: usize) -> Result<(), RingError> {
        let seen = self.tail.wrapping_sub(self.head);
        let written = tail.wrapping_sub(self.head);
        if !(seen..=capacity as u64).contains(&written) || tail % 8 != 0 {
            return Err(RingError::Position);
        }
        self.tail = tail;
        Ok(())
    }
}

/// Fills whole words of `message`.
#[inline]
fn read<'a, W: Word + 'a>(words: impl IntoIterator<Item = &'a W>, message: &mut [u8]) {
    for (bytes, word) in message.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.load_relaxed().to_ne_bytes());
    }
}

#[cfg(test)]
impl Consumer {
    pub(super) fn starting_at(position: u64) -> Consumer {
        Consumer { head: position, tail: position, shown: position }
    }
}
