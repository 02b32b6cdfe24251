//! A 4-ary heap with an index of each timer's entry.

/// Children of a node: they fill a cache line.
const ARITY: usize = 4;

/// A deadline and an id.
type Entry = (u64, u32);

#[derive(Debug, Default)]
pub(in crate::timers) struct Heap {
    entries: Vec<Entry>,
    /// The index of each id's entry.
    places: Vec<u32>,
    free: Vec<u32>,
}

impl Heap {
    pub(in crate::timers) fn new() -> Heap {
        Heap::default()
    }

    pub(in crate::timers) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::timers) fn insert(&mut self, deadline: u64) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.places.push(0);
            self.places.len() as u32 - 1
        });
        self.entries.push((deadline, id));
        self.rise(self.entries.len() - 1, (deadline, id));
        id
    }

    pub(in crate::timers) fn remove(&mut self, id: u32) {
        self.remove_entry(self.places[id as usize] as usize);
        self.free.push(id);
    }

    /// Moves a pending timer to another deadline.
    pub(in crate::timers) fn reset(&mut self, id: u32, deadline: u64) {
        self.settle(self.places[id as usize] as usize, (deadline, id));
    }

    /// The earliest deadline.
    pub(in crate::timers) fn first(&self) -> Option<u64> {
        self.entries.first().map(|&(deadline, _)| deadline)
    }

    /// Removes the first timer if it is due.
    pub(in crate::timers) fn pop(&mut self, now: u64) -> Option<Entry> {
        let first = *self.entries.first().filter(|&&(deadline, _)| deadline <= now)?;
        self.remove_entry(0);
        self.free.push(first.1);
        Some(first)
    }

    fn remove_entry(&mut self, place: usize) {
        if let Some(last) = self.entries.pop()
            && place < self.entries.len()
        {
            self.settle(place, last);
        }
    }

    /// Places an entry in the heap, starting from a free index.
    fn settle(&mut self, place: usize, entry: Entry) {
        if place > 0 && entry.0 < self.entries[(place - 1) / ARITY].0 {
            self.rise(place, entry);
        } else {
            self.sink(place, entry);
        }
    }

    fn rise(&mut self, mut place: usize, entry: Entry) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.entries[parent].0 <= entry.0 {
                break;
            }
            self.put(place, self.entries[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sink(&mut self, mut place: usize, entry: Entry) {
        loop {
            let first = place * ARITY + 1;
            let children = first..self.entries.len().min(first + ARITY);
            let Some(least) = children.min_by_key(|&child| self.entries[child].0) else { break };
            if self.entries[least].0 >= entry.0 {
                break;
            }
            self.put(place, self.entries[least]);
            place = least;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.entries[place] = entry;
        self.places[entry.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::timers::workload::Random;

    #[test]
    fn it_gives_out_what_a_sorted_set_does() {
        let (mut heap, mut model, mut random) = (Heap::new(), BTreeSet::new(), Random::new(2));
        for _ in 0..20_000 {
            let deadline = random.below(1000);
            match random.below(8) {
                0..4 => _ = model.insert((deadline, heap.insert(deadline))),
                choice @ 4..7 => {
                    let some = model.range((deadline, 0)..).next().copied();
                    let Some((old, id)) = some else { continue };
                    model.remove(&(old, id));
                    if choice == 4 {
                        heap.remove(id);
                    } else {
                        heap.reset(id, 1000 - deadline);
                        model.insert((1000 - deadline, id));
                    }
                }
                _ => {
                    let due = heap.pop(deadline);
                    assert_eq!(due.is_some(), model.first().is_some_and(|first| first.0 <= deadline));
                    if let Some(due) = due {
                        assert_eq!(Some(due.0), model.first().map(|first| first.0));
                        assert!(model.remove(&due));
                    }
                }
            }
            assert_eq!((heap.len(), heap.first()), (model.len(), model.first().map(|first| first.0)));
        }
        assert!(model.len() > 100, "it was never full enough to show anything");
    }
}
