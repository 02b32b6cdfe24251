use super::Slab;
use crate::event_loop::trimming::slack::retained;

#[test]
fn a_key_finds_its_value_once() {
    let mut slab = Slab::new();
    let keys: Vec<_> = (0..100).map(|n| slab.insert(n)).collect();
    assert_eq!(slab.len(), 100);
    for (n, key) in keys.iter().enumerate().rev() {
        assert_eq!(slab.remove(*key), Some(n));
        assert_eq!(slab.remove(*key), None);
    }
    assert_eq!(slab.len(), 0);
}

#[test]
fn a_reused_slot_has_a_new_key() {
    let mut slab = Slab::new();
    let first = slab.insert("first");
    assert_eq!(slab.remove(first), Some("first"));
    let second = slab.insert("second");
    assert_ne!(first, second);
    assert_eq!(slab.remove(first), None);
    assert_eq!(slab.remove(second), Some("second"));
}

#[test]
fn keys_of_drained_values_find_nothing() {
    let mut slab = Slab::new();
    let keys = [slab.insert('a'), slab.insert('b'), slab.insert('c')];
    slab.remove(keys[1]);
    assert_eq!(slab.drain(), ['a', 'c']);
    assert_eq!(slab.len(), 0);
    let new = slab.insert('d');
    assert!(keys.iter().all(|key| slab.remove(*key).is_none()));
    assert_eq!(slab.remove(new), Some('d'));
    assert_eq!(slab.remove(u64::MAX), None);
}

#[test]
fn trimming_releases_slots_and_repeats_no_key() {
    const MANY: usize = 100_000;
    let mut slab = Slab::new();
    let first = slab.insert(MANY);
    let keys: Vec<_> = (0..MANY).map(|n| slab.insert(n)).collect();
    let last = slab.insert(MANY);
    for &key in &keys {
        slab.remove(key);
    }
    assert!(slab.has_slack());
    slab.trim();
    assert!(slab.slots.len() > MANY, "the last value keeps its slot");
    assert_eq!(slab.remove(last), Some(MANY));
    slab.trim();
    assert_eq!((slab.len(), slab.slots.len(), slab.free.len()), (1, 1, 0));
    assert!(slab.slots.capacity() <= retained::<super::Slot<usize>>(0));
    assert!(slab.free.capacity() <= retained::<u32>(0));
    let keys_again: Vec<_> = (0..MANY).map(|n| slab.insert(n)).collect();
    assert!(keys.iter().all(|&key| slab.remove(key).is_none()));
    assert_eq!(slab.remove(first), Some(MANY));
    assert!((0..MANY).all(|n| slab.remove(keys_again[n]) == Some(n)));
    slab.trim();
    assert_eq!((slab.len(), slab.slots.len()), (0, 0));
}
