//! A heap in exact order.
//!
//! Ordered by deadline and, among equal ones, by when the timer was armed. Each node remembers where in the heap its
//! entry is, so that a timer can be taken out from the middle. Adding and removing cost O(log n) of the timers that
//! are in it.

use super::nodes::{Nodes, State};
use crate::event_loop::trimming::slack::kept;

/// Children per heap node: those that are compared with each other lie side by side, in one cache line or two.
const ARITY: usize = 4;

#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// What the timer counts as, which for one that was overdue when it was armed is later than what was asked for.
    pub(super) deadline: u64,
    pub(super) index: u32,
}

impl Entry {
    /// The sequence is looked up only if it matters, so that an entry fits into 16 bytes.
    pub(super) fn sorts_before<C>(&self, other: &Entry, nodes: &Nodes<C>) -> bool {
        self.deadline < other.deadline
            || self.deadline == other.deadline && nodes[self.index].sequence() < nodes[other.index].sequence()
    }
}

/// No entry sorts before its parent, which for the entry at `i` is at `(i - 1) / ARITY`.
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

    /// Gives up room beside what is there.
    pub(super) fn trim(&mut self) {
        self.entries.shrink_to(kept::<Entry>(self.entries.len()));
    }

    /// Forgets everything, and leaves the nodes as they are.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Adds a timer, whose sequence must stand in its node and stay as it is.
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
        // The last entry fills the gap. It comes from another branch, perhaps, so it may belong on either side.
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
