//! A message in a ring: a word with its length, then its bytes, padded to a whole word.

const WORD: usize = 8;

/// The bytes that a message of this length occupies in the ring.
#[inline]
pub(super) fn total_len(message: usize) -> usize {
    WORD + message.next_multiple_of(WORD)
}

/// The longest message of a ring: it fills the whole ring.
#[inline]
pub(super) fn max_message_len(capacity: usize) -> usize {
    capacity - WORD
}
