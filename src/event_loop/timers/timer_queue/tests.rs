use super::nodes::LAST_GENERATION;
use super::*;
use std::rc::Rc;

/// A time, in milliseconds since the origin.
fn at(ms: u64) -> u64 {
    ms * 1_000_000
}

/// Returns all timers that are due at `now`, in firing order.
fn due<C>(queue: &mut TimerQueue<C>, now: u64) -> Vec<C> {
    queue.begin_phase(now);
    std::iter::from_fn(|| queue.pop_due()).map(|due| due.payload).collect()
}

#[test]
fn timers_fire_in_deadline_order_and_only_when_due() {
    let mut queue = TimerQueue::new();
    queue.insert(at(30), "c");
    queue.insert(at(10), "a");
    queue.insert(at(20), "b");
    assert_eq!(queue.next_deadline(), Some(at(10)));
    assert_eq!(queue.pop_due(), None, "no phase has begun");
    assert!(due(&mut queue, at(9)).is_empty());
    assert_eq!(due(&mut queue, at(20)), ["a", "b"]);
    assert_eq!(queue.len(), 1);
    assert_eq!(due(&mut queue, at(99)), ["c"]);
    assert_eq!(queue.next_deadline(), None);
}

#[test]
fn equal_deadlines_fire_in_order_of_creation() {
    let mut queue = TimerQueue::new();
    for i in 0..100 {
        queue.insert(at(5), i);
    }
    assert_eq!(due(&mut queue, at(5)), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_timer_ends_once() {
    let mut queue = TimerQueue::new();
    let cancelled = queue.insert(at(1), "cancelled");
    let fired = queue.insert(at(1), "fired");
    assert!(queue.contains(cancelled) && queue.contains(fired));
    assert_eq!(queue.cancel(cancelled), Some(Cancelled::Waiting("cancelled")));
    assert_eq!(due(&mut queue, at(1)), ["fired"]);
    assert_eq!(queue.cancel(cancelled), None);
    assert_eq!(queue.cancel(fired), None);
    assert!(!queue.contains(cancelled) && !queue.contains(fired));
}

#[test]
fn an_old_key_does_not_match_a_reused_node() {
    let mut queue = TimerQueue::new();
    let old = queue.insert(at(1), "old");
    queue.cancel(old);
    let new = queue.insert(at(1), "new");
    assert_eq!(old.index, new.index);
    assert_eq!(queue.cancel(old), None);
    assert!(queue.contains(new) && !queue.contains(old));
}

#[test]
fn a_callback_can_cancel_a_later_due_timer() {
    let mut queue = TimerQueue::new();
    queue.insert(at(1), "first");
    let second = queue.insert(at(2), "second");
    queue.insert(at(3), "third");
    queue.begin_phase(at(9));
    assert_eq!(queue.pop_due().unwrap().payload, "first");
    queue.cancel(second);
    assert_eq!(queue.pop_due().unwrap().payload, "third");
}

#[test]
fn timers_armed_during_a_phase_fire_in_the_next() {
    let mut queue = TimerQueue::new();
    queue.insert(at(10), "a");
    queue.insert(at(20), "b");
    queue.begin_phase(at(20));
    queue.insert(at(0), "before the first pop");
    assert_eq!(queue.pop_due().unwrap().payload, "a");
    queue.insert(at(15), "long past");
    queue.insert(at(20), "just now");
    assert_eq!(queue.pop_due().unwrap().payload, "b");
    assert_eq!(queue.pop_due(), None);
    assert_eq!(due(&mut queue, at(20)), ["before the first pop", "long past", "just now"]);
}

#[test]
fn time_does_not_go_back() {
    let mut queue = TimerQueue::new();
    queue.begin_phase(at(20));
    queue.insert(at(15), "a");
    assert_eq!(due(&mut queue, at(10)), ["a"]);
}

#[test]
fn a_repeating_timer_keeps_its_key_and_node() {
    let mut queue = TimerQueue::new();
    let key = queue.insert_repeating(at(1), "tick");
    for turn in 1..5 {
        queue.begin_phase(at(turn));
        let due = queue.pop_due().unwrap();
        assert_eq!(due.key, key);
        assert!(queue.contains(key) && queue.is_empty());
        let other = queue.insert(at(99), "other");
        assert_ne!(other.index, key.index);
        assert_eq!(queue.rearm(key, at(turn + 1), due.payload), Ok(()));
        assert_eq!(queue.pop_due(), None);
        queue.cancel(other);
    }
    assert_eq!(queue.cancel(key), Some(Cancelled::Waiting("tick")));
}

#[test]
fn a_late_repeating_timer_fires_once_per_phase() {
    let mut queue = TimerQueue::new();
    let key = queue.insert_repeating(at(0), "late");
    for turn in 0..5 {
        queue.begin_phase(at(100));
        let due = queue.pop_due().unwrap();
        assert_eq!(due.deadline, at(turn), "the requested deadline");
        queue.rearm(key, at(turn + 1), due.payload).unwrap();
        assert_eq!(queue.pop_due(), None);
    }
}

#[test]
fn a_repeating_timer_cancelled_while_popped_is_not_rearmed() {
    let mut queue = TimerQueue::new();
    let key = queue.insert_repeating(at(1), "tick");
    queue.begin_phase(at(1));
    let payload = queue.pop_due().unwrap().payload;
    assert_eq!(queue.cancel(key), Some(Cancelled::Popped));
    assert_eq!(queue.cancel(key), None);
    let successor = queue.insert_repeating(at(2), "successor");
    assert_eq!(successor.index, key.index);
    assert_eq!(queue.rearm(key, at(2), payload), Err("tick"));
    assert_eq!(due(&mut queue, at(2)), ["successor"]);
}

#[test]
fn only_a_popped_repeating_timer_can_be_rearmed() {
    let mut queue = TimerQueue::new();
    let waiting = queue.insert_repeating(at(9), "waiting");
    let once = queue.insert(at(1), "once");
    assert_eq!(due(&mut queue, at(1)), ["once"]);
    assert_eq!(queue.rearm(waiting, at(2), "x"), Err("x"));
    assert_eq!(queue.rearm(once, at(2), "x"), Err("x"));
    assert_eq!(queue.rearm(TimerKey { index: 77, generation: 0 }, at(2), "x"), Err("x"));
    assert_eq!(queue.len(), 1);
}

#[test]
fn drain_invalidates_all_keys_and_keeps_the_order() {
    let mut queue = TimerQueue::new();
    let popped = queue.insert_repeating(at(1), "popped");
    queue.begin_phase(at(1));
    queue.pop_due().unwrap();
    let a = queue.insert(at(20), "b");
    queue.insert_repeating(at(10), "a");
    queue.insert(at(20), "c");
    assert_eq!(queue.drain(), ["a", "b", "c"]);
    assert!(queue.is_empty() && !queue.contains(a) && !queue.contains(popped));
    assert_eq!(queue.rearm(popped, at(2), "popped"), Err("popped"));
    queue.insert(at(2), "afterwards");
    assert_eq!(due(&mut queue, at(2)), ["afterwards"]);
}

#[test]
fn dropping_the_queue_drops_every_payload_once() {
    let token = Rc::new(());
    let mut queue = TimerQueue::new();
    for ms in 0..10 {
        queue.insert(at(ms), Rc::clone(&token));
        queue.insert_repeating(at(ms), Rc::clone(&token));
    }
    let key = queue.insert(at(3), Rc::clone(&token));
    drop(queue.cancel(key));
    drop(due(&mut queue, at(4)));
    assert_eq!(Rc::strong_count(&token), 11);
    drop(queue);
    assert_eq!(Rc::strong_count(&token), 1);
}

#[test]
fn keys_that_were_never_issued_find_nothing() {
    let mut queue = TimerQueue::new();
    let key = queue.insert(at(1), "a");
    queue.cancel(key);
    for (index, generation) in [(0, 1), (1, 0), (u32::MAX, 0), (0, u32::MAX)] {
        let key = TimerKey { index, generation };
        assert!(!queue.contains(key));
        assert_eq!(queue.cancel(key), None);
    }
}

#[test]
fn a_node_is_abandoned_before_its_keys_repeat() {
    let mut queue = TimerQueue::new();
    let first = queue.insert(at(1), "a");
    queue.cancel(first);
    queue.nodes.wear(first.index, LAST_GENERATION);
    let last = queue.insert(at(1), "b");
    assert_eq!((last.index, last.generation), (first.index, LAST_GENERATION));
    assert!(queue.cancel(last).is_some());
    assert_ne!(queue.insert(at(1), "c").index, first.index);
    assert!(!queue.contains(last) && !queue.contains(first));
}

#[test]
fn a_queue_in_steady_state_does_not_allocate() {
    let mut queue = TimerQueue::new();
    let mut keys: Vec<_> = (0..100).map(|ms| queue.insert(at(ms), ms)).collect();
    let mut capacity = None;
    for ms in 100..10_000 {
        let key = keys.swap_remove(ms as usize * 7 % 100);
        assert!(queue.cancel(key).is_some());
        keys.push(queue.insert(at(ms), ms));
        // By now it has reached its final capacity.
        if ms > 1000 {
            let TimerQueue { nodes, near, far, .. } = &queue;
            let now = [nodes.capacity(), near.capacity(), far.capacity()];
            assert_eq!(*capacity.get_or_insert(now), now);
        }
    }
}

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;

#[test]
fn deadlines_are_exact_to_the_nanosecond() {
    let mut queue = TimerQueue::new();
    let deadlines = [0, 1, 999_999, 1 << 20, (1 << 20) + 1, 3 * SECOND, HOUR, 1 << 53, 1 << 63, u64::MAX];
    deadlines.iter().rev().for_each(|&deadline| _ = queue.insert(deadline, deadline));
    for deadline in deadlines {
        assert_eq!(queue.next_deadline(), Some(deadline));
        if deadline > 0 {
            assert!(due(&mut queue, deadline - 1).is_empty());
        }
        assert_eq!(queue.next_deadline(), Some(deadline));
        assert_eq!(due(&mut queue, deadline), [deadline]);
    }
    assert!(queue.is_empty());
}

#[test]
fn next_wake_is_the_deadline_of_a_near_timer() {
    let mut queue = TimerQueue::new();
    assert_eq!(queue.next_wake(), None);
    queue.insert(at(700), "b");
    assert_eq!(queue.next_wake(), Some(at(700)));
    // Earlier than the timer that is near already, and after it in the same tick.
    queue.insert(at(3), "a");
    assert_eq!(queue.next_wake(), Some(at(3)));
    queue.insert(at(700) + 1, "c");
    assert_eq!(due(&mut queue, at(3)), ["a"]);
    assert_eq!(queue.next_wake(), Some(at(700)));
    assert_eq!(due(&mut queue, at(700)), ["b"]);
    assert_eq!(queue.next_wake(), Some(at(700) + 1));
    assert_eq!(due(&mut queue, at(701)), ["c"]);
    assert_eq!(queue.next_wake(), None);
}

#[test]
fn a_distant_timer_wakes_its_owner_early_at_most_three_times() {
    for deadline in [10 * SECOND, 5 * HOUR + 1, 100_000 * HOUR + 12_345, u64::MAX] {
        let mut queue = TimerQueue::new();
        queue.insert(deadline, ());
        let mut early = 0;
        loop {
            let wake = queue.next_wake().unwrap();
            assert!(wake <= deadline);
            queue.begin_phase(wake);
            match queue.pop_due() {
                Some(due) => break assert_eq!((due.deadline, wake), (deadline, deadline)),
                None => early += 1,
            }
        }
        assert!(early <= 3, "{early} times for {deadline}");
    }
}

#[test]
fn a_reset_timer_fires_only_at_its_new_deadline() {
    // From near and distant deadlines to near and distant, earlier and later ones.
    for from in [at(0), at(5), at(900), 20 * SECOND, 9 * HOUR] {
        for to in [at(0), at(5), at(6), at(901), 30 * SECOND, 8 * HOUR, 100_000 * HOUR] {
            let mut queue = TimerQueue::new();
            let key = queue.insert(from, "reset");
            queue.next_wake();
            assert!(queue.reset(key, to));
            assert_eq!((queue.len(), queue.next_deadline()), (1, Some(to)));
            assert!(queue.next_wake().unwrap() <= to);
            if to > 0 {
                assert!(due(&mut queue, to - 1).is_empty());
            }
            assert_eq!(queue.next_deadline(), Some(to));
            assert_eq!(due(&mut queue, to), ["reset"]);
        }
    }
}

#[test]
fn a_reset_timer_counts_as_armed_last() {
    let mut queue = TimerQueue::new();
    let a = queue.insert(5 * SECOND, "a");
    queue.insert(9 * SECOND, "b");
    assert!(queue.reset(a, 9 * SECOND));
    let c = queue.insert(1, "c");
    queue.insert(1, "d");
    assert!(queue.reset(c, 1));
    assert_eq!(due(&mut queue, 9 * SECOND), ["d", "c", "b", "a"]);
}

#[test]
fn a_due_timer_reset_by_a_callback_fires_next_phase() {
    let mut queue = TimerQueue::new();
    queue.insert(at(1), "first");
    let second = queue.insert(at(2), "second");
    queue.insert(at(3), "third");
    queue.begin_phase(at(9));
    assert_eq!(queue.pop_due().unwrap().payload, "first");
    assert!(queue.reset(second, at(2)));
    assert_eq!(queue.pop_due().unwrap().payload, "third");
    assert_eq!(queue.pop_due(), None);
    assert_eq!(due(&mut queue, at(9)), ["second"]);
}

#[test]
fn a_repeating_timer_reset_by_its_callback_keeps_that_deadline() {
    let mut queue = TimerQueue::new();
    let key = queue.insert_repeating(at(1), "tick");
    queue.begin_phase(at(1));
    let payload = queue.pop_due().unwrap().payload;
    assert!(queue.reset(key, at(50)) && queue.reset(key, at(60)));
    queue.insert(at(60), "created after the reset");
    assert_eq!(queue.len(), 1);
    queue.rearm(key, at(2), payload).unwrap();
    assert_eq!(queue.next_deadline(), Some(at(60)));
    queue.begin_phase(at(60));
    let payload = queue.pop_due().unwrap().payload;
    assert_eq!(payload, "tick");
    queue.rearm(key, at(70), payload).unwrap();
    assert_eq!(due(&mut queue, at(69)), ["created after the reset"]);
    assert_eq!(due(&mut queue, at(70)), ["tick"], "the reset counts once");
}

#[test]
fn an_ended_timer_cannot_be_reset() {
    let mut queue = TimerQueue::new();
    let cancelled = queue.insert(at(1), "cancelled");
    queue.cancel(cancelled);
    let successor = queue.insert(at(1), "successor");
    assert_eq!(successor.index, cancelled.index);
    assert!(!queue.reset(cancelled, at(9)));
    assert_eq!(due(&mut queue, at(1)), ["successor"]);
    assert!(!queue.reset(successor, at(9)));
    let popped = queue.insert_repeating(at(1), "popped");
    queue.begin_phase(at(1));
    queue.pop_due().unwrap();
    assert!(queue.reset(popped, at(9)));
    assert_eq!(queue.cancel(popped), Some(Cancelled::Popped));
    assert!(!queue.reset(popped, at(9)));
    assert_eq!(queue.rearm(popped, at(9), "popped"), Err("popped"));
    assert!(queue.is_empty() && queue.next_wake().is_none());
}

#[test]
fn moving_a_deadline_back_keeps_the_bucket() {
    let mut queue = TimerQueue::new();
    let key = queue.insert(30 * SECOND, ());
    let bucket = |queue: &TimerQueue<_>| queue.far.first_tick_around(key.index, &queue.nodes);
    let first = bucket(&queue);
    for second in 0..1000 {
        queue.reset(key, (31 + second) * SECOND);
        assert_eq!(bucket(&queue), first);
    }
    assert_eq!(queue.next_deadline(), Some(1030 * SECOND));
    queue.begin_phase(100 * SECOND);
    assert_ne!(bucket(&queue), first);
    assert_eq!(queue.next_deadline(), Some(1030 * SECOND));
}
