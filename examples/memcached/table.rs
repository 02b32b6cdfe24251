//! All items, for any number of threads: shards with a mutex each, within one memory limit.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};

use super::counters::{Counter, Counters};
use super::item::{Item, push_number};
use super::numbers;
use super::shard::{Memory, Moment, Shard};

const SHARDS: usize = 64;

/// The crawler holds a mutex for this number of slots.
const CRAWLED_AT_ONCE: usize = 256;

/// Which condition a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    /// The item must have the given version.
    Cas,
}

/// An item to store. With `Append` and `Prepend` its flags and expiry time are ignored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewItem<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) flags: u32,
    pub(crate) expires: u32,
    /// The version that an existing item must have. 0 permits any, except for `Mode::Cas`.
    pub(crate) cas: u64,
}

/// The result of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// With its version.
    Yes(u64),
    /// The condition is not met, or the combined value is too long.
    No,
    Exists,
    NotFound,
    /// The item exceeds the memory limit even without other items.
    NoMemory,
}

/// Why an item was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unchanged {
    NotFound,
    /// It has another version.
    Exists,
    NotNumeric,
}

/// The items of the server.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    memory: Memory,
    max_value: usize,
    last_cas: AtomicU64,
    flushed_below: AtomicU64,
    /// The second of the next flush, or 0.
    flush_at: AtomicU32,
}

impl Table {
    /// Creates a table that takes at most `limit` bytes. Values have at most `max_value` bytes.
    pub(crate) fn new(limit: usize, max_value: usize) -> Table {
        let memory = Memory::new(limit);
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new(&memory))).collect();
        Table {
            shards,
            hasher: RandomState::new(),
            memory,
            max_value,
            last_cas: AtomicU64::new(0),
            flushed_below: AtomicU64::new(0),
            flush_at: AtomicU32::new(0),
        }
    }

    /// Calls `read` with an item, which must not block: the shard is locked meanwhile. `expires`
    /// becomes the item's expiry time, if there is one.
    pub(crate) fn get<R>(
        &self,
        now: u32,
        key: &[u8],
        expires: Option<u32>,
        read: impl FnOnce(&Item) -> R,
    ) -> Option<R> {
        let hash = self.hash(key);
        let at = self.moment(now);
        let mut shard = self.shard(hash);
        let (all, hits, misses) = match expires {
            None => (Counter::CmdGet, Counter::GetHits, Counter::GetMisses),
            Some(_) => (Counter::CmdTouch, Counter::TouchHits, Counter::TouchMisses),
        };
        shard.counters.add(all);
        let Some(index) = shard.find(&self.memory, hash, key, at) else {
            shard.counters.add(misses);
            return None;
        };
        shard.counters.add(hits);
        shard.touch(index);
        if let Some(expires) = expires {
            shard.item_mut(index).expires = expires;
        }
        Some(read(shard.item(index)))
    }

    pub(crate) fn store(&self, now: u32, mode: Mode, new: &NewItem<'_>) -> Stored {
        let hash = self.hash(new.key);
        let at = self.moment(now);
        let mut shard = self.shard(hash);
        shard.counters.add(Counter::CmdSet);
        let found = shard.find(&self.memory, hash, new.key, at);
        let parts: [&[u8]; 2];
        let (mut flags, mut expires, mut value) = (new.flags, new.expires, &[new.value][..]);
        match (mode, found) {
            (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace, Some(_)) => {}
            (Mode::Add, Some(index)) => {
                shard.touch(index);
                return Stored::No;
            }
            (Mode::Cas, None) => {
                shard.counters.add(Counter::CasMisses);
                return Stored::NotFound;
            }
            (Mode::Cas, Some(index)) if shard.item(index).cas != new.cas => {
                shard.counters.add(Counter::CasBadval);
                return Stored::Exists;
            }
            (Mode::Cas, Some(_)) => shard.counters.add(Counter::CasHits),
            (Mode::Append | Mode::Prepend, Some(index)) => {
                let old = shard.item(index);
                if new.cas != 0 && new.cas != old.cas {
                    return Stored::Exists;
                }
                if old.value().len() + new.value.len() > self.max_value {
                    return Stored::No;
                }
                let is_append = mode == Mode::Append;
                parts = if is_append { [old.value(), new.value] } else { [new.value, old.value()] };
                (flags, expires, value) = (old.flags, old.expires, &parts);
            }
            (Mode::Replace | Mode::Append | Mode::Prepend, None) => return Stored::No,
        }
        let cas = self.next_cas();
        let item = Item::new(new.key, value, flags, expires, cas);
        shard.counters.add(Counter::TotalItems);
        let index = match found {
            Some(index) => {
                shard.replace(&self.memory, index, item);
                index
            }
            None => shard.insert(&self.memory, hash, item),
        };
        if !self.memory.is_exceeded() {
            return Stored::Yes(cas);
        }
        shard.evict(&self.memory, at, Some(index));
        drop(shard);
        if self.make_room(hash, at) {
            return Stored::Yes(cas);
        }
        let mut shard = self.shard(hash);
        if let Some(index) = shard.find(&self.memory, hash, new.key, at) {
            shard.remove(&self.memory, index);
        }
        Stored::NoMemory
    }

    /// Evicts items of other shards until the memory is within its limit. Returns whether it is.
    fn make_room(&self, hash: u32, at: Moment) -> bool {
        let own = shard_of(hash);
        for other in 1..SHARDS {
            if !self.memory.is_exceeded() {
                return true;
            }
            self.shards[(own + other) % SHARDS].lock().evict(&self.memory, at, None);
        }
        !self.memory.is_exceeded()
    }

    /// Adds `delta` to a number, or subtracts it. A sum wraps around; a difference is at least 0.
    /// Returns the result and the version.
    pub(crate) fn count(
        &self,
        now: u32,
        key: &[u8],
        delta: u64,
        is_increment: bool,
        cas: u64,
    ) -> Result<(u64, u64), Unchanged> {
        let hash = self.hash(key);
        let at = self.moment(now);
        let mut shard = self.shard(hash);
        let Some(index) = shard.find(&self.memory, hash, key, at) else {
            shard.counters.add(if is_increment { Counter::IncrMisses } else { Counter::DecrMisses });
            return Err(Unchanged::NotFound);
        };
        let item = shard.item(index);
        if item.value().is_empty() {
            return Err(Unchanged::NotNumeric);
        }
        if cas != 0 && cas != item.cas {
            return Err(Unchanged::Exists);
        }
        let number = numbers::unsigned(item.value()).ok_or(Unchanged::NotNumeric)?;
        let number = if is_increment { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
        shard.counters.add(if is_increment { Counter::IncrHits } else { Counter::DecrHits });
        let cas = self.next_cas();
        let mut digits = Vec::with_capacity(20);
        push_number(&mut digits, number);
        // A shorter number keeps the length of the value, as in memcached.
        let item = shard.item_mut(index);
        if digits.len() <= item.value().len() && item.overwrite(&digits) {
            item.cas = cas;
            shard.touch(index);
        } else {
            let changed = Item::new(key, &[&digits], item.flags, item.expires, cas);
            shard.replace(&self.memory, index, changed);
            shard.evict(&self.memory, at, Some(index));
        }
        Ok((number, cas))
    }

    /// Removes an item; with a `cas` other than 0, only this version.
    pub(crate) fn delete(&self, now: u32, key: &[u8], cas: u64) -> Result<(), Unchanged> {
        let hash = self.hash(key);
        let at = self.moment(now);
        let mut shard = self.shard(hash);
        let Some(index) = shard.find(&self.memory, hash, key, at) else {
            shard.counters.add(Counter::DeleteMisses);
            return Err(Unchanged::NotFound);
        };
        if cas != 0 && cas != shard.item(index).cas {
            return Err(Unchanged::Exists);
        }
        shard.counters.add(Counter::DeleteHits);
        shard.remove(&self.memory, index);
        Ok(())
    }

    /// Removes all items: now, or those that are older than the second `when`, which has not
    /// passed. A later call replaces one that was delayed.
    pub(crate) fn flush(&self, now: u32, when: u32) {
        if when > now {
            self.flush_at.store(when, Relaxed);
        } else {
            self.flush_at.store(0, Relaxed);
            self.flushed_below.store(self.next_cas(), Relaxed);
        }
    }

    /// Removes dead items, examining `budget` slots from where the last call has ended.
    pub(crate) fn crawl(&self, now: u32, cursor: &mut Cursor, budget: usize) {
        let at = self.moment(now);
        let mut left = budget;
        for _ in 0..SHARDS {
            let mut next = Some(cursor.slot);
            while let Some(slot) = next {
                cursor.slot = slot;
                if left == 0 {
                    return;
                }
                let count = left.min(CRAWLED_AT_ONCE);
                left -= count;
                next = self.shards[cursor.shard].lock().crawl(&self.memory, at, slot, count);
            }
            *cursor = Cursor { shard: (cursor.shard + 1) % SHARDS, slot: 0 };
        }
    }

    /// The counters, and the number of items.
    pub(crate) fn counters(&self) -> (Counters, usize) {
        let (mut sum, mut items) = (Counters::default(), 0);
        for shard in &self.shards {
            let shard = shard.lock();
            sum.add_all(&shard.counters);
            items += shard.len();
        }
        (sum, items)
    }

    pub(crate) fn reset_counters(&self) {
        self.shards.iter().for_each(|shard| shard.lock().counters.reset());
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn max_value(&self) -> usize {
        self.max_value
    }

    fn next_cas(&self) -> u64 {
        self.last_cas.fetch_add(1, Relaxed) + 1
    }

    fn moment(&self, now: u32) -> Moment {
        let flush_at = self.flush_at.load(Relaxed);
        if flush_at != 0 && flush_at <= now {
            // Only one thread performs the flush.
            if self.flush_at.compare_exchange(flush_at, 0, Relaxed, Relaxed).is_ok() {
                self.flushed_below.store(self.next_cas(), Relaxed);
            }
        }
        Moment { now, flushed_below: self.flushed_below.load(Relaxed) }
    }

    fn hash(&self, key: &[u8]) -> u32 {
        // The halves select the shard and the bucket.
        self.hasher.hash_one(key) as u32
    }

    fn shard(&self, hash: u32) -> MutexGuard<'_, Shard> {
        self.shards[shard_of(hash)].lock()
    }
}

/// The upper bits select the shard, since the lower ones select the bucket.
fn shard_of(hash: u32) -> usize {
    hash as usize >> (u32::BITS - SHARDS.ilog2())
}

/// Where the crawler continues.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    shard: usize,
    slot: usize,
}
