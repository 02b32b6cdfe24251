//! Values with numeric keys that are not reused.

use crate::event_loop::trimming::slack::{is_excess, retained};

/// The index of a slot, and a generation that counts its uses. A key is repeated only after its
/// slot has been used four thousand million times.
pub(super) type Key = u64;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A collection of values by key. It grows on demand, and shrinks when it is
/// [trimmed](Slab::trim).
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// The generation of a new slot: at least that of any released slot, so that no key is
    /// repeated.
    first_generation: u32,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), first_generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: self.first_generation, value: None });
            u32::try_from(self.slots.len() - 1).expect("less than four billion values")
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        key(slot.generation, index)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, index) = ((key >> 32) as u32, key as u32);
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// Whether there are many more slots than values.
    pub(super) fn has_slack(&self) -> bool {
        is_excess::<Slot<T>>(self.len(), self.slots.len())
    }

    /// Releases the slots after the last one in use, except those whose generation is close to its
    /// end.
    pub(super) fn trim(&mut self) {
        let stays = |slot: &Slot<T>| slot.value.is_some() || slot.generation > u32::MAX / 2;
        let left = self.slots.iter().rposition(stays).map_or(0, |last| last + 1);
        // The generation of an empty slot has not been in a key yet.
        let generations = self.slots[left..].iter().map(|slot| slot.generation);
        self.first_generation = generations.fold(self.first_generation, u32::max);
        self.slots.truncate(left);
        self.slots.shrink_to(retained::<Slot<T>>(left));
        self.free.retain(|&index| (index as usize) < left);
        self.free.shrink_to(retained::<u32>(self.free.len()));
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        let (generation, index) = ((key >> 32) as u32, key as u32);
        let slot = self.slots.get(index as usize);
        slot.is_some_and(|slot| slot.generation == generation && slot.value.is_some())
    }

    /// All values with their keys, in the order of their slots.
    #[cfg(feature = "uring")]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        (0..).zip(&mut self.slots).filter_map(|(index, slot)| {
            let key = key(slot.generation, index);
            slot.value.as_mut().map(|value| (key, value))
        })
    }

    /// Removes all values and returns them in the order of their slots.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let mut values = Vec::with_capacity(self.len());
        for (index, slot) in (0..).zip(&mut self.slots) {
            if let Some(value) = slot.value.take() {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index);
                values.push(value);
            }
        }
        values
    }
}

fn key(generation: u32, index: u32) -> Key {
    Key::from(generation) << 32 | Key::from(index)
}

#[cfg(test)]
mod tests;
