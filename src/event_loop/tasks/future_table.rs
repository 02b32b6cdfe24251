//! The futures that a loop owns, found by keys that never lead to a successor.

use crate::event_loop::trimming::slack::is_excess;

/// Names a future of a loop. A key whose future has ended finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::event_loop) struct FutureKey {
    index: u32,
    /// The number of the spawn, modulo 2^32. A key that is older than that may find a successor,
    /// which is then polled once without need.
    stamp: u32,
}

impl FutureKey {
    /// One word, to be stored in an atomic.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.stamp) << 32 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> FutureKey {
        FutureKey { index: bits as u32, stamp: (bits >> 32) as u32 }
    }
}

const NO_SLOT: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    stamp: u32,
    /// The next vacant slot, if this one is vacant.
    next: u32,
    /// `None` if the slot is vacant, or its value has been [taken](FutureTable::take).
    value: Option<T>,
}

/// A table of values with keys.
#[derive(Debug)]
pub(in crate::event_loop) struct FutureTable<T> {
    slots: Vec<Slot<T>>,
    first_vacant: u32,
    next_stamp: u32,
    len: usize,
    /// The table has been trimmed and has not grown or become empty since.
    is_trimmed: bool,
}

impl<T> Default for FutureTable<T> {
    fn default() -> Self {
        FutureTable { slots: Vec::new(), first_vacant: NO_SLOT, next_stamp: 0, len: 0, is_trimmed: false }
    }
}

impl<T> FutureTable<T> {
    pub(in crate::event_loop) fn len(&self) -> usize {
        self.len
    }

    /// Reserves a slot, which [`put_back`](FutureTable::put_back) fills.
    #[inline]
    pub(super) fn reserve(&mut self) -> FutureKey {
        let stamp = self.next_stamp;
        self.next_stamp = stamp.wrapping_add(1);
        self.len += 1;
        let index = self.first_vacant;
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                self.first_vacant = slot.next;
                slot.stamp = stamp;
                FutureKey { index, stamp }
            }
            None => self.grow(stamp),
        }
    }

    #[cold]
    fn grow(&mut self, stamp: u32) -> FutureKey {
        let index = u32::try_from(self.slots.len()).unwrap_or(NO_SLOT);
        assert!(index != NO_SLOT, "a loop has at most 2^32 - 1 futures");
        self.is_trimmed = false;
        self.slots.push(Slot { stamp, next: NO_SLOT, value: None });
        FutureKey { index, stamp }
    }

    #[inline]
    fn slot(&mut self, key: FutureKey) -> Option<&mut Slot<T>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.stamp == key.stamp)
    }

    #[inline]
    pub(super) fn get(&self, key: FutureKey) -> Option<&T> {
        let slot = self.slots.get(key.index as usize).filter(|slot| slot.stamp == key.stamp)?;
        slot.value.as_ref()
    }

    /// Takes the value, while it is used. The slot stays reserved.
    #[inline]
    pub(super) fn take(&mut self, key: FutureKey) -> Option<T> {
        self.slot(key)?.value.take()
    }

    /// Stores the value of a reserved slot.
    #[inline]
    pub(super) fn put_back(&mut self, key: FutureKey, value: T) {
        if let Some(slot) = self.slot(key) {
            slot.value = Some(value);
        }
    }

    /// Frees a slot whose value has been taken.
    #[inline]
    pub(super) fn free(&mut self, key: FutureKey) {
        let next = self.first_vacant;
        if let Some(slot) = self.slot(key) {
            // The key of a vacant slot finds no value.
            slot.next = next;
            self.first_vacant = key.index;
            self.len -= 1;
            self.is_trimmed &= self.len > 0;
        }
    }

    /// Takes all values, in the order of their slots.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let values = self.slots.iter_mut().filter_map(|slot| slot.value.take()).collect();
        *self = FutureTable { next_stamp: self.next_stamp, ..FutureTable::default() };
        values
    }

    /// Whether the table has memory, which it has after the first future until it is trimmed.
    pub(in crate::event_loop) fn is_allocated(&self) -> bool {
        self.slots.capacity() > 0
    }

    /// Whether most of a large table is vacant. `false` if a trim could not release it.
    pub(in crate::event_loop) fn has_slack(&self) -> bool {
        !self.is_trimmed && is_excess::<Slot<T>>(self.len, self.slots.capacity())
    }

    /// Releases the vacant slots behind the last future.
    pub(in crate::event_loop) fn trim(&mut self) {
        if !self.has_slack() {
            return;
        }
        self.is_trimmed = true;
        let used = self.slots.iter().rposition(|slot| slot.value.is_some()).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        self.first_vacant = NO_SLOT;
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if slot.value.is_none() {
                slot.next = self.first_vacant;
                self.first_vacant = index as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &mut FutureTable<u32>, value: u32) -> FutureKey {
        let key = table.reserve();
        table.put_back(key, value);
        key
    }

    fn remove(table: &mut FutureTable<u32>, key: FutureKey) -> Option<u32> {
        let value = table.take(key)?;
        table.free(key);
        Some(value)
    }

    #[test]
    fn an_ended_key_finds_neither_vacancy_nor_successor() {
        let mut table = FutureTable::default();
        let first = insert(&mut table, 1);
        assert_eq!(remove(&mut table, first), Some(1));
        assert_eq!(table.take(first), None);
        let second = insert(&mut table, 2);
        assert_eq!((first.index, second.index), (0, 0));
        assert_eq!(table.take(first), None);
        assert_eq!(table.get(FutureKey::from_bits(second.to_bits())), Some(&2));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn trimming_keeps_values_and_reuses_vacant_slots() {
        let mut table = FutureTable::default();
        let keys: Vec<_> = (0..100_000).map(|value| insert(&mut table, value)).collect();
        assert!(!table.has_slack());
        for key in keys.iter().filter(|key| key.index != 5) {
            remove(&mut table, *key);
        }
        assert!(table.has_slack());
        table.trim();
        assert_eq!((table.slots.len(), table.len()), (6, 1));
        assert_eq!(table.get(keys[5]), Some(&5));
        let added: Vec<_> = (0..6).map(|value| insert(&mut table, value).index).collect();
        assert_eq!(added, [0, 1, 2, 3, 4, 6]);
        assert_eq!(table.drain(), [0, 1, 2, 3, 4, 5, 5]);
    }
}
