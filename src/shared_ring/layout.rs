//! The layout of the shared memory.
//!
//! One page holds the header and the positions; it is followed by the bytes of one ring, then those
//! of the other. Each word that one side writes often has a pair of cache lines of its own, since
//! processors prefetch lines in pairs: otherwise a write of one side would take away a line that
//! the other side needs.

use std::io;
use std::sync::atomic::AtomicU64;

use super::bell::Doorbell;
use super::event_index::Word;
use super::memory::Memory;

/// Distance between two positions, in words: two cache lines.
const STRIDE: usize = 16;

/// Offset of the rings' bytes, in words.
const DATA_OFFSET: usize = 512;

/// Distinguishes this memory, and this layout, from others.
const MAGIC: u64 = u64::from_be_bytes(*b"reveille");

/// The version of the layout. It depends on the kind of bells.
fn version_of(doorbell: Doorbell) -> u64 {
    match doorbell {
        Doorbell::Plain => 1,
        Doorbell::NeverBlocks => 2,
    }
}

/// Bounds of a ring's capacity, in bytes. A capacity is a power of two and a multiple of the word
/// size, so the offset of a position is given by its low bits.
const MIN_CAPACITY: usize = 64;
const MAX_CAPACITY: usize = 1 << 30;

/// The two processes: the one that has created the memory, and the one that received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Creator,
    Joiner,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Creator => Side::Joiner,
            Side::Joiner => Side::Creator,
        }
    }

    fn number(self) -> usize {
        match self {
            Side::Creator => 0,
            Side::Joiner => 1,
        }
    }
}

/// One ring. A position counts bytes since the ring was created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<'a> {
    /// End of the written bytes. Advanced by the producer.
    pub(super) tail: &'a AtomicU64,
    /// Position at which the consumer requests a ring. Set by the consumer.
    pub(super) tail_mark: &'a AtomicU64,
    /// End of the read bytes. Advanced by the consumer.
    pub(super) head: &'a AtomicU64,
    /// Position at which the producer requests a ring. Set by the producer.
    pub(super) head_mark: &'a AtomicU64,
    /// The messages. Written by the producer.
    data: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// The words of a record of `bytes` bytes at `position`, in two slices: the second holds the
    /// words after the wrap-around.
    ///
    /// # Panics
    /// If the record is larger than the ring.
    #[inline]
    pub(super) fn pieces(self, position: u64, bytes: usize) -> (&'a [AtomicU64], &'a [AtomicU64]) {
        let begin = (position / 8) as usize & (self.data.len() - 1);
        let words = bytes / 8;
        let until_end = (self.data.len() - begin).min(words);
        (&self.data[begin..begin + until_end], &self.data[..words - until_end])
    }
}

/// Memory with a checked header.
#[derive(Debug)]
pub(super) struct Layout {
    memory: Memory,
    /// The capacity of one ring in bytes, read from the header once.
    capacity: usize,
}

/// The kernel's id of the eventfd that wakes each side, as stated by the header; 0 if unknown.
pub(super) type BellIds = [u64; 2];

/// The smallest capacity of at least `bytes` bytes.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it would exceed 1 GiB.
pub(super) fn capacity_for(bytes: usize) -> io::Result<usize> {
    let capacity = bytes.max(MIN_CAPACITY).checked_next_power_of_two();
    capacity.filter(|capacity| *capacity <= MAX_CAPACITY).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "a ring has at most 1 GiB in each direction")
    })
}

/// Size of the memory in bytes for two rings of this capacity.
pub(super) fn bytes_for(capacity: usize) -> u64 {
    (DATA_OFFSET * 8 + 2 * capacity) as u64
}

impl Layout {
    /// Writes the header of new, zeroed memory.
    pub(super) fn write(memory: Memory, capacity: usize, doorbell: Doorbell, bells: BellIds) -> Layout {
        let words = memory.words();
        let header = [MAGIC, version_of(doorbell), capacity as u64, bells[0], bells[1]];
        for (word, value) in words.iter().zip(header) {
            word.store_relaxed(value);
        }
        let layout = Layout { memory, capacity };
        for side in [Side::Creator, Side::Joiner] {
            // Just behind the first position, so it is not passed. The mark of the tail is 0 and is
            // passed by the first message: the consumer starts asleep.
            layout.ring_of(side).head_mark.store_relaxed(u64::MAX);
        }
        layout
    }

    /// Checks the header of memory created by the peer, for rings of at most `max` bytes and bells
    /// of this kind.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the header is invalid.
    pub(super) fn read(memory: Memory, max: usize, doorbell: Doorbell) -> io::Result<(Layout, BellIds)> {
        let invalid = |problem| Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        let words = memory.words();
        let header: Option<[u64; 5]> =
            words.first_chunk().map(|words| words.each_ref().map(Word::load_relaxed));
        let Some([MAGIC, version, capacity, creator, joiner]) = header else {
            return invalid("the memory is not that of a shared ring");
        };
        if version != version_of(doorbell) {
            let other = [Doorbell::NeverBlocks, Doorbell::Plain].map(version_of).contains(&version);
            return invalid(if other {
                "the shared ring has bells of the other kind"
            } else {
                "the shared ring is of another version"
            });
        }
        let is_valid =
            |capacity: &usize| (MIN_CAPACITY..=MAX_CAPACITY).contains(capacity) && capacity.is_power_of_two();
        let Some(capacity) = usize::try_from(capacity).ok().filter(is_valid) else {
            return invalid("the shared ring has an impossible capacity");
        };
        if capacity > max {
            return invalid("the shared ring is larger than this end accepts");
        }
        if words.len() as u64 * 8 != bytes_for(capacity) {
            return invalid("the size of the memory differs from that in its header");
        }
        Ok((Layout { memory, capacity }, [creator, joiner]))
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The ring that `side` writes to.
    #[inline]
    pub(super) fn ring_of(&self, side: Side) -> Ring<'_> {
        ring_in(self.memory.words(), self.capacity, side)
    }
}

/// The ring that `side` writes to, in memory for rings of this capacity.
///
/// # Panics
/// If the memory is smaller.
#[inline]
pub(super) fn ring_in(words: &[AtomicU64], capacity: usize, side: Side) -> Ring<'_> {
    let number = side.number();
    let at = STRIDE * (1 + 4 * number);
    let data = DATA_OFFSET + capacity / 8 * number;
    Ring {
        tail: &words[at],
        tail_mark: &words[at + STRIDE],
        head: &words[at + 2 * STRIDE],
        head_mark: &words[at + 3 * STRIDE],
        data: &words[data..data + capacity / 8],
    }
}
