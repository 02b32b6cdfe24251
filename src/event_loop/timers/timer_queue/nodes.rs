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
const MOST_GIVEN_UP: u32 = LAST_GENERATION / 2;

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
    nodes: Vec<Node<C>>,
    /// The vacant nodes, except those that have used all their generations.
    vacancies: Vacancies,
    /// The generation of a new node. It is larger than that of any released node, so that no key
    /// occurs twice.
    first_generation: u32,
    /// Vacant nodes from this index on are not used, so that the next trim can release them, unless
    /// there are no others.
    reserve: usize,
}

impl<C> Nodes<C> {
    pub(super) const fn new() -> Nodes<C> {
        Nodes { nodes: Vec::new(), vacancies: Vacancies::new(), first_generation: 0, reserve: usize::MAX }
    }

    /// The number of nodes, including vacant ones.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Node<C>)> {
        (0..).zip(&self.nodes)
    }

    /// Returns the index of the timer, if it has not ended.
    pub(super) fn find(&self, key: TimerKey) -> Option<u32> {
        let node = self.nodes.get(key.index as usize)?;
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
        let index = self.vacancies.take().or_else(|| self.take_reserve())?;
        Some(TimerKey { index, generation: self[index].generation })
    }

    /// Adds a node, which the caller fills.
    pub(super) fn grow(&mut self) -> TimerKey {
        let index = u32::try_from(self.nodes.len()).ok().filter(|&index| index != NONE);
        let index = index.expect("fewer than 2^32 timers at a time");
        self.nodes.push(Node {
            deadline: 0,
            stamp: State::Vacant as u64,
            at: 0,
            generation: self.first_generation,
            payload: None,
        });
        TimerKey { index, generation: self.first_generation }
    }

    /// The indices of the timers that are in the wheel.
    pub(super) fn far(&self) -> impl Iterator<Item = u32> {
        self.iter().filter(|(_, node)| node.state() == State::InWheel).map(|(index, _)| index)
    }

    /// Releases the vacant nodes after the last one in use, and spare capacity. A timer whose node
    /// lies far beyond those that `needed_for` timers take keeps all nodes before it. These are not
    /// used again, so that a later call finds them vacant still.
    pub(super) fn trim(&mut self, needed_for: usize) {
        let given_up = |node: &Node<C>| node.state() == State::Vacant && node.generation <= MOST_GIVEN_UP;
        let kept_nodes = self.nodes.iter().rposition(|node| !given_up(node)).map_or(0, |last| last + 1);
        let generations = self.nodes[kept_nodes..].iter().map(|node| node.generation);
        // The generation of a vacant node has not been in a key yet.
        self.first_generation = generations.fold(self.first_generation, u32::max);
        self.nodes.truncate(kept_nodes);
        self.nodes.shrink_to(retained::<Node<C>>(kept_nodes));
        let needed = retained::<Node<C>>(2 * needed_for);
        self.reserve = if kept_nodes > 4 * needed { needed } else { usize::MAX };
        self.list_vacancies();
    }

    #[cold]
    fn take_reserve(&mut self) -> Option<u32> {
        if self.reserve == usize::MAX {
            return None;
        }
        self.reserve = usize::MAX;
        self.list_vacancies();
        self.vacancies.take()
    }

    /// Lists the vacant nodes before the reserve.
    fn list_vacancies(&mut self) {
        self.vacancies.clear();
        // The last one listed is used first.
        for index in (0..self.nodes.len().min(self.reserve) as u32).rev() {
            let node = &self[index];
            if node.state() == State::Vacant && node.generation <= LAST_GENERATION {
                self.vacancies.put(index);
            }
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
        if node.generation <= LAST_GENERATION && (index as usize) < self.reserve {
            self.vacancies.put(index);
        }
    }
}

impl<C> Index<u32> for Nodes<C> {
    type Output = Node<C>;

    fn index(&self, index: u32) -> &Node<C> {
        &self.nodes[index as usize]
    }
}

impl<C> IndexMut<u32> for Nodes<C> {
    fn index_mut(&mut self, index: u32) -> &mut Node<C> {
        &mut self.nodes[index as usize]
    }
}

#[cfg(test)]
mod tests;
