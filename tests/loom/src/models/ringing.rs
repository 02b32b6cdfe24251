//! Claims about a shared ring: neither side sleeps over what the other one has done, and a sleep costs one ring at most.
//!
//! None of these models ends unless every number has been taken, so a lost ring is a deadlock.

use std::sync::Arc;

use loom::thread;

use super::{NEVER_SLEPT, SLEPT, explore};
use crate::doorbell::{Indices, Shared};

fn slept(sleeps: usize) -> &'static str {
    if sleeps > 0 { SLEPT } else { NEVER_SLEPT }
}

/// Numbers with room for all of them are all taken, in order, whenever the consumer goes to sleep. Up to three pre-emptions.
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

/// With room for one, the producer waits for the consumer as well: neither sleeps for ever. Up to two pre-emptions.
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

/// Each mark is rung for once at most, also one that was set in vain. The consumer sets two at most, one for each number. Up
/// to three pre-emptions.
pub fn a_mark_is_rung_for_once_at_most<I: Indices>() {
    explore(Some(3), &["no ring", "one ring", "two rings"], |outcomes| {
        let shared = Shared::new(3);
        // Awake, by a mark that is behind: the first number rings for nobody.
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
