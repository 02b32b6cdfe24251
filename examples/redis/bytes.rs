//! A byte string that stores up to 22 bytes in itself.

use std::cmp::Ordering;
use std::mem;
use std::ops::Deref;

/// The maximum length of a string without an allocation: such a string takes 24 bytes.
const INLINE: usize = 22;

/// What an allocation costs besides its bytes.
const ALLOCATION: usize = 16;

/// A byte string. Keys, members and most values are short, and are then next to each other in
/// memory.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

impl Bytes {
    /// The memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        mem::size_of::<Bytes>()
            + match self {
                Bytes::Inline(..) => 0,
                Bytes::Heap(bytes) => bytes.len() + ALLOCATION,
            }
    }

    /// Replaces the content.
    pub(crate) fn assign(&mut self, new: &[u8]) {
        match self {
            Bytes::Heap(bytes) if bytes.len() == new.len() => bytes.copy_from_slice(new),
            _ => *self = Bytes::from(new),
        }
    }

    /// Takes the content to change it.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Bytes::Inline(..) => self.to_vec(),
            Bytes::Heap(bytes) => bytes.into_vec(),
        }
    }
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::Inline(0, [0; INLINE])
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        if bytes.len() > INLINE {
            return Bytes::Heap(bytes.into());
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Bytes::Inline(bytes.len() as u8, inline)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        match bytes.len() {
            0..=INLINE => Bytes::from(&bytes[..]),
            _ => Bytes::Heap(bytes.into()),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Bytes::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Bytes) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Bytes) -> Ordering {
        (**self).cmp(&**other)
    }
}
