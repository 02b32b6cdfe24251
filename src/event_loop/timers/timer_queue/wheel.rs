//! The wheel of distant timers: buckets of time.
//!
//! A hierarchical timing wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels",
//! SOSP 1987). Time is counted in ticks of about a millisecond. A bucket of level 0 is one tick
//! long. A bucket of each higher level is 2048 times as long as one of the level below, and four
//! levels span the range of 64 bits of nanoseconds. The level of a tick is that of the highest
//! digit, to the base 2048, in which it differs from the cursor; the digit is the number of its
//! bucket. So all buckets in use of a level are after the cursor's digit and before those of the
//! level above. No bucket is shared by two rounds of the wheel, and the first one in time is the
//! first set bit of the lowest level that has one.
//!
//! Adding and removing are O(1). A bucket does not keep its timers in order, and a timer may be in
//! a bucket that is too early. Timers that are taken from a bucket have to be placed again by
//! deadline.
//!
//! A bucket is a list of chunks of node indices, of which only the first has vacant entries. A list
//! through the nodes themselves would need no chunks, but following it means waiting for one node
//! after the other to be fetched from memory; the nodes of a chunk are fetched at the same time. A
//! timer that is removed leaves a gap in its chunk. The chunk is released when all its timers have
//! been removed: filling the gap with another timer would mean fetching one more node.

use std::iter::successors;
use std::mem;

use super::nodes::{NONE, Nodes, State};
use crate::event_loop::trimming::slack::retained;

/// log2 of the nanoseconds in a tick.
pub(super) const TICK_BITS: u32 = 20;
const LEVELS: usize = 4;
/// log2 of the buckets in a level.
const DIGIT_BITS: u32 = 11;
const BUCKETS: usize = 1 << DIGIT_BITS;
const WORDS: usize = BUCKETS / 64;

/// The number of indices in a chunk. With the rest of its fields it fills a cache line.
const CHUNK: usize = 13;
/// log2 of the number of positions per chunk in [`Node::at`](super::nodes::Node::at).
const CHUNK_BITS: u32 = 4;

/// The number of removed nodes after which the chunks are updated.
const MOST_REMOVED: usize = 64;

/// The chunk that ends every list. It is full, so that adding to an empty bucket is the same as
/// adding to one whose first chunk is full.
const END: u32 = 0;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Chunk {
    /// [`NONE`] where a timer has been removed.
    indices: [u32; CHUNK],
    /// The next chunk of its bucket, or of the vacant chunks.
    next: u32,
    /// The previous chunk of its bucket.
    before: u32,
    bucket: u16,
    /// The number of indices that have been added, and the number of those that have not been
    /// removed.
    added: u8,
    left: u8,
}

impl Chunk {
    const fn new(bucket: u16, next: u32) -> Chunk {
        Chunk { indices: [NONE; CHUNK], next, before: END, bucket, added: 0, left: 0 }
    }

    fn is_full(&self) -> bool {
        usize::from(self.added) == CHUNK
    }

    fn nodes(self) -> impl Iterator<Item = u32> {
        self.indices.into_iter().take(self.added.into()).filter(|&index| index != NONE)
    }
}

/// Converts nanoseconds to a tick.
pub(super) fn tick_of(nanos: u64) -> u64 {
    nanos >> TICK_BITS
}

/// A bucket that is not empty, and its range of ticks.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    number: u16,
    pub(super) first_tick: u64,
    pub(super) last_tick: u64,
}

/// The list of chunks of a bucket that was taken.
pub(super) struct Taken(u32);

pub(super) struct Wheel {
    /// All timers in the wheel are after this tick.
    cursor: u64,
    /// The first chunk of each bucket, level by level. Allocated by [`prepare`](Wheel::prepare). An
    /// empty bucket is a zero, so pages that no timer has used need no memory.
    heads: Vec<u32>,
    chunks: Vec<Chunk>,
    /// The first vacant chunk.
    vacant: u32,
    /// A bit per bucket: whether it is not empty.
    occupied: [[u64; WORDS]; LEVELS],
    /// A bit per word of `occupied`: whether it is not zero.
    summary: [u32; LEVELS],
    /// The positions of removed nodes that have not been cleared in their chunks. Together their
    /// chunks are fetched from memory at the same time; one by one each would have to wait for its
    /// node first.
    removed: Vec<u32>,
}

impl Wheel {
    pub(super) const fn new() -> Wheel {
        Wheel {
            cursor: 0,
            heads: Vec::new(),
            chunks: Vec::new(),
            vacant: END,
            occupied: [[0; WORDS]; LEVELS],
            summary: [0; LEVELS],
            removed: Vec::new(),
        }
    }

    /// Must be called before the first timer is added.
    pub(super) fn prepare(&mut self) {
        if self.heads.is_empty() {
            self.heads = vec![END; LEVELS * BUCKETS];
            self.chunks.push(Chunk { added: CHUNK as u8, ..Chunk::new(0, END) });
            self.removed.reserve_exact(MOST_REMOVED);
        }
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Moves the cursor forward. No bucket may begin at or before the new cursor, except the one
    /// that contains it, if its list has been [taken](Wheel::take).
    pub(super) fn set_cursor(&mut self, cursor: u64) {
        debug_assert!(cursor >= self.cursor && self.first().is_none_or(|bucket| bucket.first_tick > cursor));
        self.cursor = cursor;
    }

    /// Returns the first bucket, in time, that is not empty.
    pub(super) fn first(&self) -> Option<Bucket> {
        debug_assert!(self.removed.is_empty(), "not settled");
        let level = (0..LEVELS).find(|&level| self.summary[level] != 0)?;
        let word = self.summary[level].trailing_zeros();
        let digit = word * 64 + self.occupied[level][word as usize].trailing_zeros();
        Some(self.bucket(((level as u32) << DIGIT_BITS | digit) as u16))
    }

    /// All buckets that are not empty, in the order of time.
    pub(super) fn buckets(&self) -> impl Iterator<Item = Bucket> {
        debug_assert!(self.removed.is_empty(), "not settled");
        let words = (0..LEVELS)
            .flat_map(|level| bits_of(self.summary[level].into()).map(move |word| (level, word as usize)));
        let numbers = words.flat_map(|(level, word)| {
            bits_of(self.occupied[level][word]).map(move |bit| (level * BUCKETS + word * 64) as u16 + bit)
        });
        numbers.map(|number| self.bucket(number))
    }

    /// The nodes in a bucket.
    pub(super) fn nodes_in(&self, bucket: Bucket) -> impl Iterator<Item = u32> {
        let next = |&chunk: &u32| Some(self.chunks[chunk as usize].next);
        let chunks = successors(Some(self.heads[usize::from(bucket.number)]), next);
        chunks.take_while(|&chunk| chunk != END).flat_map(|chunk| self.chunks[chunk as usize].nodes())
    }

    fn bucket(&self, number: u16) -> Bucket {
        let (level, digit) = (u32::from(number) >> DIGIT_BITS, u64::from(number) % BUCKETS as u64);
        let shift = level * DIGIT_BITS;
        // The digits above the level's are those of the cursor.
        let above = self.cursor >> (shift + DIGIT_BITS) << DIGIT_BITS;
        let first_tick = (above | digit) << shift;
        Bucket { number, first_tick, last_tick: first_tick + ((1 << shift) - 1) }
    }

    /// Adds a node to the bucket of `tick`, which must be after the cursor.
    pub(super) fn add<C>(&mut self, index: u32, tick: u64, nodes: &mut Nodes<C>) {
        let level = (tick ^ self.cursor).ilog2() / DIGIT_BITS;
        let digit = (tick >> (level * DIGIT_BITS)) as usize % BUCKETS;
        let (level, bucket) = (level as usize, (level as usize) << DIGIT_BITS | digit);

        let mut head = self.heads[bucket];
        if self.chunks[head as usize].is_full() {
            head = self.new_chunk(bucket as u16, head);
            self.heads[bucket] = head;
            self.occupied[level][digit / 64] |= 1 << (digit % 64);
            self.summary[level] |= 1 << (digit / 64);
        }
        let chunk = &mut self.chunks[head as usize];
        let position = chunk.added;
        chunk.indices[usize::from(position)] = index;
        chunk.added += 1;
        chunk.left += 1;

        let node = &mut nodes[index];
        node.set_state(State::InWheel);
        node.at = head << CHUNK_BITS | u32::from(position);
    }

    /// Removes a node.
    pub(super) fn remove<C>(&mut self, index: u32, nodes: &Nodes<C>) {
        if self.removed.len() == MOST_REMOVED {
            self.settle();
        }
        self.removed.push(nodes[index].at);
    }

    /// Clears removed nodes in their chunks. Must be called before the buckets are read.
    pub(super) fn settle(&mut self) {
        for removed in 0..self.removed.len() {
            let at = self.removed[removed];
            let chunk = &mut self.chunks[(at >> CHUNK_BITS) as usize];
            chunk.indices[at as usize % (1 << CHUNK_BITS)] = NONE;
            chunk.left -= 1;
            if chunk.left == 0 {
                self.remove_chunk(at >> CHUNK_BITS);
            }
        }
        self.removed.clear();
    }

    /// Empties a bucket. The caller [takes](Wheel::take_chunk) its chunks and places the timers
    /// again.
    pub(super) fn take(&mut self, bucket: Bucket) -> Taken {
        self.clear_bit(usize::from(bucket.number));
        Taken(mem::replace(&mut self.heads[usize::from(bucket.number)], END))
    }

    /// Returns the nodes of the next chunk that was taken. `None` if there are no more.
    pub(super) fn take_chunk(&mut self, taken: &mut Taken) -> Option<impl Iterator<Item = u32> + use<>> {
        if taken.0 == END {
            return None;
        }
        let chunk = self.chunks[taken.0 as usize];
        self.free_chunk(taken.0);
        taken.0 = chunk.next;
        Some(chunk.nodes())
    }

    /// Returns the earliest tick of the bucket that has this node.
    pub(super) fn first_tick_around<C>(&self, index: u32, nodes: &Nodes<C>) -> u64 {
        self.bucket(self.chunks[(nodes[index].at >> CHUNK_BITS) as usize].bucket).first_tick
    }

    /// Removes all timers, and leaves the cursor and the nodes unchanged.
    pub(super) fn clear(&mut self) {
        self.settle();
        while let Some(bucket) = self.first() {
            let mut taken = self.take(bucket);
            while self.take_chunk(&mut taken).is_some() {}
        }
    }

    /// Removes and returns all nodes, which the caller places again. Releases the memory of the
    /// chunks.
    pub(super) fn reset(&mut self) -> Vec<u32> {
        self.settle();
        let nodes = self.buckets().flat_map(|bucket| self.nodes_in(bucket)).collect();
        self.clear();
        self.chunks.truncate(1);
        self.chunks.shrink_to(retained::<Chunk>(1));
        self.vacant = END;
        nodes
    }

    /// Allocates an empty chunk of a bucket, before `next`.
    fn new_chunk(&mut self, bucket: u16, next: u32) -> u32 {
        let chunk = Chunk::new(bucket, next);
        let number = if self.vacant == END {
            let number = self.chunks.len();
            assert!(number < 1 << (u32::BITS - CHUNK_BITS), "fewer than 2^28 chunks of timers at a time");
            self.chunks.push(chunk);
            number as u32
        } else {
            let vacant = &mut self.chunks[self.vacant as usize];
            let number = mem::replace(&mut self.vacant, vacant.next);
            *vacant = chunk;
            number
        };
        // This may write to the chunk that ends the lists, whose `before` is never read.
        self.chunks[next as usize].before = number;
        number
    }

    fn remove_chunk(&mut self, number: u32) {
        let Chunk { next, before, bucket, .. } = self.chunks[number as usize];
        if before != END {
            self.chunks[before as usize].next = next;
        } else {
            self.heads[usize::from(bucket)] = next;
            if next == END {
                self.clear_bit(bucket.into());
            }
        }
        self.chunks[next as usize].before = before;
        self.free_chunk(number);
    }

    fn free_chunk(&mut self, number: u32) {
        self.chunks[number as usize].next = self.vacant;
        self.vacant = number;
    }

    fn clear_bit(&mut self, bucket: usize) {
        let (level, digit) = (bucket / BUCKETS, bucket % BUCKETS);
        let word = &mut self.occupied[level][digit / 64];
        *word &= !(1 << (digit % 64));
        if *word == 0 {
            self.summary[level] &= !(1 << (digit / 64));
        }
    }
}

/// The numbers of the set bits, from the lowest up.
fn bits_of(bits: u64) -> impl Iterator<Item = u16> {
    let rest = successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)));
    rest.take_while(|&bits| bits != 0).map(|bits| bits.trailing_zeros() as u16)
}

#[cfg(test)]
mod tests;
