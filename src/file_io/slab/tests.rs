use super::Table;
use crate::event_loop::trimming::slack::retained;

#[test]
fn a_key_finds_its_value_once() {
    let mut table = Table::new();
    let keys: Vec<_> = (0..100).map(|n| table.insert(n)).collect();
    assert_eq!(table.len(), 100);
    for (n, key) in keys.iter().enumerate().rev() {
        assert_eq!(table.remove(*key), Some(n));
        assert_eq!(table.remove(*key), None);
    }
    assert_eq!(table.len(), 0);
}

#[test]
fn the_successor_in_a_place_has_another_key() {
    let mut table = Table::new();
    let first = table.insert("first");
    assert_eq!(table.remove(first), Some("first"));
    let second = table.insert("second");
    assert_ne!(first, second);
    assert_eq!(table.remove(first), None);
    assert_eq!(table.remove(second), Some("second"));
}

#[test]
fn keys_of_what_was_drained_find_nothing() {
    let mut table = Table::new();
    let keys = [table.insert('a'), table.insert('b'), table.insert('c')];
    table.remove(keys[1]);
    assert_eq!(table.drain(), ['a', 'c']);
    assert_eq!(table.len(), 0);
    let new = table.insert('d');
    assert!(keys.iter().all(|key| table.remove(*key).is_none()));
    assert_eq!(table.remove(new), Some('d'));
    assert_eq!(table.remove(u64::MAX), None);
}

#[test]
fn few_values_of_many_leave_little_room_and_no_key_comes_again() {
    const MANY: usize = 100_000;
    let mut table = Table::new();
    let first = table.insert(MANY);
    let keys: Vec<_> = (0..MANY).map(|n| table.insert(n)).collect();
    let last = table.insert(MANY);
    for &key in &keys {
        table.remove(key);
    }
    assert!(table.has_slack());
    table.trim();
    assert!(table.places.len() > MANY, "the last value has its place");
    assert_eq!(table.remove(last), Some(MANY));
    table.trim();
    assert_eq!((table.len(), table.places.len(), table.free.len()), (1, 1, 0));
    assert!(table.places.capacity() <= retained::<super::Place<usize>>(0));
    assert!(table.free.capacity() <= retained::<u32>(0));
    let again: Vec<_> = (0..MANY).map(|n| table.insert(n)).collect();
    assert!(keys.iter().all(|&key| table.remove(key).is_none()));
    assert_eq!(table.remove(first), Some(MANY));
    assert!((0..MANY).all(|n| table.remove(again[n]) == Some(n)));
    table.trim();
    assert_eq!((table.len(), table.places.len()), (0, 0));
}
