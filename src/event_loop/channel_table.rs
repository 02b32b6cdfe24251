//! The channels of a loop: generational slots, cached readiness, interest, and the active list.
//!
//! The poller is edge-triggered: it reports once that a descriptor is ready. So a slot caches the
//! reported readiness until the channel itself finds that it no longer holds (a short read, a write
//! that would block). A channel runs while readiness and interest overlap. A change of interest is
//! a change of a byte here, with no system call.
//!
//! A [`ChannelId`] is an index with a generation. A stale event, a late close, a message for a
//! closed connection: each carries an old generation, and finds nothing. The module does not depend
//! on the type of a slot's entry.

use std::fmt;

use crate::event_loop::trimming::slack::{is_large, retained};
use crate::readiness::Readiness;

/// The id of a channel. It is never reused: a slot that has used up its generations is abandoned, a
/// few bytes for every 2³² channels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChannelId {
    index: u32,
    generation: u32,
}

impl ChannelId {
    /// The id as the key of the poller's events.
    pub(crate) fn to_key(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_key(key: u64) -> ChannelId {
        ChannelId { index: key as u32, generation: (key >> 32) as u32 }
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

#[derive(Debug)]
struct Slot<C> {
    generation: u32,
    /// Reported by the poller and not cleared since.
    ready: Readiness,
    wanted: Readiness,
    /// In `active` or running. In both cases the slot will be checked again.
    scheduled: bool,
    /// Whether the channel keeps a loop running that runs until it is idle.
    counted: bool,
    entry: Option<C>,
}

#[derive(Debug)]
pub(crate) struct ChannelTable<C> {
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
    len: usize,
    /// How many channels are not counted.
    uncounted: usize,
    /// The generation of a new slot: larger than that of any slot that has been freed.
    first_generation: u32,
    /// The number of slots after the last trim.
    trimmed: usize,
    /// The channels to run in the next round, each once.
    active: Vec<ChannelId>,
}

impl<C> ChannelTable<C> {
    pub(crate) fn new() -> ChannelTable<C> {
        ChannelTable {
            slots: Vec::new(),
            free: Vec::new(),
            len: 0,
            uncounted: 0,
            first_generation: 0,
            trimmed: 0,
            active: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The number of channels that are counted: all except those that
    /// [`set_counted`](ChannelTable::set_counted) has excluded.
    pub(crate) fn counted(&self) -> usize {
        self.len - self.uncounted
    }

    /// Sets whether the channel is counted. A void id is ignored.
    pub(crate) fn set_counted(&mut self, id: ChannelId, counted: bool) {
        if let Some(slot) = find(&mut self.slots, id) {
            self.uncounted = self.uncounted + usize::from(!counted) - usize::from(!slot.counted);
            slot.counted = counted;
        }
    }

    /// The id of the channel that is inserted next.
    pub(crate) fn next_id(&self) -> ChannelId {
        match self.free.last() {
            Some(&index) => ChannelId { index, generation: self.slots[index as usize].generation },
            None => {
                let index = u32::try_from(self.slots.len()).expect("fewer channels than 2^32");
                ChannelId { index, generation: self.first_generation }
            }
        }
    }

    /// Inserts the entry that `make` returns for its id. Its interest is empty.
    ///
    /// # Panics
    /// With more than 2³² channels, which the number of descriptors rules out.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(ChannelId) -> C) -> ChannelId {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("fewer channels than 2^32");
            self.slots.push(Slot {
                generation: self.first_generation,
                ready: Readiness::NONE,
                wanted: Readiness::NONE,
                scheduled: false,
                counted: true,
                entry: None,
            });
            index
        });
        let slot = &mut self.slots[index as usize];
        let id = ChannelId { index, generation: slot.generation };
        slot.counted = true;
        slot.entry = Some(make(id));
        self.len += 1;
        id
    }

    /// Removes the channel. Its id is void from now on, also in the batch that is running.
    pub(crate) fn remove(&mut self, id: ChannelId) -> Option<C> {
        let slot = find(&mut self.slots, id)?;
        let next = slot.generation.checked_add(1);
        slot.generation = next.unwrap_or(slot.generation);
        slot.ready = Readiness::NONE;
        slot.wanted = Readiness::NONE;
        slot.scheduled = false;
        let entry = slot.entry.take();
        self.uncounted -= usize::from(!slot.counted);
        self.len -= 1;
        if next.is_some() {
            self.free.push(id.index);
        }
        entry
    }

    /// Whether there are many more slots than channels, and more than after the last
    /// [trim](ChannelTable::trim).
    pub(crate) fn has_slack(&self) -> bool {
        let slots = self.slots.len();
        is_large::<Slot<C>>(slots) && self.len <= slots / 8 && slots > self.trimmed
    }

    /// Frees the slots behind the last one with a channel, and unused capacity.
    pub(crate) fn trim(&mut self) {
        let given_up = |slot: &Slot<C>| slot.entry.is_none() && slot.generation < u32::MAX / 2;
        let left = self.slots.iter().rposition(|slot| !given_up(slot)).map_or(0, |last| last + 1);
        // The generation of an empty slot has not been part of an id yet.
        let generations = self.slots[left..].iter().map(|slot| slot.generation);
        self.first_generation = generations.fold(self.first_generation, u32::max);
        self.slots.truncate(left);
        self.slots.shrink_to(retained::<Slot<C>>(left));
        self.free.retain(|&index| (index as usize) < left);
        self.free.shrink_to(retained::<u32>(self.free.len()));
        self.active.shrink_to(retained::<ChannelId>(self.active.len()));
        self.trimmed = left;
    }

    pub(crate) fn get(&self, id: ChannelId) -> Option<&C> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?.entry.as_ref()
    }

    /// Same as [`get`](ChannelTable::get), with the cached readiness.
    pub(crate) fn get_ready(&self, id: ChannelId) -> Option<(&C, Readiness)> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.entry.as_ref().map(|entry| (entry, slot.ready))
    }

    /// Returns the first channel in a slot from `*slot` on, and sets `*slot` to the one after it.
    /// Looks at `*slots` slots at most, and subtracts their number.
    #[cfg(feature = "inspector")]
    pub(crate) fn next_from(&self, slot: &mut u32, slots: &mut usize) -> Option<(ChannelId, &C)> {
        while *slots > 0 {
            let index = *slot;
            let found = self.slots.get(index as usize)?;
            *slot += 1;
            *slots -= 1;
            if let Some(entry) = &found.entry {
                return Some((ChannelId { index, generation: found.generation }, entry));
            }
        }
        None
    }

    /// The ids of all channels, for the drop of the loop.
    pub(crate) fn ids(&self) -> Vec<ChannelId> {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.entry.is_some());
        taken.map(|(index, slot)| ChannelId { index: index as u32, generation: slot.generation }).collect()
    }

    /// Caches a readiness that the poller has reported. A void id is ignored.
    #[inline]
    pub(crate) fn add_ready(&mut self, id: ChannelId, ready: Readiness) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.ready |= ready;
            slot.schedule(id, &mut self.active);
        }
    }

    /// Clears the readiness `cleared`. The poller then has to report it again before the channel
    /// runs for it.
    pub(crate) fn clear_ready(&mut self, id: ChannelId, cleared: Readiness) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.ready = slot.ready & !cleared;
        }
    }

    /// Sets the channel's interest. Cached readiness counts at once.
    pub(crate) fn set_wanted(&mut self, id: ChannelId, wanted: Readiness) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.wanted = wanted;
            slot.schedule(id, &mut self.active);
        }
    }

    /// Adds `changed` to the channel's interest, or removes it.
    pub(crate) fn change_wanted(&mut self, id: ChannelId, changed: Readiness, is_wanted: bool) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.wanted = if is_wanted { slot.wanted | changed } else { slot.wanted & !changed };
            slot.schedule(id, &mut self.active);
        }
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Moves the active channels to `batch`, which must be empty and lends its capacity. Channels
    /// that become active while the batch runs wait for the next round, so no channel can starve
    /// the others.
    pub(crate) fn take_active(&mut self, batch: &mut Vec<ChannelId>) {
        debug_assert!(batch.is_empty());
        std::mem::swap(&mut self.active, batch);
    }

    /// Starts a channel of the batch: returns its entry and its readiness. `None` if it has been
    /// removed, or readiness and interest no longer overlap.
    ///
    /// After a `Some`, [`finish`](ChannelTable::finish) must follow.
    pub(crate) fn start(&mut self, id: ChannelId) -> Option<(C, Readiness)>
    where
        C: Clone,
    {
        let slot = find(&mut self.slots, id)?;
        let due = slot.ready & slot.wanted;
        if due == Readiness::NONE {
            slot.scheduled = false;
            return None;
        }
        // The whole readiness, wanted or not: a channel that runs for its input can see that its
        // input has ended.
        let ready = slot.ready;
        slot.entry.clone().map(|entry| (entry, ready))
    }

    /// After a channel has run: it runs again in the next round if readiness and interest still
    /// overlap.
    pub(crate) fn finish(&mut self, id: ChannelId) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.scheduled = false;
            slot.schedule(id, &mut self.active);
        }
    }
}

impl<C> Slot<C> {
    #[inline]
    fn schedule(&mut self, id: ChannelId, active: &mut Vec<ChannelId>) {
        if !self.scheduled && self.ready.intersects(self.wanted) {
            self.scheduled = true;
            active.push(id);
        }
    }
}

#[inline]
fn find<C>(slots: &mut [Slot<C>], id: ChannelId) -> Option<&mut Slot<C>> {
    let slot = slots.get_mut(id.index as usize)?;
    (slot.generation == id.generation && slot.entry.is_some()).then_some(slot)
}

#[cfg(test)]
mod tests;
