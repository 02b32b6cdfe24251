//! The keys of the server, their values, and when they expire.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use reveille::{EventLoop, TimerId};

use super::resp::number;

/// All keys. The connections of the loop share them. Their number has no limit.
#[derive(Default)]
pub(crate) struct Keys {
    entries: RefCell<HashMap<Vec<u8>, Entry>>,
}

#[derive(Default)]
struct Entry {
    value: Vec<u8>,
    /// The timer that removes the key.
    expiry: Option<TimerId>,
}

impl Keys {
    pub(crate) fn get(&self, key: &[u8]) -> Option<Ref<'_, [u8]>> {
        let entries = self.entries.borrow();
        Ref::filter_map(entries, |entries| entries.get(key).map(|entry| &entry.value[..])).ok()
    }

    /// Sets the value of a key, which then does not expire.
    pub(crate) fn set(&self, event_loop: &EventLoop, key: &[u8], value: &[u8]) {
        let mut entries = self.entries.borrow_mut();
        match entries.get_mut(key) {
            Some(entry) => {
                entry.set_expiry(event_loop, None);
                entry.value.clear();
                entry.value.extend_from_slice(value);
                // A small value must not keep the memory of a large one.
                entry.value.shrink_to(2 * value.len().max(512));
            }
            None => {
                entries.insert(key.to_vec(), Entry { value: value.to_vec(), expiry: None });
            }
        }
    }

    /// Removes a key. Returns whether it existed.
    pub(crate) fn remove(&self, event_loop: &EventLoop, key: &[u8]) -> bool {
        let removed = self.entries.borrow_mut().remove(key);
        removed.map(|mut entry| entry.set_expiry(event_loop, None)).is_some()
    }

    /// Makes a timer remove the key. Returns whether it exists.
    pub(crate) fn expire(self: &Rc<Keys>, event_loop: &EventLoop, key: &[u8], after: Duration) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return false };
        let (keys, name) = (Rc::clone(self), key.to_vec());
        let timer = event_loop.run_after(after, move |event_loop| _ = keys.remove(event_loop, &name));
        entry.set_expiry(event_loop, Some(timer));
        true
    }

    /// The time until a key expires, or `None` if it does not expire; `None` without the key.
    pub(crate) fn time_to_live(&self, event_loop: &EventLoop, key: &[u8]) -> Option<Option<Duration>> {
        let entries = self.entries.borrow();
        let expiry = entries.get(key)?.expiry.and_then(|timer| event_loop.deadline(timer));
        Some(expiry.map(|deadline| deadline.saturating_duration_since(event_loop.now())))
    }

    /// Adds one to the number that is the value of a key, or zero without the key. Returns the sum;
    /// `None` if the value is not a number or would overflow.
    pub(crate) fn increment(&self, key: &[u8]) -> Option<i64> {
        let mut entries = self.entries.borrow_mut();
        if let Some(Entry { value, .. }) = entries.get_mut(key) {
            let sum = number(value)?.checked_add(1)?;
            *value = sum.to_string().into_bytes();
            return Some(sum);
        }
        entries.insert(key.to_vec(), Entry { value: b"1".to_vec(), expiry: None });
        Some(1)
    }
}

impl Entry {
    fn set_expiry(&mut self, event_loop: &EventLoop, expiry: Option<TimerId>) {
        if let Some(replaced) = std::mem::replace(&mut self.expiry, expiry) {
            event_loop.cancel(replaced);
        }
    }
}
