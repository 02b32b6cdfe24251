//! Which channels there are, what each waits for, and which are to be run.
//!
//! The poller is edge-triggered: it says once that a descriptor is ready. So a slot keeps what was reported until the channel
//! itself finds that it no longer holds (its read came up short, its write would block), and a channel runs whenever what is
//! ready meets what is wanted. Wanting and not wanting are changes of a byte here, with no system call.
//!
//! Channels are named by [`ChannelId`], an index with a generation. A stale event, a late close, a message for a connection that
//! has gone: each names a generation that is over, and finds nothing. What a slot carries is not this module's business.

use std::fmt;

use crate::event_loop::trimming::slack::{is_large, retained};
use crate::readiness::Readiness;

/// The name of a channel. It is not given twice: a slot that has used up its generations is abandoned, a few bytes for each four
/// thousand million channels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChannelId {
    index: u32,
    generation: u32,
}

impl ChannelId {
    /// The id as the poller carries it.
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
    /// Reported by the poller and not yet found untrue.
    ready: Readiness,
    wanted: Readiness,
    /// In `active`, or being run: either way, somebody will look at this slot again.
    scheduled: bool,
    entry: Option<C>,
}

#[derive(Debug)]
pub(crate) struct ChannelTable<C> {
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
    len: usize,
    /// The generation that a new slot begins with: larger than that of any that has been given up.
    first_generation: u32,
    /// How many slots the last trim has left.
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
            first_generation: 0,
            trimmed: 0,
            active: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes a slot for what `make` returns when it is told its id. It waits for nothing yet.
    ///
    /// # Panics
    /// With more than 2³² channels, which descriptors do not allow.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(ChannelId) -> C) -> ChannelId {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("fewer channels than 2^32");
            self.slots.push(Slot {
                generation: self.first_generation,
                ready: Readiness::NONE,
                wanted: Readiness::NONE,
                scheduled: false,
                entry: None,
            });
            index
        });
        let slot = &mut self.slots[index as usize];
        let id = ChannelId { index, generation: slot.generation };
        slot.entry = Some(make(id));
        self.len += 1;
        id
    }

    /// Takes the channel out. Its id is void from now on, also in a batch that is under way.
    pub(crate) fn remove(&mut self, id: ChannelId) -> Option<C> {
        let slot = find(&mut self.slots, id)?;
        let next = slot.generation.checked_add(1);
        slot.generation = next.unwrap_or(slot.generation);
        slot.ready = Readiness::NONE;
        slot.wanted = Readiness::NONE;
        slot.scheduled = false;
        let entry = slot.entry.take();
        self.len -= 1;
        if next.is_some() {
            self.free.push(id.index);
        }
        entry
    }

    /// Whether there are slots for many more channels than there are, that have come since the last [trim](ChannelTable::trim).
    pub(crate) fn has_slack(&self) -> bool {
        let slots = self.slots.len();
        is_large::<Slot<C>>(slots) && self.len <= slots / 8 && slots > self.trimmed
    }

    /// Gives up the slots behind the last that has a channel, and room beside what is there.
    pub(crate) fn trim(&mut self) {
        let given_up = |slot: &Slot<C>| slot.entry.is_none() && slot.generation < u32::MAX / 2;
        let left = self.slots.iter().rposition(|slot| !given_up(slot)).map_or(0, |last| last + 1);
        // The generation of an empty slot has not been in an id yet.
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

    /// The ids of all channels, for the end of the loop.
    pub(crate) fn ids(&self) -> Vec<ChannelId> {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.entry.is_some());
        taken.map(|(index, slot)| ChannelId { index: index as u32, generation: slot.generation }).collect()
    }

    /// Notes what the poller reported. A void id is passed over.
    #[inline]
    pub(crate) fn add_ready(&mut self, id: ChannelId, ready: Readiness) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.ready |= ready;
            slot.schedule(id, &mut self.active);
        }
    }

    /// Notes that `gone` no longer holds, so that the channel waits for the poller to report it again.
    pub(crate) fn clear_ready(&mut self, id: ChannelId, gone: Readiness) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.ready = slot.ready & !gone;
        }
    }

    /// Changes what the channel waits for; what is ready already counts at once.
    pub(crate) fn set_wanted(&mut self, id: ChannelId, wanted: Readiness) {
        if let Some(slot) = find(&mut self.slots, id) {
            slot.wanted = wanted;
            slot.schedule(id, &mut self.active);
        }
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Moves the channels to run into `batch`, which must be empty and lends its capacity. What becomes active while they run
    /// waits for the next round, so no channel can keep the others from their turn.
    pub(crate) fn take_active(&mut self, batch: &mut Vec<ChannelId>) {
        debug_assert!(batch.is_empty());
        std::mem::swap(&mut self.active, batch);
    }

    /// For a channel of the batch: what it holds and what it is to be told. `None` if it has gone meanwhile, or nothing that it
    /// wants is ready any longer.
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
        // The whole of what is ready, wanted or not: a channel that is run for its input can see that the input is at its end.
        let ready = slot.ready;
        slot.entry.clone().map(|entry| (entry, ready))
    }

    /// After a channel has run: it runs again in the next round if it is still ready for what it wants.
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
