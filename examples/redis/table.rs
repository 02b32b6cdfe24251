//! A hash table that keeps its entries in a vector.
//!
//! So a random entry is found by an index, the iteration is as fast as that of a vector, and a scan
//! in several steps is an index too. Entries stay in the order of their insertion until one is
//! removed, whose place the last one takes.

use std::hash::{BuildHasher, RandomState};
use std::mem;

use super::bytes::Bytes;

/// Up to this number of entries there are no slots: a lookup compares the keys.
const SMALL: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct Table<V> {
    entries: Vec<(Bytes, V)>,
    /// Open addressing with linear probing, at most three quarters full. A slot has a part of the
    /// hash in its high half, and the index of the entry plus one in its low half; zero is empty.
    slots: Vec<u64>,
    hasher: RandomState,
}

impl<V> Default for Table<V> {
    fn default() -> Table<V> {
        Table { entries: Vec::new(), slots: Vec::new(), hasher: RandomState::new() }
    }
}

impl<V> Table<V> {
    /// The memory that an entry takes besides that of its key and of what its value refers to.
    pub(crate) const OVERHEAD: usize = mem::size_of::<V>() + 16;

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&Bytes, &V)> + DoubleEndedIterator {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// The entry at an index, which must be less than the length.
    pub(crate) fn at(&self, index: usize) -> (&Bytes, &V) {
        let (key, value) = &self.entries[index];
        (key, value)
    }

    pub(crate) fn value_at(&mut self, index: usize) -> &mut V {
        &mut self.entries[index].1
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        self.find(key).map(|index| &self.entries[index].1)
    }

    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        self.find(key).map(|index| &mut self.entries[index].1)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// Returns the index of a key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        if self.slots.is_empty() {
            return self.entries.iter().position(|(other, _)| **other == *key);
        }
        let (_, slot) = self.locate(key, self.hash(key)).ok()?;
        Some(index_of(slot))
    }

    /// Inserts a key that is not in the table. Returns its index.
    pub(crate) fn insert_new(&mut self, key: Bytes, value: V) -> usize {
        let index = self.entries.len();
        if self.slots.is_empty() {
            self.entries.push((key, value));
            if index >= SMALL {
                self.rebuild();
            }
            return index;
        }
        if (index + 1) * 4 > self.slots.len() * 3 {
            self.rebuild();
        }
        let hash = self.hash(&key);
        if let Err(position) = self.locate(&key, hash) {
            self.slots[position] = slot(hash, index);
        }
        self.entries.push((key, value));
        index
    }

    /// Removes the entry at an index. The last entry takes its place.
    pub(crate) fn remove_at(&mut self, index: usize) -> (Bytes, V) {
        if !self.slots.is_empty() {
            let key = &self.entries[index].0;
            if let Ok((position, _)) = self.locate(key, self.hash(key)) {
                self.empty(position);
            }
            let last = self.entries.len() - 1;
            if index < last {
                let key = &self.entries[last].0;
                let hash = self.hash(key);
                if let Ok((position, _)) = self.locate(key, hash) {
                    self.slots[position] = slot(hash, index);
                }
            }
        }
        let removed = self.entries.swap_remove(index);
        if self.slots.len() > 64 && self.entries.len() * 8 < self.slots.len() {
            self.rebuild();
            self.entries.shrink_to(2 * self.entries.len());
        }
        removed
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<(Bytes, V)> {
        self.find(key).map(|index| self.remove_at(index))
    }

    /// A step of a scan: returns up to `count` entries from `cursor`, which is 0 at the beginning,
    /// and the next cursor, which is 0 at the end.
    ///
    /// The scan goes backwards. An entry that takes the place of a removed one comes from the part
    /// that was visited, so entries that exist during the whole scan are not missed.
    pub(crate) fn scan(&self, cursor: u64, count: usize) -> (&[(Bytes, V)], u64) {
        let length = self.entries.len();
        let end = if cursor == 0 { length } else { length.min(cursor as usize) };
        let start = end.saturating_sub(count);
        (&self.entries[start..end], start as u64)
    }

    /// The half of a hash that slots contain. It has enough bits for the position too.
    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// Returns the position of the slot of a key, and the slot; otherwise the position for it.
    fn locate(&self, key: &[u8], hash: u32) -> Result<(usize, u64), usize> {
        let mask = self.slots.len() - 1;
        let mut position = hash as usize & mask;
        loop {
            let slot = self.slots[position];
            if slot == 0 {
                return Err(position);
            }
            if hash_of(slot) == hash && *self.entries[index_of(slot)].0 == *key {
                return Ok((position, slot));
            }
            position = (position + 1) & mask;
        }
    }

    /// Empties a slot, and moves later ones forward, so that each can be reached from its position.
    fn empty(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut position = hole;
        loop {
            position = (position + 1) & mask;
            let slot = self.slots[position];
            if slot == 0 {
                break;
            }
            let distance = position.wrapping_sub(hash_of(slot) as usize) & mask;
            if distance >= position.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = position;
            }
        }
        self.slots[hole] = 0;
    }

    /// Creates the slots for the present number of entries: a third of them is used.
    fn rebuild(&mut self) {
        let old = mem::take(&mut self.slots);
        self.slots = vec![0; (self.entries.len() * 3).next_power_of_two().max(32)];
        let mask = self.slots.len() - 1;
        let mut place = |slot: u64| {
            let mut position = hash_of(slot) as usize & mask;
            while self.slots[position] != 0 {
                position = (position + 1) & mask;
            }
            self.slots[position] = slot;
        };
        match old.is_empty() {
            // The hashes are in the slots.
            false => old.into_iter().filter(|&slot| slot != 0).for_each(place),
            true => {
                for (index, (key, _)) in self.entries.iter().enumerate() {
                    place(slot(self.hasher.hash_one(&**key) as u32, index));
                }
            }
        }
    }
}

fn slot(hash: u32, index: usize) -> u64 {
    u64::from(hash) << 32 | (index as u64 + 1)
}

fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

fn index_of(slot: u64) -> usize {
    (slot & u64::from(u32::MAX)) as usize - 1
}
