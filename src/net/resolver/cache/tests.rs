use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{Cache, Found, Question};

const TIME_TO_LIVE: Duration = Duration::from_secs(10);

fn question(n: u8) -> Question {
    Question::Name(Ipv4Addr::new(127, 0, 0, n).into())
}

fn found(n: u8) -> Found {
    Found::Name(format!("name-{n}"))
}

#[test]
fn an_entry_is_returned_until_its_time_to_live_has_passed() {
    let start = Instant::now();
    let mut cache = Cache::new(TIME_TO_LIVE, 8);
    cache.insert(question(1), found(1), start);
    assert_eq!(cache.get(&question(1), start), Some(found(1)));
    assert_eq!(cache.get(&question(2), start), None);
    let last = start + TIME_TO_LIVE - Duration::from_nanos(1);
    assert_eq!(cache.get(&question(1), last), Some(found(1)));
    assert_eq!(cache.get(&question(1), start + TIME_TO_LIVE), None);
    assert_eq!(cache.len(), 0, "an expired entry is removed");
}

#[test]
fn a_full_cache_replaces_its_oldest_entry() {
    let start = Instant::now();
    let at = |n: u8| start + Duration::from_millis(n.into());
    let mut cache = Cache::new(TIME_TO_LIVE, 3);
    for n in [2, 1, 3] {
        cache.insert(question(n), found(n), at(n));
    }
    cache.insert(question(1), found(7), at(4));
    assert_eq!(cache.len(), 3, "a present question needs no other entry");
    cache.insert(question(5), found(5), at(5));
    assert_eq!(cache.len(), 3);
    assert_eq!(cache.get(&question(2), at(6)), None);
    assert_eq!(cache.get(&question(1), at(6)), Some(found(7)));
    assert_eq!(cache.get(&question(3), at(6)), Some(found(3)));
}

#[test]
fn a_cache_without_capacity_keeps_nothing() {
    let now = Instant::now();
    let mut cache = Cache::new(TIME_TO_LIVE, 0);
    cache.insert(question(1), found(1), now);
    assert_eq!(cache.get(&question(1), now), None);
}
