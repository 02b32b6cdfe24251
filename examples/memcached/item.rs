//! An item: a key and its value, encoded as the reply to the text command `get`.

use std::ops::Range;
use std::sync::Arc;

/// The maximum length of a key in bytes.
pub(crate) const MAX_KEY: usize = 250;

const PREFIX: &[u8] = b"VALUE ";
const LINE_END: &[u8] = b"\r\n";

/// The overhead of one allocation: the counters of an `Arc` and the header of the allocator.
const ALLOCATION: usize = 16 + 8;

/// A key, its value and what is stored with them.
///
/// The bytes are the line `VALUE`, the value, and the end of the line, so that a `get` copies one
/// piece, or shares it if it is large.
#[derive(Debug)]
pub(crate) struct Item {
    bytes: Arc<[u8]>,
    /// Distinguishes all versions of all items. Later ones are larger.
    pub(crate) cas: u64,
    /// The second from which the item has expired; 0 if it does not expire.
    pub(crate) expires: u32,
    pub(crate) flags: u32,
    value_at: u16,
    key_length: u8,
}

impl Item {
    /// Creates an item, whose value is the concatenation of `value`.
    ///
    /// # Panics
    /// If the key is too long.
    pub(crate) fn new(key: &[u8], value: &[&[u8]], flags: u32, expires: u32, cas: u64) -> Item {
        assert!(key.len() <= MAX_KEY);
        let length: usize = value.iter().map(|part| part.len()).sum();
        // Two numbers of at most 20 digits.
        let mut bytes = Vec::with_capacity(PREFIX.len() + key.len() + 48 + length);
        bytes.extend_from_slice(PREFIX);
        bytes.extend_from_slice(key);
        bytes.push(b' ');
        push_number(&mut bytes, flags.into());
        bytes.push(b' ');
        push_number(&mut bytes, length as u64);
        bytes.extend_from_slice(LINE_END);
        let value_at = bytes.len() as u16;
        value.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.extend_from_slice(LINE_END);
        Item { bytes: bytes.into(), cas, expires, flags, value_at, key_length: key.len() as u8 }
    }

    /// The reply to `get`.
    pub(crate) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[PREFIX.len()..][..self.key_length.into()]
    }

    /// The line `VALUE` without its end.
    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[..usize::from(self.value_at) - LINE_END.len()]
    }

    /// The position of the value in the bytes.
    pub(crate) fn value_range(&self) -> Range<usize> {
        self.value_at.into()..self.bytes.len() - LINE_END.len()
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.bytes[self.value_range()]
    }

    /// Overwrites the value by a shorter or equally long one, followed by spaces. Returns whether
    /// it did: it does nothing while a reply shares the bytes.
    pub(crate) fn overwrite(&mut self, value: &[u8]) -> bool {
        let range = self.value_range();
        let Some(bytes) = Arc::get_mut(&mut self.bytes) else { return false };
        let (written, rest) = bytes[range].split_at_mut(value.len());
        written.copy_from_slice(value);
        rest.fill(b' ');
        true
    }

    /// The memory that the item takes, besides its slot in the table.
    pub(crate) fn memory(&self) -> usize {
        (self.bytes.len() + ALLOCATION).next_multiple_of(16)
    }
}

/// Appends a number in decimal.
pub(crate) fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    bytes.extend_from_slice(&digits[at..]);
}
