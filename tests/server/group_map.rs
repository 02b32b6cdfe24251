//! Groups by key: which of them exist, and what happens to keys.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use crate::support::alone::alone;
use crate::support::counting::held;
use crate::support::members::MemberLoop;
use crate::support::{Count, KIB, LIMIT, with_watchdog};
use reveille::net::{ConnectionGroup, FullPolicy, GroupMap, SendError};

#[test]
fn a_send_reaches_only_the_group_of_its_key() {
    with_watchdog(LIMIT, || {
        let loops = [MemberLoop::new(), MemberLoop::new()];
        let [red, both] = [loops[0].connect(), loops[1].connect()];
        let map = GroupMap::new(FullPolicy::Close);
        map.join("red".to_owned(), &red.handle);
        map.join("red".to_owned(), &both.handle);
        map.join("blue".to_owned(), &both.handle);
        map.send("red", *b"1 ").unwrap();
        loops[1].run_tasks();
        // A clone refers to the same groups.
        map.clone().send("blue", *b"2 ").unwrap();
        loops[1].run_tasks();
        map.send("green", *b"nobody").unwrap();
        map.get("red").unwrap().send(*b"3 ").unwrap();
        assert!(map.leave("red", both.handle.id()));
        assert!(!map.leave("red", both.handle.id()));
        assert!(!map.leave("green", both.handle.id()));
        map.send("red", *b"4").unwrap();
        loops.iter().for_each(MemberLoop::run_tasks);
        red.assert_received("1 3 4");
        both.assert_received("1 2 3 ");
    });
}

#[test]
fn the_policy_of_a_map_applies_to_its_groups() {
    with_watchdog(LIMIT, || {
        let event_loop = MemberLoop::with_max_unsent(1000);
        let member = event_loop.connect();
        let map = GroupMap::new(FullPolicy::Refuse);
        map.join(1, &member.handle);
        assert_eq!(map.send(&1, vec![0; 1001]), Err(SendError::Full));
    });
}

#[test]
fn groups_without_members_vanish() {
    with_watchdog(LIMIT, || {
        let event_loop = MemberLoop::new();
        let [first, second] = [event_loop.connect(), event_loop.connect()];
        let map = GroupMap::new(FullPolicy::Close);
        map.join(1, &first.handle);
        map.join(1, &second.handle);
        assert!(map.leave(&1, first.handle.id()));
        assert_eq!(map.get(&1).map(|group| group.len()), Some(1));
        assert!(map.leave(&1, second.handle.id()));
        assert!(map.get(&1).is_none());

        // The last member leaves by the group itself.
        map.join(2, &first.handle);
        assert!(map.get(&2).unwrap().leave(first.handle.id()));
        assert!(map.get(&2).is_none());

        // The last member has closed.
        map.join(3, &first.handle);
        let handle = first.handle.clone();
        drop(first);
        event_loop.journal.end_of(0);
        map.send(&3, *b"nobody").unwrap();
        event_loop.run_tasks();
        assert!(map.get(&3).is_none());

        // A closed connection does not join.
        map.join(4, &handle);
        assert!(map.get(&4).is_none());
    });
}

/// A key whose destructor uses the map. It would wait forever for a lock that is held.
struct Key {
    name: String,
    map: GroupMap<Key>,
    dropped: Count,
}

impl Drop for Key {
    fn drop(&mut self) {
        let probe: Option<ConnectionGroup> = self.map.get("no such key");
        assert!(probe.is_none());
        self.dropped.add();
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.name
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.name == other.name
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

#[test]
fn destructors_of_keys_run_without_the_lock() {
    with_watchdog(LIMIT, || {
        let event_loop = MemberLoop::new();
        let [member, closed] = [event_loop.connect(), event_loop.connect()];
        let map = GroupMap::new(FullPolicy::Close);
        let dropped = Count::default();
        let key = |name: &str| Key { name: name.to_owned(), map: map.clone(), dropped: dropped.clone() };
        map.join(key("a"), &member.handle);
        map.join(key("kept"), &member.handle);
        assert_eq!(dropped.get(), 0);
        // The key of a known group is dropped, and so is that of a group that is not kept.
        map.join(key("a"), &closed.handle);
        assert_eq!(dropped.get(), 1);
        let handle = closed.handle.clone();
        drop(closed);
        event_loop.journal.end_of(1);
        map.join(key("b"), &handle);
        assert_eq!(dropped.get(), 2);
        // The last member leaves.
        map.get("a").unwrap().leave(handle.id());
        assert!(map.leave("a", member.handle.id()));
        assert_eq!(dropped.get(), 3);
        // A group is found to be empty.
        map.join(key("c"), &member.handle);
        map.get("c").unwrap().leave(member.handle.id());
        assert!(map.get("c").is_none());
        assert_eq!(dropped.get(), 4);
        // Groups whose members have closed are removed together.
        let other = event_loop.connect();
        (0..60).for_each(|number| map.join(key(&number.to_string()), &other.handle));
        drop(other);
        event_loop.journal.end_of(2);
        (60..80).for_each(|number| map.join(key(&number.to_string()), &member.handle));
        assert_eq!(dropped.get(), 64);
        assert!(map.get("kept").is_some() && map.get("59").is_none() && map.get("60").is_some());
    });
}

/// Nothing is sent to most groups, so their closed members are not found by sends.
#[test]
fn short_lived_groups_and_connections_keep_no_memory() {
    alone(|| {
        const LIVES: usize = 500;
        let event_loop = MemberLoop::new();
        let staying = event_loop.connect();
        let map = GroupMap::new(FullPolicy::Close);
        let group = ConnectionGroup::new(FullPolicy::Close);
        map.join(usize::MAX, &staying.handle);
        group.join(&staying.handle);
        let live = |from: usize| {
            for number in from..from + LIVES {
                let member = event_loop.connect();
                (0..4).for_each(|topic| map.join(4 * number + topic, &member.handle));
                group.join(&member.handle);
                if number % 7 == 0 {
                    map.send(&(4 * number), *b"hello").unwrap();
                }
                drop(member);
                event_loop.journal.end_of(1 + number);
            }
            event_loop.run_tasks();
            held()
        };
        let before = live(0);
        let more = live(LIVES) - before;
        println!("{more} bytes more after {LIVES} connections and {} groups", 4 * LIVES);
        // The journal keeps two or three calls for each connection.
        assert!(more < 200 * KIB as i64, "{more} bytes are held");
        assert!(group.len() <= 64, "{} members", group.len());
        assert!(map.get(&usize::MAX).is_some());
    });
}
