//! The near timers, in exact order: a run and a heap.
//!
//! What comes out of the wheel comes many at a time, and sorting them at once and taking them from the end is cheaper than
//! a heap by half. So they make up the run. A timer that is armed when it is near already goes into the heap.

use std::cmp::Reverse;

use super::heap::{Entry, Heap};
use super::nodes::{NONE, Nodes, State};
use crate::event_loop::trimming::slack::kept;

pub(super) struct Near {
    /// Sorted, the first to fire at the end. A timer that is taken out from the middle leaves a gap, which has the index
    /// [`NONE`]; the last entry is never one.
    run: Vec<Entry>,
    heap: Heap,
    /// What has been gathered and not settled.
    gathered: Vec<Entry>,
}

impl Near {
    pub(super) const fn new() -> Near {
        Near { run: Vec::new(), heap: Heap::new(), gathered: Vec::new() }
    }

    /// The timer that comes first.
    pub(super) fn first<C>(&self, nodes: &Nodes<C>) -> Option<Entry> {
        match (self.run.last(), self.heap.first()) {
            (Some(&run), Some(heap)) => Some(if run.sorts_before(&heap, nodes) { run } else { heap }),
            (Some(&run), None) => Some(run),
            (None, heap) => heap,
        }
    }

    /// All of them, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let run = self.run.iter().filter(|entry| entry.index != NONE);
        run.chain(self.heap.entries()).copied()
    }

    /// Adds a timer, whose sequence must stand in its node and stay as it is while the timer is here.
    pub(super) fn push<C>(&mut self, entry: Entry, nodes: &mut Nodes<C>) {
        self.heap.push(entry, nodes);
    }

    /// The same for many; they are not here before they are [settled](Near::settle).
    pub(super) fn gather(&mut self, entry: Entry) {
        self.gathered.push(entry);
    }

    /// Brings what has been gathered into order.
    pub(super) fn settle<C>(&mut self, nodes: &mut Nodes<C>) {
        if self.gathered.is_empty() {
            return;
        }
        // A few that would have to go into a long run are better off in the heap. So no entry is sorted again before
        // the run has doubled.
        if self.gathered.len() < self.run.len() {
            self.gathered.drain(..).for_each(|entry| self.heap.push(entry, nodes));
            return;
        }
        self.run.retain(|entry| entry.index != NONE);
        self.run.append(&mut self.gathered);
        // By number first, which is fast because it looks at nothing else; ties are few.
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

    /// Takes a timer out.
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

    /// Gives up room beside what is there.
    pub(super) fn trim(&mut self) {
        self.run.shrink_to(kept::<Entry>(self.run.len()));
        self.gathered.shrink_to(kept::<Entry>(self.gathered.len()));
        self.heap.trim();
    }

    /// Forgets everything, and leaves the nodes as they are.
    pub(super) fn clear(&mut self) {
        self.run.clear();
        self.heap.clear();
    }
}

#[cfg(test)]
mod tests;
