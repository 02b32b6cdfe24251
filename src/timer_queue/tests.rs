use super::*;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

/// An instant made up on the spot; one origin for all, so that they compare.
fn at(ms: u64) -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *ORIGIN + Duration::from_millis(ms)
}

/// All that is due at `now`, in the order in which it comes out.
fn due<C>(queue: &mut TimerQueue<C>, now: Instant) -> Vec<C> {
    queue.begin_phase(now);
    std::iter::from_fn(|| queue.pop_due()).map(|due| due.payload).collect()
}

#[test]
fn timers_come_out_by_deadline_and_only_when_due() {
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
fn equal_deadlines_come_out_in_the_order_made() {
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
fn a_key_does_not_reach_the_next_timer_in_its_slot() {
    let mut queue = TimerQueue::new();
    let old = queue.insert(at(1), "old");
    queue.cancel(old);
    let new = queue.insert(at(1), "new");
    assert_eq!(old.index, new.index);
    assert_eq!(queue.cancel(old), None);
    assert!(queue.contains(new) && !queue.contains(old));
}

#[test]
fn a_callback_can_cancel_what_is_due_behind_it() {
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
fn what_is_armed_during_a_phase_waits_and_hides_nothing() {
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
fn a_repeating_timer_keeps_its_key_and_its_slot() {
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
fn a_repeating_timer_that_is_always_late_comes_out_once_a_phase() {
    let mut queue = TimerQueue::new();
    let key = queue.insert_repeating(at(0), "late");
    for turn in 0..5 {
        queue.begin_phase(at(100));
        let due = queue.pop_due().unwrap();
        assert_eq!(due.deadline, at(turn), "as asked for");
        queue.rearm(key, at(turn + 1), due.payload).unwrap();
        assert_eq!(queue.pop_due(), None);
    }
}

#[test]
fn a_repeating_timer_cancelled_while_it_runs_is_not_re_armed() {
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
fn only_a_popped_repeating_timer_can_be_re_armed() {
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
fn draining_ends_every_key_and_keeps_the_order() {
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
fn keys_that_were_never_given_find_nothing() {
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
fn a_slot_is_abandoned_before_its_keys_repeat() {
    let mut queue = TimerQueue::new();
    let first = queue.insert(at(1), "a");
    queue.cancel(first);
    queue.slots[0].generation = LAST_GENERATION;
    let last = queue.insert(at(1), "b");
    assert_eq!((last.index, last.generation), (0, LAST_GENERATION));
    assert!(queue.cancel(last).is_some());
    assert_eq!(queue.insert(at(1), "c").index, 1);
    assert!(!queue.contains(last) && !queue.contains(first));
}

#[test]
fn a_queue_in_steady_state_does_not_allocate() {
    let mut queue = TimerQueue::new();
    let mut keys: Vec<_> = (0..100).map(|ms| queue.insert(at(ms), ms)).collect();
    let mut room = None;
    for ms in 100..10_000 {
        let key = keys.swap_remove(ms as usize * 7 % 100);
        assert!(queue.cancel(key).is_some());
        keys.push(queue.insert(at(ms), ms));
        let TimerQueue { heap, positions, slots, free, .. } = &queue;
        let now = [heap.capacity(), positions.capacity(), slots.capacity(), free.capacity()];
        assert_eq!(*room.get_or_insert(now), now);
    }
}

#[test]
fn random_operations_agree_with_a_sorted_list() {
    for seed in 1..=10_000 {
        let mut rng = Rng::new(seed);
        let mut pair = Pair::new();
        for _ in 0..rng.below(60) {
            pair.step(&mut rng);
            pair.check();
        }
        pair.model.sort_by_key(|timer| (timer.counts_as, timer.sequence));
        let expected: Vec<_> = pair.model.iter().map(|timer| timer.payload).collect();
        assert_eq!(pair.queue.drain(), expected);
        let mut free = pair.queue.free;
        free.sort_unstable();
        assert!(free.into_iter().eq(0..pair.queue.slots.len() as u32), "every slot is free, once");
    }
}

/// The queue and what is known of it, in the plainest form.
struct Pair {
    queue: TimerQueue<u64>,
    model: Vec<Model>,
    /// Popped repeating timers and whether they have been cancelled since.
    popped: Vec<(TimerKey, u64, bool)>,
    ended: Vec<TimerKey>,
    armed: u64,
    now: u64,
    phase: Option<(u64, u64)>,
}

struct Model {
    key: TimerKey,
    repeats: bool,
    asked: u64,
    counts_as: u64,
    sequence: u64,
    payload: u64,
}

impl Pair {
    fn new() -> Pair {
        let (queue, model, popped, ended) = (TimerQueue::new(), Vec::new(), Vec::new(), Vec::new());
        Pair { queue, model, popped, ended, armed: 0, now: 0, phase: None }
    }

    fn step(&mut self, rng: &mut Rng) {
        // Few distinct instants, some of them past, so that ties and late timers are common.
        let asked = (self.now + rng.below(12)).saturating_sub(5);
        match rng.below(10) {
            0 | 1 => {
                let key = self.queue.insert(at(asked), self.armed);
                self.armed(key, false, asked, self.armed);
            }
            2 => {
                let key = self.queue.insert_repeating(at(asked), self.armed);
                self.armed(key, true, asked, self.armed);
            }
            3 if !self.model.is_empty() => {
                let timer = self.model.swap_remove(rng.below(self.model.len() as u64) as usize);
                assert_eq!(self.queue.cancel(timer.key), Some(Cancelled::Waiting(timer.payload)));
                self.ended.push(timer.key);
            }
            4 if !self.popped.is_empty() => {
                let i = rng.below(self.popped.len() as u64) as usize;
                let (key, _, cancelled) = &mut self.popped[i];
                assert_eq!(self.queue.cancel(*key), (!*cancelled).then_some(Cancelled::Popped));
                *cancelled = true;
            }
            5 if !self.popped.is_empty() => {
                let i = rng.below(self.popped.len() as u64) as usize;
                let (key, payload, cancelled) = self.popped.swap_remove(i);
                let result = self.queue.rearm(key, at(asked), payload);
                if cancelled {
                    assert_eq!(result, Err(payload));
                    self.ended.push(key);
                } else {
                    assert_eq!(result, Ok(()));
                    self.armed(key, true, asked, payload);
                }
            }
            6 => {
                self.now += rng.below(4);
                self.queue.begin_phase(at(self.now));
                self.phase = Some((self.now, self.armed));
            }
            _ => self.pop(),
        }
    }

    /// Notes that a timer now waits. `armed` counts how often that has happened.
    fn armed(&mut self, key: TimerKey, repeats: bool, asked: u64, payload: u64) {
        let counts_as = self.phase.map_or(asked, |(now, _)| asked.max(now));
        let sequence = self.armed;
        self.armed += 1;
        self.model.push(Model { key, repeats, asked, counts_as, sequence, payload });
    }

    fn pop(&mut self) {
        // Every timer is looked at, so one that is due cannot hide from the model.
        let (now, end) = self.phase.unwrap_or((0, 0));
        let due =
            (0..self.model.len()).filter(|&i| self.model[i].asked <= now && self.model[i].sequence < end);
        let first = due.min_by_key(|&i| (self.model[i].counts_as, self.model[i].sequence));
        let timer = first.map(|i| self.model.swap_remove(i));
        let expected = timer.as_ref().map(|timer| {
            let Model { key, asked, payload, .. } = *timer;
            Due { key, deadline: at(asked), payload }
        });
        assert_eq!(self.queue.pop_due(), expected);
        match timer {
            Some(timer) if timer.repeats => self.popped.push((timer.key, timer.payload, false)),
            Some(timer) => self.ended.push(timer.key),
            None => {}
        }
    }

    fn check(&mut self) {
        let queue = &mut self.queue;
        assert_eq!(queue.len(), self.model.len());
        let first = self.model.iter().map(|timer| timer.counts_as).min();
        assert_eq!(queue.next_deadline(), first.map(at));
        assert!(self.model.iter().all(|timer| queue.contains(timer.key)));
        assert!(self.popped.iter().all(|&(key, _, cancelled)| queue.contains(key) != cancelled));
        for &key in &self.ended {
            assert!(!queue.contains(key));
            assert_eq!(queue.cancel(key), None);
        }
        for (i, entry) in queue.heap.iter().enumerate() {
            assert_eq!(queue.positions[entry.slot as usize], i as u32);
            assert!(i == 0 || !entry.sorts_before(&queue.heap[(i - 1) / ARITY]));
        }
    }
}

/// A xorshift generator that names its seed if the test it serves fails.
struct Rng {
    seed: u64,
    state: u64,
}

impl Rng {
    fn new(seed: u64) -> Rng {
        // Spread out, because xorshift starts slowly from a state of few bits. Odd, so never 0.
        Rng { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % n
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.seed);
        }
    }
}
