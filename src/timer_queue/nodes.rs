//! What is known of each timer, payload apart, and which keys are good.
//!
//! A node keeps its index from when its timer is made until it ends, so a key finds it in one step, and the heap
//! and the buckets name it by four bytes. It fills half a cache line and never lies across two.

use std::ops::{Index, IndexMut};

/// The largest generation of a node. A node that has used them all up is abandoned.
pub(super) const LAST_GENERATION: u32 = u32::MAX - 1;

/// The node that stands for no node: the end of every list. It is never a timer's. What unlinking writes to the
/// neighbour of a list's last node goes there, so it need not ask which node is the last.
pub(super) const NONE: u32 = 0;

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
    /// In the wheel, the node before it in its bucket. In the run or the heap, its position there.
    pub(super) at: u32,
    /// In the wheel, the node behind it in its bucket.
    pub(super) next: u32,
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

/// All nodes, indexed by `u32`.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// The vacant nodes, but for those that have used up their generations. Apart, and not a list through the nodes: of that
    /// the next one would not be known before the one at hand has come from memory.
    free: Vec<u32>,
}

impl Nodes {
    pub(super) const fn new() -> Nodes {
        Nodes { nodes: Vec::new(), free: Vec::new() }
    }

    /// How many there are, vacant ones and [`NONE`] included.
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

    /// A vacant node, which the caller fills. `None` if there is none left, and [`grow`](Nodes::grow) must be called.
    pub(super) fn take_vacant(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Adds a node, which the caller fills.
    pub(super) fn grow(&mut self) -> u32 {
        let vacant = Node {
            deadline: 0,
            sequence: 0,
            at: NONE,
            next: NONE,
            generation: 0,
            bucket: 0,
            state: State::Vacant,
            repeats: false,
        };
        if self.nodes.is_empty() {
            self.nodes.push(vacant);
        }
        let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 timers at a time");
        self.nodes.push(vacant);
        index
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
            self.free.push(index);
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
