//! What is known of each timer, payload apart, and which keys are good.
//!
//! A node keeps its index from when its timer is made until it ends, so a key finds it in one step, and the heap
//! and the buckets name it by four bytes. It fills half a cache line and never lies across two.

use std::ops::{Index, IndexMut};

/// The largest generation of a node. A node that has used them all up is abandoned.
pub(super) const LAST_GENERATION: u32 = u32::MAX - 1;

/// No node has this index.
pub(super) const NONE: u32 = u32::MAX;

/// Names one timer of one queue, for as long as the queue lives: no two timers ever get the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TimerKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Node {
    /// As asked for. A near timer may count as later, a far one may stand in a bucket that is earlier.
    pub(super) deadline: u64,
    /// How many times timers had been armed before this one was.
    pub(super) sequence: u64,
    /// Where in the wheel, the run or the heap its entry is.
    pub(super) at: u32,
    /// That of the key the node now answers to, or will when it is next used.
    pub(super) generation: u32,
    /// In the wheel, which bucket.
    pub(super) bucket: u16,
    pub(super) state: State,
    pub(super) repeats: bool,
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
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// The keys to be given next: the vacant nodes, but for those that have used up their generations. The
    /// generation is here too, so that a new timer only writes to its node and need not wait for it to come from memory.
    free: Vec<TimerKey>,
}

impl Nodes {
    pub(super) const fn new() -> Nodes {
        Nodes { nodes: Vec::new(), free: Vec::new() }
    }

    /// How many there are, vacant ones included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Node)> {
        (0..).zip(&self.nodes)
    }

    /// The index of the timer, if it has not ended.
    pub(super) fn find(&self, key: TimerKey) -> Option<u32> {
        let node = self.nodes.get(key.index as usize)?;
        (node.generation == key.generation && node.state != State::Vacant).then_some(key.index)
    }

    pub(super) fn key(&self, index: u32) -> TimerKey {
        TimerKey { index, generation: self[index].generation }
    }

    /// The key of a vacant node, which the caller fills. `None` if there is none left; then [`grow`](Nodes::grow).
    pub(super) fn take_vacant(&mut self) -> Option<TimerKey> {
        self.free.pop()
    }

    /// Adds a node, which the caller fills.
    pub(super) fn grow(&mut self) -> TimerKey {
        let index = u32::try_from(self.nodes.len()).ok().filter(|&index| index != NONE);
        let index = index.expect("fewer than 2^32 timers at a time");
        self.nodes.push(Node {
            deadline: 0,
            sequence: 0,
            at: 0,
            generation: 0,
            bucket: 0,
            state: State::Vacant,
            repeats: false,
        });
        TimerKey { index, generation: 0 }
    }

    /// Ends the key of a node and makes the node available for another.
    pub(super) fn vacate(&mut self, index: u32) {
        let node = &mut self[index];
        node.state = State::Vacant;
        node.generation += 1;
        // The node used last is used next, so a busy one gets here within two hours at a million timers a
        // second. It is abandoned, a few bytes for four thousand million timers; starting again at 0 would let an old
        // key cancel a stranger.
        if node.generation <= LAST_GENERATION {
            let key = TimerKey { index, generation: node.generation };
            self.free.push(key);
        }
    }
}

impl Index<u32> for Nodes {
    type Output = Node;

    fn index(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }
}

impl IndexMut<u32> for Nodes {
    fn index_mut(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }
}

#[cfg(test)]
mod tests;
