//! Values that are known by a number while they are there, and whose number finds nothing afterwards.

use crate::event_loop::trimming::slack::{is_excess, retained};

/// A place and how often it has been given, so that a number comes again only when its place has been given four thousand million
/// times.
pub(super) type Key = u64;

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by their keys. It grows as it needs to, and shrinks when it is [trimmed](Table::trim).
pub(super) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    /// The generation that a new place begins with: no smaller than that of any that has been given up, so that no key comes again.
    first_generation: u32,
}

impl<T> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table { places: Vec::new(), free: Vec::new(), first_generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: self.first_generation, value: None });
            u32::try_from(self.places.len() - 1).expect("less than four billion values")
        });
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        key(place.generation, index)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, index) = ((key >> 32) as u32, key as u32);
        let place = self.places.get_mut(index as usize).filter(|place| place.generation == generation)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// Whether there are places for many more values than there are.
    pub(super) fn has_slack(&self) -> bool {
        is_excess::<Place<T>>(self.len(), self.places.len())
    }

    /// Gives up the places behind the last that is taken, unless a generation is near to its end.
    pub(super) fn trim(&mut self) {
        let stays = |place: &Place<T>| place.value.is_some() || place.generation > u32::MAX / 2;
        let left = self.places.iter().rposition(stays).map_or(0, |last| last + 1);
        // The generation of an empty place has not been in a key yet.
        let generations = self.places[left..].iter().map(|place| place.generation);
        self.first_generation = generations.fold(self.first_generation, u32::max);
        self.places.truncate(left);
        self.places.shrink_to(retained::<Place<T>>(left));
        self.free.retain(|&index| (index as usize) < left);
        self.free.shrink_to(retained::<u32>(self.free.len()));
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        let (generation, index) = ((key >> 32) as u32, key as u32);
        let place = self.places.get(index as usize);
        place.is_some_and(|place| place.generation == generation && place.value.is_some())
    }

    /// All values with their keys, in the order of their places.
    #[cfg(feature = "uring")]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        (0..).zip(&mut self.places).filter_map(|(index, place)| {
            let key = key(place.generation, index);
            place.value.as_mut().map(|value| (key, value))
        })
    }

    /// Takes all values out, in the order of their places.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let mut values = Vec::with_capacity(self.len());
        for (index, place) in (0..).zip(&mut self.places) {
            if let Some(value) = place.value.take() {
                place.generation = place.generation.wrapping_add(1);
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
