//! A message in a ring: a word with its length, then its bytes, up to a whole word.

const WORD: usize = 8;

/// How many bytes a message takes in the ring.
#[inline]
pub(super) fn bytes_of(message: usize) -> usize {
    WORD + message.next_multiple_of(WORD)
}

/// The longest message of a ring: the one that fills it.
#[inline]
pub(super) fn max_message_len(capacity: usize) -> usize {
    capacity - WORD
}
