//! What is known of each timer, its payload with it, and which keys are good.
//!
//! A node keeps its index from when its timer is made until it ends, so a key finds it in one step, and the heap
//! and the buckets name it by four bytes. With a payload of five words it fills a cache line: of a million timers, most of
//! the cost of one is the lines that have to come from memory.

use std::ops::{Index, IndexMut};

use super::vacancies::Vacancies;
use crate::event_loop::trimming::slack::kept;

/// The largest generation of a node. A node that has used them all up is abandoned.
pub(super) const LAST_GENERATION: u32 = u32::MAX - 1;

/// Nodes are given up until one of them has been used so often; their successors would begin with what is left.
const MOST_GIVEN_UP: u32 = LAST_GENERATION / 2;

/// No node has this index.
pub(super) const NONE: u32 = u32::MAX;

/// Names one timer of one queue, for as long as the queue lives: no two timers ever get the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TimerKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node<C> {
    /// As asked for. A near timer may count as later, a far one may stand in a bucket that is earlier.
    pub(super) deadline: u64,
    /// How many times timers had been armed before this one was; and, in the lowest byte, its state and whether it repeats. What
    /// is left for the first lasts for two thousand years of a million timers a second.
    stamp: u64,
    /// Where in the wheel, the run or the heap its entry is.
    pub(super) at: u32,
    /// That of the key the node now answers to, or will when it is next used.
    pub(super) generation: u32,
    /// There while the timer waits.
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
    /// The same, and it has been reset: `deadline` and `sequence` are those that it goes on with.
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
    /// The vacant ones, but for those that have used up their generations.
    vacancies: Vacancies,
    /// The generation that a new node begins with: larger than that of any that has been given up, so that no key comes again.
    first_generation: u32,
    /// Vacant nodes from here on are not used again, for the next trim to give them up, unless there is no other.
    reserve: usize,
}

impl<C> Nodes<C> {
    pub(super) const fn new() -> Nodes<C> {
        Nodes { nodes: Vec::new(), vacancies: Vacancies::new(), first_generation: 0, reserve: usize::MAX }
    }

    /// How many there are, vacant ones included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Node<C>)> {
        (0..).zip(&self.nodes)
    }

    /// The index of the timer, if it has not ended.
    pub(super) fn find(&self, key: TimerKey) -> Option<u32> {
        let node = self.nodes.get(key.index as usize)?;
        (node.generation == key.generation && node.state() != State::Vacant).then_some(key.index)
    }

    /// Fills a node that was vacant.
    pub(super) fn fill(&mut self, index: u32, deadline: u64, sequence: u64, repeats: bool, payload: C) {
        let node = &mut self[index];
        node.deadline = deadline;
        node.stamp = sequence << SEQUENCE_SHIFT | if repeats { REPEATS } else { 0 };
        node.payload = Some(payload);
    }

    /// The key of a vacant node, which the caller fills. `None` if there is none left; then [`grow`](Nodes::grow).
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

    /// Those of timers that are in the wheel.
    pub(super) fn far(&self) -> impl Iterator<Item = u32> {
        self.iter().filter(|(_, node)| node.state() == State::InWheel).map(|(index, _)| index)
    }

    /// Gives up the vacant nodes behind all others, and room for more. A timer that keeps a node far behind those that are needed for
    /// so `many` timers keeps the others before it; they are not used again, so that a later call finds them vacant still.
    pub(super) fn trim(&mut self, many: usize) {
        let given_up = |node: &Node<C>| node.state() == State::Vacant && node.generation <= MOST_GIVEN_UP;
        let kept_nodes = self.nodes.iter().rposition(|node| !given_up(node)).map_or(0, |last| last + 1);
        let generations = self.nodes[kept_nodes..].iter().map(|node| node.generation);
        // The generation of a vacant node has not been in a key yet.
        self.first_generation = generations.fold(self.first_generation, u32::max);
        self.nodes.truncate(kept_nodes);
        self.nodes.shrink_to(kept::<Node<C>>(kept_nodes));
        let needed = kept::<Node<C>>(2 * many);
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

    /// Finds the vacant nodes before the reserve.
    fn list_vacancies(&mut self) {
        self.vacancies.clear();
        // The first is used next.
        for index in (0..self.nodes.len().min(self.reserve) as u32).rev() {
            let node = &self[index];
            if node.state() == State::Vacant && node.generation <= LAST_GENERATION {
                self.vacancies.put(index);
            }
        }
    }

    /// Ends the key of a node and makes the node available for another.
    pub(super) fn vacate(&mut self, index: u32) {
        let node = &mut self[index];
        node.set_state(State::Vacant);
        node.generation += 1;
        // A busy node is used again and again, and gets here within two hours at a million timers a second. It is abandoned, a few
        // bytes for four thousand million timers; starting again at 0 would let an old key cancel a stranger.
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
