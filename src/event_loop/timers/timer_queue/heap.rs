//! A heap in exact order.
//!
//! Ordered by deadline and, for equal deadlines, by the order of arming. Each node stores the
//! position of its entry in the heap, so that a timer can be removed from the middle. Adding and
//! removing cost O(log n) in the size of the heap.

use super::nodes::{Nodes, State};
use crate::event_loop::trimming::slack::retained;

/// Children per heap node. Entries that are compared with each other are adjacent, in one or two
/// cache lines.
const ARITY: usize = 4;

#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The effective deadline. For a timer that was overdue when it was armed, it is later than the
    /// requested one.
    pub(super) deadline: u64,
    pub(super) index: u32,
}

impl Entry {
    /// The sequence is looked up only for equal deadlines, so that an entry fits into 16 bytes.
    pub(super) fn sorts_before<C>(&self, other: &Entry, nodes: &Nodes<C>) -> bool {
        self.deadline < other.deadline
            || self.deadline == other.deadline && nodes[self.index].sequence() < nodes[other.index].sequence()
    }
}

/// A d-ary heap: no entry sorts before its parent, which for the entry at `i` is at `(i - 1) /
/// ARITY`.
pub(super) struct Heap {
    entries: Vec<Entry>,
}

impl Heap {
    pub(super) const fn new() -> Heap {
        Heap { entries: Vec::new() }
    }

    pub(super) fn first(&self) -> Option<Entry> {
        self.entries.first().copied()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Releases spare capacity.
    pub(super) fn trim(&mut self) {
        self.entries.shrink_to(retained::<Entry>(self.entries.len()));
    }

    /// Removes all entries, and leaves the nodes unchanged.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Adds a timer. Its sequence must be in its node and must not change.
    pub(super) fn push<C>(&mut self, entry: Entry, nodes: &mut Nodes<C>) {
        nodes[entry.index].set_state(State::InHeap);
        self.entries.push(entry);
        self.sift_up(self.entries.len() - 1, entry, nodes);
    }

    pub(super) fn remove<C>(&mut self, position: usize, nodes: &mut Nodes<C>) {
        let last = self.entries.pop().expect("an entry to remove");
        if position == self.entries.len() {
            return;
        }
        // The last entry fills the gap. It may come from another branch, so it may have to move up
        // or down.
        if position > 0 && last.sorts_before(&self.entries[(position - 1) / ARITY], nodes) {
            self.sift_up(position, last, nodes);
        } else {
            self.sift_down(position, last, nodes);
        }
    }

    /// Puts `entry` into the gap at `position`, or further up.
    fn sift_up<C>(&mut self, mut position: usize, entry: Entry, nodes: &mut Nodes<C>) {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !entry.sorts_before(&self.entries[parent], nodes) {
                break;
            }
            self.place(position, self.entries[parent], nodes);
            position = parent;
        }
        self.place(position, entry, nodes);
    }

    /// Puts `entry` into the gap at `position`, or further down.
    fn sift_down<C>(&mut self, mut position: usize, entry: Entry, nodes: &mut Nodes<C>) {
        loop {
            let first = position * ARITY + 1;
            let children = first..self.entries.len().min(first + ARITY);
            let least = children
                .reduce(|a, b| if self.entries[b].sorts_before(&self.entries[a], nodes) { b } else { a });
            match least {
                Some(child) if self.entries[child].sorts_before(&entry, nodes) => {
                    self.place(position, self.entries[child], nodes);
                    position = child;
                }
                _ => break,
            }
        }
        self.place(position, entry, nodes);
    }

    fn place<C>(&mut self, position: usize, entry: Entry, nodes: &mut Nodes<C>) {
        self.entries[position] = entry;
        nodes[entry.index].at = position as u32;
    }
}

#[cfg(test)]
mod tests;
