//! A part of the table: a hash table whose items are also linked in the order of their last use.
//! All links are indices of slots.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::counters::{Counter, Counters};
use super::item::Item;

/// No slot.
const NONE: u32 = u32::MAX;

const FIRST_BUCKETS: usize = 16;

/// The memory of all shards. The counter may exceed the limit while an item is being stored.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    limit: usize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Memory {
        Memory { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// When an operation happens: which items have expired or were flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: u32,
    /// Older versions of items were flushed.
    pub(crate) flushed_below: u64,
}

impl Moment {
    fn has_expired(&self, item: &Item) -> bool {
        item.expires != 0 && item.expires <= self.now
    }

    fn is_flushed(&self, item: &Item) -> bool {
        item.cas < self.flushed_below
    }

    fn is_dead(&self, item: &Item) -> bool {
        self.has_expired(item) || self.is_flushed(item)
    }
}

#[derive(Debug)]
struct Slot {
    /// `None` if the slot is free.
    item: Option<Item>,
    hash: u32,
    /// The next slot of the same bucket, or the next free slot.
    next: u32,
    newer: u32,
    older: u32,
}

/// Items by their keys. The one that was not used for the longest time is evicted first.
#[derive(Debug)]
pub(crate) struct Shard {
    /// The first slot of each bucket. The number of buckets is a power of two.
    buckets: Vec<u32>,
    slots: Vec<Slot>,
    first_free: u32,
    newest: u32,
    oldest: u32,
    items: usize,
    pub(crate) counters: Counters,
}

impl Shard {
    pub(crate) fn new(memory: &Memory) -> Shard {
        memory.add(FIRST_BUCKETS * size_of::<u32>());
        Shard {
            buckets: vec![NONE; FIRST_BUCKETS],
            slots: Vec::new(),
            first_free: NONE,
            newest: NONE,
            oldest: NONE,
            items: 0,
            counters: Counters::default(),
        }
    }

    /// The number of items, including those that have expired and were not found since.
    pub(crate) fn len(&self) -> usize {
        self.items
    }

    /// Finds the item with this key. Removes it if it has expired or was flushed.
    pub(crate) fn find(&mut self, memory: &Memory, hash: u32, key: &[u8], at: Moment) -> Option<u32> {
        let mut index = self.buckets[self.bucket_of(hash)];
        while index != NONE {
            let slot = &self.slots[index as usize];
            match &slot.item {
                Some(item) if slot.hash == hash && item.key() == key => {
                    if !at.is_dead(item) {
                        return Some(index);
                    }
                    let is_flushed = at.is_flushed(item);
                    self.counters.add(if is_flushed { Counter::GetFlushed } else { Counter::GetExpired });
                    self.remove(memory, index);
                    return None;
                }
                _ => index = slot.next,
            }
        }
        None
    }

    /// The item in a slot that [`find`](Shard::find) or [`insert`](Shard::insert) has returned.
    pub(crate) fn item(&self, index: u32) -> &Item {
        self.slots[index as usize].item.as_ref().expect("an occupied slot")
    }

    pub(crate) fn item_mut(&mut self, index: u32) -> &mut Item {
        self.slots[index as usize].item.as_mut().expect("an occupied slot")
    }

    /// Adds an item whose key is not present, as the newest.
    pub(crate) fn insert(&mut self, memory: &Memory, hash: u32, item: Item) -> u32 {
        memory.add(item.memory());
        if self.items >= self.buckets.len() {
            self.grow_buckets(memory);
        }
        let bucket = self.bucket_of(hash);
        let next = mem::replace(&mut self.buckets[bucket], NONE);
        let slot = Slot { item: Some(item), hash, next, newer: NONE, older: NONE };
        let index = self.first_free;
        let index = if index == NONE {
            self.grow_slots(memory);
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        } else {
            self.first_free = mem::replace(&mut self.slots[index as usize], slot).next;
            index
        };
        self.buckets[bucket] = index;
        self.items += 1;
        self.link_newest(index);
        index
    }

    /// Replaces an item by one with the same key, which becomes the newest.
    pub(crate) fn replace(&mut self, memory: &Memory, index: u32, item: Item) {
        memory.add(item.memory());
        let replaced = mem::replace(self.item_mut(index), item);
        memory.release(replaced.memory());
        self.touch(index);
    }

    /// Makes an item the newest.
    pub(crate) fn touch(&mut self, index: u32) {
        if self.newest != index {
            self.unlink(index);
            self.link_newest(index);
        }
    }

    pub(crate) fn remove(&mut self, memory: &Memory, index: u32) {
        let (hash, next) = (self.slots[index as usize].hash, self.slots[index as usize].next);
        let bucket = self.bucket_of(hash);
        if self.buckets[bucket] == index {
            self.buckets[bucket] = next;
        } else {
            let mut previous = self.buckets[bucket];
            while self.slots[previous as usize].next != index {
                previous = self.slots[previous as usize].next;
            }
            self.slots[previous as usize].next = next;
        }
        self.unlink(index);
        let slot = &mut self.slots[index as usize];
        slot.next = mem::replace(&mut self.first_free, index);
        if let Some(removed) = slot.item.take() {
            self.items -= 1;
            memory.release(removed.memory());
        }
    }

    /// Removes the oldest items until the memory is within its limit. Keeps the item `kept`.
    pub(crate) fn evict(&mut self, memory: &Memory, at: Moment, kept: Option<u32>) {
        while memory.is_exceeded() && self.oldest != NONE && Some(self.oldest) != kept {
            let is_dead = at.is_dead(self.item(self.oldest));
            self.counters.add(if is_dead { Counter::Reclaimed } else { Counter::Evictions });
            self.remove(memory, self.oldest);
        }
    }

    /// Removes the dead items among `count` slots from the slot `from`. Returns the slot after
    /// them; `None` at the end.
    pub(crate) fn crawl(&mut self, memory: &Memory, at: Moment, from: usize, count: usize) -> Option<usize> {
        let end = (from + count).min(self.slots.len());
        for index in from..end {
            self.counters.add(Counter::CrawlerChecked);
            if self.slots[index].item.as_ref().is_some_and(|item| at.is_dead(item)) {
                self.counters.add(Counter::CrawlerReclaimed);
                self.remove(memory, index as u32);
            }
        }
        (end < self.slots.len()).then_some(end)
    }

    fn bucket_of(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn grow_buckets(&mut self, memory: &Memory) {
        memory.add(self.buckets.len() * size_of::<u32>());
        self.buckets = vec![NONE; 2 * self.buckets.len()];
        for index in 0..self.slots.len() {
            if self.slots[index].item.is_some() {
                let bucket = self.bucket_of(self.slots[index].hash);
                self.slots[index].next = mem::replace(&mut self.buckets[bucket], index as u32);
            }
        }
    }

    /// Makes space for one more slot. A quarter is added at a time, since the memory of slots is
    /// never released.
    fn grow_slots(&mut self, memory: &Memory) {
        let before = self.slots.capacity();
        if self.slots.len() == before {
            self.slots.reserve_exact(before / 4 + 4);
            memory.add((self.slots.capacity() - before) * size_of::<Slot>());
        }
    }

    fn link_newest(&mut self, index: u32) {
        let older = mem::replace(&mut self.newest, index);
        let slot = &mut self.slots[index as usize];
        (slot.newer, slot.older) = (NONE, older);
        if older == NONE {
            self.oldest = index;
        } else {
            self.slots[older as usize].newer = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let (newer, older) = (self.slots[index as usize].newer, self.slots[index as usize].older);
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }
}
