//! The state of each timer with its payload, and the validity of keys.
//!
//! A node keeps its index from the creation of its timer until its end. So a key finds it in one
//! step, and the heap and the buckets refer to it by four bytes. With a payload of five machine
//! words it fills a cache line: for a million timers, most of the cost of one is fetching its cache
//! lines from memory.

use std::ops::{Index, IndexMut};

use super::vacancies::Vacancies;
use crate::event_loop::trimming::slack::retained;

/// The last generation of a node. A node that has used all of them is abandoned.
pub(super) const LAST_GENERATION: u32 = u32::MAX - 1;

/// Nodes with a generation up to this one may be released. New nodes then begin with the largest
/// released generation.
const LAST_RELEASED: u32 = LAST_GENERATION / 2;

/// log2 of the number of nodes in a block.
const BLOCK_BITS: u32 = 12;

/// The number of nodes that are released at a time. A quarter of a MiB takes tens of microseconds.
const BLOCK: usize = 1 << BLOCK_BITS;

/// An index that no node has.
pub(super) const NONE: u32 = u32::MAX;

/// Identifies a timer of a queue for the lifetime of the queue: no two timers ever get the same
/// key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TimerKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node<C> {
    /// The requested deadline. The entry of a near timer may have a later one; a timer in the wheel
    /// may be in an earlier bucket.
    pub(super) deadline: u64,
    /// The sequence of the timer, which is the number of times that timers were armed before it;
    /// and, in the lowest byte, its state and whether it repeats. The bits left for the sequence
    /// last for two thousand years of a million timers a second.
    stamp: u64,
    /// The position of its entry in the wheel, the run or the heap.
    pub(super) at: u32,
    /// The generation of the current key or, in a vacant node, of the next one.
    pub(super) generation: u32,
    /// Present while the timer waits.
    pub(super) payload: Option<C>,
}

/// The bits of a stamp.
const STATE: u64 = 0x7f;
const REPEATS: u64 = 0x80;
const SEQUENCE_SHIFT: u32 = 8;

impl<C> Node<C> {
    pub(super) fn sequence(&self) -> u64 {
        self.stamp >> SEQUENCE_SHIFT
    }

    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.stamp = sequence << SEQUENCE_SHIFT | self.stamp & (STATE | REPEATS);
    }

    pub(super) fn repeats(&self) -> bool {
        self.stamp & REPEATS != 0
    }

    pub(super) fn state(&self) -> State {
        const VACANT: u64 = State::Vacant as u64;
        const IN_RUN: u64 = State::InRun as u64;
        const IN_HEAP: u64 = State::InHeap as u64;
        const IN_WHEEL: u64 = State::InWheel as u64;
        const POPPED: u64 = State::Popped as u64;
        match self.stamp & STATE {
            VACANT => State::Vacant,
            IN_RUN => State::InRun,
            IN_HEAP => State::InHeap,
            IN_WHEEL => State::InWheel,
            POPPED => State::Popped,
            _ => State::PoppedAndReset,
        }
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.stamp = self.stamp & !STATE | state as u64;
    }

    fn may_be_released(&self) -> bool {
        self.state() == State::Vacant && self.generation <= LAST_RELEASED
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Vacant,
    InRun,
    InHeap,
    InWheel,
    /// A repeating timer between `pop_due` and `rearm`.
    Popped,
    /// Popped and then reset: `deadline` and `sequence` are those with which it will be re-armed.
    PoppedAndReset,
}

impl State {
    pub(super) fn is_near(self) -> bool {
        matches!(self, State::InRun | State::InHeap)
    }
}

/// All nodes, indexed by `u32`.
pub(super) struct Nodes<C> {
    /// All blocks but the last are full. A single vector of many nodes is copied when it grows or
    /// shrinks, which takes tens of milliseconds for a million.
    blocks: Vec<Vec<Node<C>>>,
    /// The number of nodes in all blocks.
    len: usize,
    /// The vacant nodes, except those that have used all their generations.
    vacancies: Vacancies,
    /// The generation of a new node. It is larger than that of any released node, so that no key
    /// occurs twice.
    first_generation: u32,
}

impl<C> Nodes<C> {
    pub(super) const fn new() -> Nodes<C> {
        Nodes { blocks: Vec::new(), len: 0, vacancies: Vacancies::new(), first_generation: 0 }
    }

    /// The number of nodes, including vacant ones.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Node<C>)> {
        (0..).zip(self.blocks.iter().flatten())
    }

    /// Returns the index of the timer, if it has not ended.
    pub(super) fn find(&self, key: TimerKey) -> Option<u32> {
        let node = self.blocks.get(block_of(key.index))?.get(place_of(key.index))?;
        (node.generation == key.generation && node.state() != State::Vacant).then_some(key.index)
    }

    /// Fills a vacant node.
    pub(super) fn fill(&mut self, index: u32, deadline: u64, sequence: u64, repeats: bool, payload: C) {
        let node = &mut self[index];
        node.deadline = deadline;
        node.stamp = sequence << SEQUENCE_SHIFT | if repeats { REPEATS } else { 0 };
        node.payload = Some(payload);
    }

    /// Returns the key of a vacant node, which the caller fills. `None` if there is none; the
    /// caller then uses [`grow`](Nodes::grow).
    pub(super) fn take_vacant(&mut self) -> Option<TimerKey> {
        let index = self.vacancies.take()?;
        Some(TimerKey { index, generation: self[index].generation })
    }

    /// Adds a node, which the caller fills.
    pub(super) fn grow(&mut self) -> TimerKey {
        let index = u32::try_from(self.len).ok().filter(|&index| index != NONE);
        let index = index.expect("fewer than 2^32 timers at a time");
        if place_of(index) == 0 {
            // The first block grows, as most loops have few timers.
            self.blocks.push(if index == 0 { Vec::new() } else { Vec::with_capacity(BLOCK) });
        }
        self.len += 1;
        self.blocks[block_of(index)].push(Node {
            deadline: 0,
            stamp: State::Vacant as u64,
            at: 0,
            generation: self.first_generation,
            payload: None,
        });
        TimerKey { index, generation: self.first_generation }
    }

    /// Releases the vacant nodes at the end of the last block. Returns whether there are more: the
    /// whole block has been released, and the last node of the one before it is vacant too.
    pub(super) fn trim(&mut self) -> bool {
        let Some(block) = self.blocks.last_mut() else { return false };
        while let Some(node) = block.last().filter(|node| node.may_be_released()) {
            // The generation of a vacant node has not been in a key yet.
            self.first_generation = self.first_generation.max(node.generation);
            self.len -= 1;
            block.pop();
        }
        if block.is_empty() && self.blocks.len() > 1 {
            self.blocks.pop();
        }
        self.vacancies.truncate(self.len);
        let last = self.blocks.last().and_then(|block| block.last());
        self.len > 0 && place_of(self.len as u32) == 0 && last.is_some_and(Node::may_be_released)
    }

    /// If there are far more nodes than `timers` timers need, uses those at the end only when there
    /// are no others, so that later [trims](Nodes::trim) find them vacant. A timer keeps all nodes
    /// before its own.
    pub(super) fn reserve_end(&mut self, timers: usize) {
        let needed = retained::<Node<C>>(2 * timers);
        if self.len > 4 * needed {
            self.vacancies.prefer_before(needed);
        }
    }

    /// Invalidates the key of a node and makes the node available for another timer.
    pub(super) fn vacate(&mut self, index: u32) {
        let node = &mut self[index];
        node.set_state(State::Vacant);
        node.generation += 1;
        // A busy node is reused all the time, and reaches this limit after two hours of a million
        // timers a second. It is abandoned, which costs a few bytes for every four thousand million
        // timers. Starting again at 0 would let an old key cancel another timer.
        if node.generation <= LAST_GENERATION {
            self.vacancies.put(index);
        }
    }
}

fn block_of(index: u32) -> usize {
    (index >> BLOCK_BITS) as usize
}

fn place_of(index: u32) -> usize {
    index as usize % BLOCK
}

impl<C> Index<u32> for Nodes<C> {
    type Output = Node<C>;

    fn index(&self, index: u32) -> &Node<C> {
        &self.blocks[block_of(index)][place_of(index)]
    }
}

impl<C> IndexMut<u32> for Nodes<C> {
    fn index_mut(&mut self, index: u32) -> &mut Node<C> {
        &mut self.blocks[block_of(index)][place_of(index)]
    }
}

#[cfg(test)]
mod tests;
