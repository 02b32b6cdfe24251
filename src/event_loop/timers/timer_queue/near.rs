//! The near timers in exact order. They are stored in two parts: the run, which is a sorted array,
//! and a heap.
//!
//! Timers leave the timing wheel many at a time. They go into the run, because sorting them
//! together and popping them from the end costs half as much as a heap. A timer that is already
//! near when it is armed goes into the heap.

use std::cmp::Reverse;

use super::heap::{Entry, Heap};
use super::nodes::{NONE, Nodes, State};
use crate::event_loop::trimming::slack::retained;

pub(super) struct Near {
    /// Sorted in descending order: the first timer to fire is at the end. A timer that is removed
    /// from the middle leaves a gap, an entry with the index [`NONE`]. The last entry is never a
    /// gap.
    run: Vec<Entry>,
    heap: Heap,
    /// Entries that [`gather`](Near::gather) has added and [`settle`](Near::settle) has not yet
    /// sorted.
    gathered: Vec<Entry>,
}

impl Near {
    pub(super) const fn new() -> Near {
        Near { run: Vec::new(), heap: Heap::new(), gathered: Vec::new() }
    }

    /// Returns the timer that is due first.
    pub(super) fn first<C>(&self, nodes: &Nodes<C>) -> Option<Entry> {
        match (self.run.last(), self.heap.first()) {
            (Some(&run), Some(heap)) => Some(if run.sorts_before(&heap, nodes) { run } else { heap }),
            (Some(&run), None) => Some(run),
            (None, heap) => heap,
        }
    }

    /// All entries, in no particular order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let run = self.run.iter().filter(|entry| entry.index != NONE);
        run.chain(self.heap.entries()).copied()
    }

    /// Adds a timer. Its node must contain its sequence number, which must not change before the
    /// timer is removed.
    pub(super) fn push<C>(&mut self, entry: Entry, nodes: &mut Nodes<C>) {
        self.heap.push(entry, nodes);
    }

    /// Adds one timer of a batch. The batch takes effect with the next [`settle`](Near::settle).
    pub(super) fn gather(&mut self, entry: Entry) {
        self.gathered.push(entry);
    }

    /// Sorts the gathered timers into the run, or adds them to the heap.
    pub(super) fn settle<C>(&mut self, nodes: &mut Nodes<C>) {
        if self.gathered.is_empty() {
            return;
        }
        // Adding a few timers to the heap is cheaper than sorting a long run again. So entries are
        // sorted again only if the run at least doubles.
        if self.gathered.len() < self.run.len() {
            self.gathered.drain(..).for_each(|entry| self.heap.push(entry, nodes));
            return;
        }
        self.run.retain(|entry| entry.index != NONE);
        self.run.append(&mut self.gathered);
        // Sorted by deadline first, which is fast because it reads no nodes. Equal deadlines are
        // rare.
        self.run.sort_unstable_by_key(|entry| Reverse(entry.deadline));
        for ties in self.run.chunk_by_mut(|a, b| a.deadline == b.deadline).filter(|ties| ties.len() > 1) {
            ties.sort_unstable_by_key(|entry| Reverse(nodes[entry.index].sequence()));
        }
        for (position, entry) in (0..).zip(&self.run) {
            let node = &mut nodes[entry.index];
            node.set_state(State::InRun);
            node.at = position;
        }
    }

    /// Removes a timer.
    pub(super) fn remove<C>(&mut self, index: u32, nodes: &mut Nodes<C>) {
        let position = nodes[index].at as usize;
        if nodes[index].state() == State::InHeap {
            return self.heap.remove(position, nodes);
        }
        self.run[position].index = NONE;
        while self.run.last().is_some_and(|last| last.index == NONE) {
            self.run.pop();
        }
    }

    /// Releases spare capacity.
    pub(super) fn trim(&mut self) {
        self.run.shrink_to(retained::<Entry>(self.run.len()));
        self.gathered.shrink_to(retained::<Entry>(self.gathered.len()));
        self.heap.trim();
    }

    /// Removes all entries, and leaves the nodes unchanged.
    pub(super) fn clear(&mut self) {
        self.run.clear();
        self.heap.clear();
    }
}

#[cfg(test)]
mod tests;
