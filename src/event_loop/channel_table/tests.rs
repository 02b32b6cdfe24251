use super::*;
use crate::random::Random;

const READ: Readiness = Readiness::READABLE;
const WRITE: Readiness = Readiness::WRITABLE;

fn active(table: &mut ChannelTable<&'static str>) -> Vec<&'static str> {
    let mut batch = Vec::new();
    table.take_active(&mut batch);
    let mut names = Vec::new();
    for id in batch {
        if let Some((name, _)) = table.start(id) {
            names.push(name);
            table.finish(id);
        }
    }
    names
}

#[test]
fn a_ready_channel_runs_once_per_round() {
    let mut table = ChannelTable::new();
    let a = table.insert_with(|_| "a");
    table.set_wanted(a, READ);
    assert!(active(&mut table).is_empty());
    table.add_ready(a, READ);
    table.add_ready(a, READ);
    assert_eq!(active(&mut table), ["a"]);
    assert_eq!(active(&mut table), ["a"], "its readiness has not been cleared");
    table.clear_ready(a, READ);
    assert!(active(&mut table).is_empty());
    assert!(!table.has_active());
}

#[test]
fn readiness_before_interest_is_cached() {
    let mut table = ChannelTable::new();
    let a = table.insert_with(|_| "a");
    table.add_ready(a, READ | WRITE);
    assert!(!table.has_active());
    table.set_wanted(a, WRITE);
    assert_eq!(active(&mut table), ["a"]);
    table.set_wanted(a, Readiness::NONE);
    assert!(active(&mut table).is_empty());
    table.set_wanted(a, READ);
    assert_eq!(active(&mut table), ["a"]);
}

#[test]
fn an_exhausted_slot_is_not_reused() {
    let mut table = ChannelTable::new();
    let first = table.insert_with(|_| "first");
    table.remove(first);
    table.slots[0].generation = u32::MAX;
    let last = table.insert_with(|_| "last");
    assert_eq!((last.index, table.remove(last), table.len()), (0, Some("last"), 0));
    let next = table.insert_with(|_| "next");
    assert_eq!((next.index, table.get(first), table.get(last), table.len()), (1, None, None, 1));
    assert_eq!(table.ids(), [next]);
}

#[test]
fn a_stale_id_finds_nothing_in_a_reused_slot() {
    let mut table = ChannelTable::new();
    let a = table.insert_with(|_| "a");
    assert_eq!(table.remove(a), Some("a"));
    assert_eq!(table.remove(a), None);
    let b = table.insert_with(|_| "b");
    assert_eq!((a.index, b.index), (0, 0), "the slot is reused");
    table.set_wanted(b, READ);
    table.add_ready(a, READ);
    table.set_wanted(a, WRITE);
    table.finish(a);
    assert!(!table.has_active());
    assert_eq!(table.get(a), None);
    assert_eq!(table.get(b), Some(&"b"));
    assert_eq!(table.ids(), [b]);
}

#[test]
fn a_channel_removed_from_a_batch_does_not_run() {
    let mut table = ChannelTable::new();
    let [a, b] = ["a", "b"].map(|name| table.insert_with(|_| name));
    for id in [a, b] {
        table.set_wanted(id, READ);
        table.add_ready(id, READ);
    }
    let mut batch = Vec::new();
    table.take_active(&mut batch);
    assert_eq!(batch, [a, b]);
    assert_eq!(table.start(a), Some(("a", READ)));
    table.remove(b);
    let c = table.insert_with(|_| "c");
    table.set_wanted(c, READ);
    table.add_ready(c, READ);
    table.finish(a);
    assert_eq!(table.start(b), None);
    assert_eq!(active(&mut table), ["c", "a"], "the new channel waits for the next round");
}

#[test]
fn changes_during_a_run_apply_after_it() {
    let mut table = ChannelTable::new();
    let a = table.insert_with(|_| "a");
    table.set_wanted(a, READ);
    table.add_ready(a, READ);
    let mut batch = Vec::new();
    table.take_active(&mut batch);
    table.start(a).unwrap();
    table.clear_ready(a, READ);
    table.add_ready(a, WRITE);
    table.set_wanted(a, READ | WRITE);
    assert!(!table.has_active());
    table.finish(a);
    assert_eq!(active(&mut table), ["a"]);
}

#[test]
fn a_key_contains_the_whole_id() {
    let id = ChannelId { index: u32::MAX - 1, generation: 77 };
    assert_eq!(ChannelId::from_key(id.to_key()), id);
}

/// Random operations against a plain list of (id, name, ready, wanted).
#[test]
fn random_operations_match_a_plain_list() {
    let mut generator = Random::new(1);
    let mut random = |below| generator.below(below);
    let bits = [READ, WRITE, READ | WRITE];
    let mut table: ChannelTable<usize> = ChannelTable::new();
    let mut model: Vec<(ChannelId, usize, Readiness, Readiness)> = Vec::new();
    let mut dead: Vec<ChannelId> = Vec::new();
    for step in 0..50_000 {
        match random(7) {
            6 if random(4) == 0 => table.trim(),
            0 if model.len() < 20 => {
                let id = table.insert_with(|_| step);
                assert!(!dead.contains(&id), "an id was reused");
                model.push((id, step, Readiness::NONE, Readiness::NONE));
            }
            1 if !model.is_empty() => {
                let (id, name, ..) = model.swap_remove(random(model.len()));
                assert_eq!(table.remove(id), Some(name));
                dead.push(id);
            }
            2 if !model.is_empty() => {
                let (at, more) = (random(model.len()), bits[random(3)]);
                model[at].2 |= more;
                table.add_ready(model[at].0, more);
            }
            3 if !model.is_empty() => {
                let (at, cleared) = (random(model.len()), bits[random(3)]);
                model[at].2 = model[at].2 & !cleared;
                table.clear_ready(model[at].0, cleared);
            }
            4 if !model.is_empty() => {
                let (at, wanted) = (random(model.len()), bits[random(3)]);
                model[at].3 = wanted;
                table.set_wanted(model[at].0, wanted);
            }
            _ => {
                if let Some(id) = dead.last() {
                    table.add_ready(*id, READ);
                    assert_eq!(table.get(*id), None);
                }
                let mut batch = Vec::new();
                table.take_active(&mut batch);
                let mut ran: Vec<usize> = Vec::new();
                for id in batch {
                    if let Some((name, _)) = table.start(id) {
                        ran.push(name);
                        table.finish(id);
                    }
                }
                let mut due: Vec<usize> = model.iter().filter(|m| m.2.intersects(m.3)).map(|m| m.1).collect();
                ran.sort_unstable();
                due.sort_unstable();
                assert_eq!(ran, due, "step {step}");
            }
        }
        assert_eq!(table.len(), model.len());
    }
}
