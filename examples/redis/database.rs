//! The keys, their values, and when they expire.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use super::bytes::Bytes;
use super::reply::{Failure, WRONG_TYPE};
use super::table::Table;
use super::value::{Kind, Value};

/// A time in milliseconds since 1970.
pub(crate) type Millis = i64;

/// A key without an expiry time.
pub(crate) const NEVER: Millis = Millis::MAX;

/// All keys of the server.
#[derive(Debug)]
pub(crate) struct Database {
    entries: Table<Entry>,
    /// The keys that expire, in the order of their times.
    expiries: BTreeSet<(Millis, Bytes)>,
    /// The memory of keys and values, and its limit.
    memory: usize,
    max_memory: usize,
    /// The time of the present command.
    now: Millis,
    /// The state of the random numbers.
    random: u64,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    expires: Millis,
}

impl Database {
    pub(crate) fn new(max_memory: usize) -> Database {
        Database {
            entries: Table::default(),
            expiries: BTreeSet::new(),
            memory: 0,
            max_memory,
            now: 0,
            random: RandomState::new().hash_one(0) | 1,
        }
    }

    pub(crate) fn set_now(&mut self, now: Millis) {
        self.now = now;
    }

    pub(crate) fn now(&self) -> Millis {
        self.now
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn expiring(&self) -> usize {
        self.expiries.len()
    }

    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    pub(crate) fn max_memory(&self) -> usize {
        self.max_memory
    }

    /// Whether a command that adds at most so many bytes is within the limit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.memory + bytes <= self.max_memory
    }

    /// A random number below `limit`, which is not zero. Not for secrets (xorshift64).
    pub(crate) fn random_below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % limit
    }

    /// The index of a key that has not expired.
    fn find(&mut self, key: &[u8]) -> Option<usize> {
        let index = self.entries.find(key)?;
        if self.entries.at(index).1.expires <= self.now {
            self.remove_at(index);
            return None;
        }
        Some(index)
    }

    pub(crate) fn get(&mut self, key: &[u8]) -> Option<&Value> {
        let index = self.find(key)?;
        Some(&self.entries.at(index).1.value)
    }

    pub(crate) fn contains(&mut self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// The string of a key.
    pub(crate) fn string(&mut self, key: &[u8]) -> Result<Option<&Bytes>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// The collection of a key.
    pub(crate) fn read<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&T>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => T::of(value).ok_or(WRONG_TYPE).map(Some),
        }
    }

    /// Changes the collection of a key, which is created if it does not exist. An empty one is
    /// removed afterwards.
    pub(crate) fn update<T: Kind, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<R, Failure> {
        let index = match self.find(key) {
            Some(index) => index,
            None => self.insert(key, T::empty()),
        };
        self.change_at(index, change)
    }

    /// Changes the collection of a key, if it exists.
    pub(crate) fn update_existing<T: Kind, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, Failure> {
        match self.find(key) {
            Some(index) => self.change_at(index, change).map(Some),
            None => Ok(None),
        }
    }

    fn change_at<T: Kind, R>(
        &mut self,
        index: usize,
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<R, Failure> {
        let value = T::of_mut(&mut self.entries.value_at(index).value).ok_or(WRONG_TYPE)?;
        let before = value.memory();
        let result = change(value);
        self.memory = self.memory + value.memory() - before;
        if value.is_empty() {
            self.remove_at(index);
        }
        Ok(result)
    }

    /// Sets a string. The key does not expire then, unless it keeps its time.
    pub(crate) fn set(&mut self, key: &[u8], bytes: &[u8], keeps_expiry: bool) {
        let Some(index) = self.find(key) else {
            self.insert(key, Value::String(bytes.into()));
            return;
        };
        let entry = self.entries.value_at(index);
        self.memory -= entry.value.memory();
        match &mut entry.value {
            Value::String(old) => old.assign(bytes),
            other => *other = Value::String(bytes.into()),
        }
        self.memory += entry.value.memory();
        if !keeps_expiry && entry.expires != NEVER {
            self.set_expiry_at(index, NEVER);
        }
    }

    /// Inserts a key that does not exist.
    fn insert(&mut self, key: &[u8], value: Value) -> usize {
        let key = Bytes::from(key);
        self.memory += memory_of(&key) + value.memory();
        self.entries.insert_new(key, Entry { value, expires: NEVER })
    }

    /// Returns whether the key existed.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let index = self.find(key);
        index.map(|index| self.remove_at(index)).is_some()
    }

    fn remove_at(&mut self, index: usize) -> (Bytes, Entry) {
        let (key, entry) = self.entries.remove_at(index);
        self.memory -= memory_of(&key) + entry.value.memory();
        if entry.expires != NEVER {
            self.memory -= memory_of_expiry(&key);
            self.expiries.remove(&(entry.expires, key.clone()));
        }
        (key, entry)
    }

    /// Gives the value of a key, with its expiry time, to another key. The former must exist.
    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8]) {
        if from == to {
            return;
        }
        self.remove(to);
        if let Some(index) = self.find(from) {
            let (_, entry) = self.remove_at(index);
            let index = self.insert(to, entry.value);
            self.set_expiry_at(index, entry.expires);
        }
    }

    /// When a key expires, which may be [`NEVER`]; `None` without the key.
    pub(crate) fn expiry(&mut self, key: &[u8]) -> Option<Millis> {
        let index = self.find(key)?;
        Some(self.entries.at(index).1.expires)
    }

    /// Sets when a key expires. Returns whether it exists.
    pub(crate) fn set_expiry(&mut self, key: &[u8], expires: Millis) -> bool {
        let index = self.find(key);
        index.map(|index| self.set_expiry_at(index, expires)).is_some()
    }

    fn set_expiry_at(&mut self, index: usize, expires: Millis) {
        let key = self.entries.at(index).0.clone();
        let old = std::mem::replace(&mut self.entries.value_at(index).expires, expires);
        if old != NEVER {
            self.memory -= memory_of_expiry(&key);
            self.expiries.remove(&(old, key.clone()));
        }
        if expires != NEVER {
            self.memory += memory_of_expiry(&key);
            self.expiries.insert((expires, key));
        }
    }

    /// Removes up to `count` keys that have expired. Returns whether there may be more.
    pub(crate) fn remove_expired(&mut self, count: usize) -> bool {
        for _ in 0..count {
            match self.expiries.first() {
                Some((expires, key)) if *expires <= self.now => {
                    let key = key.clone();
                    // This finds that it has expired.
                    self.find(&key);
                }
                _ => return false,
            }
        }
        true
    }

    pub(crate) fn clear(&mut self) {
        self.entries = Table::default();
        self.expiries.clear();
        self.memory = 0;
    }

    /// The keys that have not expired.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().filter(|(_, entry)| entry.expires > self.now).map(|(key, _)| key)
    }

    /// A step of a scan, see [`Table::scan`].
    pub(crate) fn scan(&self, cursor: u64, count: usize) -> (impl Iterator<Item = (&Bytes, &Value)>, u64) {
        let (entries, next) = self.entries.scan(cursor, count);
        let entries = entries.iter().filter(|(_, entry)| entry.expires > self.now);
        (entries.map(|(key, entry)| (key, &entry.value)), next)
    }

    /// A random key.
    pub(crate) fn random_key(&mut self) -> Option<Bytes> {
        while !self.entries.is_empty() {
            let index = self.random_below(self.entries.len());
            let (key, entry) = self.entries.at(index);
            if entry.expires > self.now {
                return Some(key.clone());
            }
            self.remove_at(index);
        }
        None
    }
}

/// The memory of a key besides its value.
fn memory_of(key: &Bytes) -> usize {
    key.memory() + Table::<Entry>::OVERHEAD
}

/// The memory of an expiry time besides that of its key.
fn memory_of_expiry(key: &Bytes) -> usize {
    key.memory() + 16
}
