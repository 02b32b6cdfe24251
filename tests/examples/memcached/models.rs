//! The table: its memory, its order, and random operations compared with a model.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use super::counters::Counter;
use super::table::{Cursor, Mode, NewItem, Stored, Table, Unchanged};
use crate::support::random::Random;

const MIB: usize = 1 << 20;

fn set(table: &Table, now: u32, key: &[u8], value: &[u8], expires: u32) -> Stored {
    table.store(now, Mode::Set, &NewItem { key, value, flags: 0, expires, cas: 0 })
}

fn get(table: &Table, now: u32, key: &[u8]) -> Option<Vec<u8>> {
    table.get(now, key, None, |item| {
        assert_eq!(item.key(), key);
        item.value().to_vec()
    })
}

#[test]
fn random_operations_have_the_results_of_a_map() {
    let mut random = Random::new(1);
    let table = Table::new(MIB, 100);
    // The value, when it expires, and its version.
    let mut model: HashMap<Vec<u8>, (Vec<u8>, u32, u64)> = HashMap::new();
    let mut cursor = Cursor::default();
    let mut now = 10;
    for _ in 0..20_000 {
        if random.below(100) == 0 {
            now += 1;
        }
        let key = format!("key {}", random.below(50)).into_bytes();
        model.retain(|_, (_, expires, _)| *expires == 0 || *expires > now);
        let old = model.get(&key).cloned();
        let expires = if random.below(2) == 0 { 0 } else { now + random.below(5) as u32 };
        let value = random.below(2000).to_string().into_bytes();
        let mut expected = |value: Vec<u8>, cas| {
            let expires = if expires <= now && expires != 0 { None } else { Some(expires) };
            match expires {
                Some(expires) => model.insert(key.clone(), (value, expires, cas)),
                None => model.remove(&key),
            };
        };
        match random.below(10) {
            0..=2 => assert_eq!(get(&table, now, &key), old.map(|(value, ..)| value)),
            3..=6 => {
                let mode = [Mode::Set, Mode::Add, Mode::Replace, Mode::Cas][random.below(4)];
                let cas = old.as_ref().map_or(1, |(.., cas)| *cas - random.below(2) as u64);
                let new = NewItem { key: &key, value: &value, flags: 0, expires, cas };
                match (table.store(now, mode, &new), mode, old) {
                    (Stored::Yes(cas), Mode::Set, _)
                    | (Stored::Yes(cas), Mode::Add, None)
                    | (Stored::Yes(cas), Mode::Replace, Some(_)) => expected(value, cas),
                    (Stored::Yes(version), Mode::Cas, Some((.., old))) if old == cas => {
                        expected(value, version);
                    }
                    (Stored::No, Mode::Add, Some(_)) | (Stored::No, Mode::Replace, None) => {}
                    (Stored::NotFound, Mode::Cas, None) => {}
                    (Stored::Exists, Mode::Cas, Some((.., old))) if old != cas => {}
                    (stored, mode, old) => panic!("{mode:?} of {old:?}: {stored:?}"),
                }
            }
            7 => match (table.count(now, &key, 3, true, 0), old) {
                (Ok((sum, cas)), Some((value, expires, _))) => {
                    let digits = String::from_utf8(value.clone()).unwrap();
                    let counted = digits.trim().parse::<u64>().unwrap() + 3;
                    assert_eq!(sum, counted);
                    let counted = format!("{counted:<width$}", width = value.len());
                    model.insert(key, (counted.into_bytes(), expires, cas));
                }
                (Err(Unchanged::NotFound), None) => {}
                (counted, old) => panic!("{old:?}: {counted:?}"),
            },
            8 => {
                let deleted = table.delete(now, &key, 0);
                assert_eq!(deleted.is_ok(), old.is_some());
                model.remove(&key);
            }
            _ if random.below(50) == 0 => {
                table.flush(now, now);
                model.clear();
            }
            _ => table.crawl(now, &mut cursor, 300),
        }
    }
    // Nothing dead is left after a complete round, and what is left takes the memory that it took.
    table.crawl(now, &mut cursor, 100_000);
    model.retain(|_, (_, expires, _)| *expires == 0 || *expires > now);
    assert_eq!(table.counters().1, model.len());
}

#[test]
fn the_memory_stays_within_its_limit() {
    let mut random = Random::new(2);
    let table = Table::new(4 * MIB, MIB);
    let value = vec![b'x'; MIB];
    for number in 0..30_000_u32 {
        let length = [10, 100, 1000, 10_000, MIB][random.below(if number % 1000 == 0 { 5 } else { 4 })];
        assert!(matches!(set(&table, 5, &number.to_be_bytes(), &value[..length], 0), Stored::Yes(_)));
        assert!(table.memory().used() <= 4 * MIB, "{} bytes", table.memory().used());
    }
    let (counters, items) = table.counters();
    assert!(items > 10);
    assert_eq!(counters.get(Counter::Evictions), 30_000 - items as u64);
}

#[test]
fn an_item_that_never_fits_is_refused_and_not_kept() {
    let table = Table::new(MIB / 2, MIB);
    assert!(matches!(set(&table, 5, b"a", b"small", 0), Stored::Yes(_)));
    assert_eq!(set(&table, 5, b"a", &vec![b'x'; MIB], 0), Stored::NoMemory);
    assert_eq!(get(&table, 5, b"a"), None);
    assert!(matches!(set(&table, 5, b"a", b"small", 0), Stored::Yes(_)));
    assert!(table.memory().used() < MIB / 4);
}

#[test]
fn a_used_item_outlives_the_unused_ones() {
    let table = Table::new(MIB, 1000);
    for number in 0..100_000_u32 {
        set(&table, 5, &number.to_be_bytes(), &[0; 500], 0);
        if number > 0 {
            assert!(get(&table, 5, &0_u32.to_be_bytes()).is_some(), "after {number} items");
        }
    }
    assert_eq!(get(&table, 5, &1_u32.to_be_bytes()), None);
    assert!(get(&table, 5, &99_999_u32.to_be_bytes()).is_some());
}

#[test]
fn the_crawler_releases_expired_items_within_its_budget() {
    let table = Table::new(16 * MIB, 1000);
    let empty = table.memory().used();
    for number in 0..1000_u32 {
        set(&table, 5, &number.to_be_bytes(), &[0; 900], if number % 2 == 0 { 7 } else { 0 });
    }
    let full = table.memory().used();
    let mut cursor = Cursor::default();
    table.crawl(6, &mut cursor, 100_000);
    assert_eq!(table.counters().1, 1000);
    table.crawl(7, &mut cursor, 10);
    let (counters, items) = table.counters();
    assert!(items >= 990 && counters.get(Counter::CrawlerReclaimed) == 1000 - items as u64);
    table.crawl(7, &mut cursor, 100_000);
    assert_eq!(table.counters().1, 500);
    assert!(table.memory().used() - empty < (full - empty) * 6 / 10);
}

#[test]
fn a_flush_removes_what_is_older_than_its_second() {
    let table = Table::new(MIB, 100);
    set(&table, 5, b"a", b"1", 0);
    table.flush(5, 8);
    set(&table, 6, b"b", b"2", 0);
    assert!(get(&table, 7, b"a").is_some() && get(&table, 7, b"b").is_some());
    assert!(get(&table, 8, b"a").is_none());
    set(&table, 8, b"c", b"3", 0);
    assert!(get(&table, 9, b"b").is_none() && get(&table, 9, b"c").is_some());
    // A flush replaces one that is to come.
    table.flush(9, 20);
    table.flush(9, 9);
    set(&table, 10, b"d", b"4", 0);
    assert!(get(&table, 30, b"c").is_none() && get(&table, 30, b"d").is_some());
}

#[test]
fn bytes_that_a_reply_shares_do_not_change() {
    let table = Table::new(MIB, 100);
    set(&table, 5, b"n", b"100", 0);
    let shared = table.get(5, b"n", None, |item| Arc::clone(item.bytes())).expect("an item");
    assert_eq!(table.count(5, b"n", 1, false, 0).map(|(number, _)| number), Ok(99));
    assert_eq!(&shared[..], b"VALUE n 0 3\r\n100\r\n");
    // As in memcached, the number then has its own length.
    assert_eq!(get(&table, 5, b"n"), Some(b"99".to_vec()));
    drop(shared);
    assert_eq!(table.count(5, b"n", 90, false, 0).map(|(number, _)| number), Ok(9));
    assert_eq!(get(&table, 5, b"n"), Some(b"9 ".to_vec()));
}

#[test]
fn increments_of_many_threads_are_all_counted() {
    let table = Table::new(MIB, 100);
    set(&table, 5, b"n", b"0", 0);
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let table = &table;
            scope.spawn(move || {
                for round in 0..2000_u32 {
                    table.count(5, b"n", 1, true, 0).expect("a number");
                    // Evictions in other shards.
                    let key = [thread.to_be_bytes(), round.to_be_bytes()].concat();
                    set(table, 5, &key, &[0; 90], 0);
                }
            });
        }
    });
    assert_eq!(get(&table, 5, b"n"), Some(b"8000".to_vec()));
}
