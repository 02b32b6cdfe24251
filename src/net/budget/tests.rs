use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::Budget;

#[test]
fn too_much_begins_above_the_limit_and_ends_at_three_quarters() {
    let budget = Budget::new(100);
    assert!(!budget.change(0, 100));
    assert!(!budget.is_exceeded());
    assert!(!budget.change(0, 1));
    assert!(budget.is_exceeded() && budget.seems_exceeded());
    assert!(!budget.change(100, 75));
    assert!(budget.is_exceeded(), "76 are left");
    assert!(budget.change(1, 0));
    assert!(!budget.is_exceeded());
    assert_eq!(budget.used(), 75);
    assert!(!budget.change(75, 0), "it was not too much");
}

#[test]
fn a_limit_of_nothing_is_kept_to() {
    let budget = Budget::new(0);
    assert!(!budget.change(0, 1));
    assert!(budget.is_exceeded());
    assert!(budget.change(1, 0));
}

/// However the changes of several threads meet, no time of too much outlasts the bytes, and each has one end.
#[test]
fn the_mark_never_outlasts_the_bytes() {
    for _ in 0..200 {
        let budget = Budget::new(10);
        let ends = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        for (before, after) in [(0, 8), (8, 0)] {
                            ends.fetch_add(usize::from(budget.change(before, after)), SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
        assert!(!budget.is_exceeded(), "after {ends:?} ends");
    }
}
