//! Claims about a shared ring: no side sleeps after it has missed the other's update, and a sleep
//! costs at most one ring.
//!
//! Each model ends only if every number has been taken, so a lost ring is a deadlock.

use std::sync::Arc;

use loom::thread;

use super::{NEVER_SLEPT, SLEPT, explore};
use crate::doorbell::{Indices, Shared};

fn slept(sleeps: usize) -> &'static str {
    if sleeps > 0 { SLEPT } else { NEVER_SLEPT }
}

/// With space for all numbers, all are taken in order, whenever the consumer goes to sleep. Up to
/// three preemptions.
pub fn a_consumer_does_not_sleep_over_a_number<I: Indices>() {
    explore(Some(3), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let shared = Shared::new(2);
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce::<I>(2)
        });
        let sleeps = shared.consume::<I>(2);
        outcomes.note(slept(sleeps));
        assert_eq!(producer.join().unwrap(), 0, "there is room");
    });
}

/// With space for one number, the producer waits for the consumer as well: neither sleeps forever.
/// Up to two preemptions.
pub fn a_producer_does_not_sleep_over_room<I: Indices>() {
    explore(Some(2), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let shared = Shared::new(1);
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce::<I>(3)
        });
        shared.consume::<I>(3);
        outcomes.note(slept(producer.join().unwrap()));
    });
}

/// Each mark is rung for at most once, even if it was set needlessly. The consumer sets at most two
/// marks, one for each number. Up to three preemptions.
pub fn a_mark_is_rung_for_once_at_most<I: Indices>() {
    explore(Some(3), &["no ring", "one ring", "two rings"], |outcomes| {
        let shared = Shared::new(3);
        // Awake: the mark is behind, so the first number causes no ring.
        shared.consumer_is_awake();
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce::<I>(3)
        });
        shared.consume::<I>(2);
        producer.join().unwrap();
        let rings = shared.consumer.writes();
        assert!(rings <= 2, "{rings} rings for two marks at most");
        outcomes.note(["no ring", "one ring", "two rings"][rings]);
    });
}
