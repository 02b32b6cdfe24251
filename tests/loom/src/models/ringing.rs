//! Claims about a shared ring: neither side sleeps while the other one has made progress that it
//! waits for, and a sleep costs at most one ring.
//!
//! Each model ends only if every number has been taken, so a lost ring is a deadlock.

use std::sync::Arc;

use loom::thread;

use super::{NEVER_SLEPT, SLEPT, explore, sleep_outcome};
use crate::shared_ring::{Indices, Shared};

/// With space for all numbers, the consumer takes all of them in order, whenever it goes to sleep.
/// Up to three preemptions.
pub fn a_consumer_receives_every_number<I: Indices>() {
    explore(Some(3), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let shared = Shared::new(2);
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce::<I>(2)
        });
        let sleeps = shared.consume::<I>(2);
        outcomes.note(sleep_outcome(sleeps));
        assert_eq!(producer.join().unwrap(), 0, "the producer slept although there was space");
    });
}

/// With space for one number, the producer waits for the consumer as well: neither sleeps forever.
/// Up to two preemptions.
pub fn a_producer_resumes_when_space_is_free<I: Indices>() {
    explore(Some(2), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let shared = Shared::new(1);
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce::<I>(3)
        });
        shared.consume::<I>(3);
        outcomes.note(sleep_outcome(producer.join().unwrap()));
    });
}

/// Each mark causes at most one ring, even if it was set needlessly. The consumer sets at most two
/// marks, one for each number. Up to three preemptions.
pub fn a_mark_causes_at_most_one_ring<I: Indices>() {
    explore(Some(3), &["no ring", "one ring", "two rings"], |outcomes| {
        let shared = Shared::new(3);
        // Without this the first number would cause a ring before the consumer has set a mark.
        shared.mark_consumer_awake();
        let producer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.produce::<I>(3)
        });
        shared.consume::<I>(2);
        producer.join().unwrap();
        let rings = shared.consumer.writes();
        assert!(rings <= 2, "{rings} rings for at most two marks");
        outcomes.note(["no ring", "one ring", "two rings"][rings]);
    });
}
