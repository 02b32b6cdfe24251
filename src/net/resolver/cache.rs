//! Responses that are kept for some time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::question::{Found, Question};

/// Responses by their questions. Uses no clock: times are parameters.
pub(super) struct Cache {
    time_to_live: Duration,
    /// The maximum number of entries. 0 disables the cache.
    capacity: usize,
    entries: BTreeMap<Question, Entry>,
}

struct Entry {
    found: Found,
    since: Instant,
}

impl Cache {
    pub(super) fn new(time_to_live: Duration, capacity: usize) -> Cache {
        Cache { time_to_live, capacity, entries: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, question: &Question, now: Instant) -> Option<Found> {
        let entry = self.entries.get(question)?;
        if now.saturating_duration_since(entry.since) < self.time_to_live {
            return Some(entry.found.clone());
        }
        self.entries.remove(question);
        None
    }

    /// Keeps a response. If the cache is full, the oldest entry is removed, which is also the first
    /// to expire.
    pub(super) fn insert(&mut self, question: Question, found: Found, now: Instant) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&question) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.since);
            if let Some(oldest) = oldest.map(|(question, _)| question.clone()) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(question, Entry { found, since: now });
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests;
