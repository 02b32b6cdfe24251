//! The slow callbacks that an inspector has seen, by the label of the loop and the name. A loop
//! that gets the label of one that has ended continues its counts.

use std::time::{Duration, Instant};

use super::watched_loop::SlowCall;

/// The number of names that are kept. Beyond it, the one that was slow longest ago is replaced.
const MAX_NAMES: usize = 100;

#[derive(Debug, Default)]
pub(super) struct SlowList {
    pub(super) entries: Vec<SlowEntry>,
}

#[derive(Debug)]
pub(super) struct SlowEntry {
    pub(super) label: String,
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) total: Duration,
    pub(super) longest: Duration,
    /// The object of the last one, such as a connection.
    pub(super) object: String,
    pub(super) last: Instant,
}

impl SlowList {
    pub(super) fn add(&mut self, label: &str, call: SlowCall) {
        let SlowCall { name, object, duration, at } = call;
        let known = self.entries.iter_mut().find(|entry| entry.label == label && entry.name == name);
        if let Some(entry) = known {
            entry.count += 1;
            entry.total += duration;
            entry.longest = entry.longest.max(duration);
            (entry.object, entry.last) = (object, at);
            return;
        }
        if self.entries.len() == MAX_NAMES {
            let oldest = (0..MAX_NAMES).min_by_key(|n| self.entries[*n].last);
            self.entries.swap_remove(oldest.unwrap_or_default());
        }
        let (total, longest, label) = (duration, duration, label.to_owned());
        self.entries.push(SlowEntry { label, name, count: 1, total, longest, object, last: at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_name_are_one_entry_and_the_oldest_name_is_replaced() {
        let mut list = SlowList::default();
        let start = Instant::now();
        let mut add = |name: u64, millis: u64, at: u64| {
            let (name, object) = (name.to_string(), format!("call {at}"));
            let duration = Duration::from_millis(millis);
            list.add("main", SlowCall { name, object, duration, at: start + Duration::from_secs(at) });
        };
        for name in 0..MAX_NAMES as u64 {
            add(name, 100, name);
        }
        add(0, 300, 1000);
        add(0, 200, 1001);
        add(5000, 100, 1002);
        assert_eq!(list.entries.len(), MAX_NAMES);
        let entry = |name: &str| list.entries.iter().find(|entry| entry.name == name);
        let first = entry("0").expect("slow again");
        assert_eq!((first.count, first.total.as_millis(), first.longest.as_millis()), (3, 600, 300));
        assert_eq!(first.object, "call 1001");
        assert!(entry("1").is_none() && entry("2").is_some() && entry("5000").is_some());
    }
}
