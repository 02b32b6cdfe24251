//! Where things are in the memory.
//!
//! A page with the header and the positions, then the bytes of the one ring, then those of the other. Whatever one side writes
//! often has a pair of cache lines for itself, since processors fetch them in pairs: otherwise a write of one side would take
//! from the other a line that it needs for something else.

use std::io;
use std::sync::atomic::AtomicU64;

use super::bell::Doorbell;
use super::event_index::Word;
use super::memory::Memory;

/// Two cache lines, in words.
const APART: usize = 16;

/// Where the rings' bytes begin.
const PAGE: usize = 512;

/// Tells this kind of memory from others, and this layout from others that there may be.
const MAGIC: u64 = u64::from_be_bytes(*b"reveille");

/// The version of the layout, which stands for the bells' kind as well.
fn version_of(doorbell: Doorbell) -> u64 {
    match doorbell {
        Doorbell::Plain => 1,
        Doorbell::NeverBlocks => 2,
    }
}

/// Of one ring, in bytes. A power of two, so that a position's place is its lowest bits, and whole words.
const LEAST_CAPACITY: usize = 64;
const MOST_CAPACITY: usize = 1 << 30;

/// Which of the two processes: the one that has made the memory, or the one that was given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Maker,
    Taker,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Maker => Side::Taker,
            Side::Taker => Side::Maker,
        }
    }

    fn number(self) -> usize {
        match self {
            Side::Maker => 0,
            Side::Taker => 1,
        }
    }
}

/// One ring. Positions count bytes from its first use on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<'a> {
    /// Up to where it has been written; moved by the producer.
    pub(super) tail: &'a AtomicU64,
    /// When the consumer wants to be rung for; set by the consumer.
    pub(super) tail_mark: &'a AtomicU64,
    /// Up to where it has been read; moved by the consumer.
    pub(super) head: &'a AtomicU64,
    /// When the producer wants to be rung for; set by the producer.
    pub(super) head_mark: &'a AtomicU64,
    /// The messages; written by the producer.
    data: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// The words from `position` on, of a record of so many bytes, in two pieces: the second is what lies behind the seam.
    ///
    /// # Panics
    /// If that is more than the ring has.
    #[inline]
    pub(super) fn pieces(self, position: u64, bytes: usize) -> (&'a [AtomicU64], &'a [AtomicU64]) {
        let begin = (position / 8) as usize & (self.data.len() - 1);
        let words = bytes / 8;
        let until_seam = (self.data.len() - begin).min(words);
        (&self.data[begin..begin + until_seam], &self.data[..words - until_seam])
    }
}

/// Memory with a checked header.
#[derive(Debug)]
pub(super) struct Layout {
    memory: Memory,
    /// Of one ring, in bytes, as it was read from the header, once.
    capacity: usize,
}

/// What the header says of the two bells: the kernel's number of the eventfd that each side is woken by, 0 if it has none.
pub(super) type BellIds = [u64; 2];

/// A capacity of at least so many bytes.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is none.
pub(super) fn capacity_for(bytes: usize) -> io::Result<usize> {
    let capacity = bytes.max(LEAST_CAPACITY).checked_next_power_of_two();
    capacity.filter(|capacity| *capacity <= MOST_CAPACITY).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "a ring has no more than 1 GiB in each direction")
    })
}

/// How many bytes of memory there are to be for two rings of this capacity.
pub(super) fn bytes_for(capacity: usize) -> u64 {
    (PAGE * 8 + 2 * capacity) as u64
}

impl Layout {
    /// For memory that is new, and zero.
    pub(super) fn write(memory: Memory, capacity: usize, doorbell: Doorbell, bells: BellIds) -> Layout {
        let words = memory.words();
        let header = [MAGIC, version_of(doorbell), capacity as u64, bells[0], bells[1]];
        for (word, value) in words.iter().zip(header) {
            word.store_relaxed(value);
        }
        let layout = Layout { memory, capacity };
        for side in [Side::Maker, Side::Taker] {
            // Just behind where positions begin, so that it is not passed. The mark of the tail is: its reader begins asleep.
            layout.ring_of(side).head_mark.store_relaxed(u64::MAX);
        }
        layout
    }

    /// For memory that somebody else has made, with rings of at most so many bytes and bells of this kind.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if it is not what it should be.
    pub(super) fn read(memory: Memory, most: usize, doorbell: Doorbell) -> io::Result<(Layout, BellIds)> {
        let invalid = |problem| Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        let words = memory.words();
        let header: Option<[u64; 5]> =
            words.first_chunk().map(|words| words.each_ref().map(Word::load_relaxed));
        let Some([MAGIC, version, capacity, maker, taker]) = header else {
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
        let is_possible = |capacity: &usize| {
            (LEAST_CAPACITY..=MOST_CAPACITY).contains(capacity) && capacity.is_power_of_two()
        };
        let Some(capacity) = usize::try_from(capacity).ok().filter(is_possible) else {
            return invalid("the shared ring has an impossible capacity");
        };
        if capacity > most {
            return invalid("the shared ring is larger than this end takes");
        }
        if words.len() as u64 * 8 != bytes_for(capacity) {
            return invalid("the memory has not the size that its header says");
        }
        Ok((Layout { memory, capacity }, [maker, taker]))
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The ring that `side` writes.
    #[inline]
    pub(super) fn ring_of(&self, side: Side) -> Ring<'_> {
        ring_in(self.memory.words(), self.capacity, side)
    }
}

/// The ring that `side` writes, in memory for rings of this capacity.
///
/// # Panics
/// If there is less memory.
#[inline]
pub(super) fn ring_in(words: &[AtomicU64], capacity: usize, side: Side) -> Ring<'_> {
    let number = side.number();
    let at = APART * (1 + 4 * number);
    let data = PAGE + capacity / 8 * number;
    Ring {
        tail: &words[at],
        tail_mark: &words[at + APART],
        head: &words[at + 2 * APART],
        head_mark: &words[at + 3 * APART],
        data: &words[data..data + capacity / 8],
    }
}
