//! Random operations on the queue, compared with a model: a plain list of all timers.

use super::super::*;
use crate::random::Random;

#[test]
fn random_operations_agree_with_a_plain_list() {
    for seed in 1..=12_000 {
        let mut pair = Pair::new(seed);
        for _ in 0..pair.rng.below(70) {
            pair.step();
            // Not after each step, since a check settles pending removals.
            if pair.rng.below(2) == 0 {
                pair.check();
            }
        }
        pair.end();
    }
}

#[test]
fn a_random_crowd_agrees_with_a_plain_list() {
    for seed in 1..=6 {
        let mut pair = Pair::new(seed);
        for _ in 0..300 {
            pair.arm();
        }
        for step in 0..1000 {
            pair.step();
            if step % 8 == 0 {
                pair.check();
            }
        }
        pair.end();
    }
}

/// The queue and its model.
struct Pair {
    rng: Random,
    /// The scales of this sequence of operations.
    scales: &'static [u64],
    queue: TimerQueue<u64>,
    waiting: Vec<Model>,
    popped: Vec<Popped>,
    ended: Vec<TimerKey>,
    /// The number of times that a timer has been armed.
    armed: u64,
    now: u64,
    phase: Option<(u64, u64)>,
    seen: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Model {
    key: TimerKey,
    repeats: bool,
    requested: u64,
    effective: u64,
    sequence: u64,
    payload: u64,
}

/// A repeating timer that has been popped.
struct Popped {
    key: TimerKey,
    payload: u64,
    cancelled: bool,
    /// Deadline and sequence.
    reset: Option<(u64, u64)>,
}

/// From a nanosecond to centuries, with the ticks, the spans of the four levels, and hours in
/// between.
const SCALES: [u64; 12] = [
    1,
    6,
    1000,
    1 << 20,
    5 << 20,
    1 << 26,
    1 << 31,
    5 << 31,
    7200 * 1_000_000_000,
    1 << 42,
    1 << 53,
    u64::MAX / 3,
];

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut rng = Random::new(seed);
        let scales = match rng.below(4) {
            0 => &SCALES[1..2],
            1 => &SCALES[..5],
            2 => &SCALES[2..9],
            _ => &SCALES[..],
        };
        let (queue, waiting, popped, ended) = (TimerQueue::new(), Vec::new(), Vec::new(), Vec::new());
        let seen = vec![0, u64::MAX];
        Pair { rng, scales, queue, waiting, popped, ended, armed: 0, now: 0, phase: None, seen }
    }

    /// Returns a deadline: one that was used before, one in the past, or one on some scale ahead.
    fn deadline(&mut self) -> u64 {
        if self.rng.below(4) == 0 {
            return self.seen[self.rng.below(self.seen.len())];
        }
        let distance = self.distance();
        let deadline = match self.rng.below(5) {
            0 => self.now.saturating_sub(distance),
            _ => self.now.saturating_add(distance),
        };
        self.seen.push(deadline);
        deadline
    }

    fn distance(&mut self) -> u64 {
        let scale = self.scales[self.rng.below(self.scales.len())];
        self.rng.next() % scale + self.rng.below(2) as u64
    }

    fn one_of(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.rng.below(len))
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..5 => self.arm(),
            5..7 => self.cancel_one(),
            7..10 => self.reset_one(),
            10 => self.try_ended(),
            11 => self.rearm_one(),
            12..14 => self.use_popped(),
            14..17 => {
                match self.rng.below(3) {
                    0 => self.now = self.now.saturating_add(self.distance()),
                    1 => {
                        // Same as an owner: at the time that the queue returned.
                        let wake = self.queue.next_wake();
                        self.now = wake.map_or(self.now, |wake| self.now.max(wake));
                    }
                    _ => {}
                }
                // Sometimes with a clock that goes back, which must have no effect.
                let back = if self.rng.below(8) == 0 { self.distance() } else { 0 };
                self.begin_phase(self.now.saturating_sub(back));
            }
            17 => {
                while self.pop() {
                    if self.rng.below(4) == 0 {
                        self.arm();
                        self.use_popped();
                        self.reset_one();
                    }
                }
            }
            _ => _ = self.pop(),
        }
    }

    fn begin_phase(&mut self, now: u64) {
        if self.rng.below(8) == 0 {
            self.queue.trim();
        }
        self.queue.begin_phase(now);
        let last = self.phase.map_or(0, |(now, _)| now);
        self.phase = Some((last.max(now), self.armed));
    }

    fn arm(&mut self) {
        let (requested, payload) = (self.deadline(), self.armed);
        let repeats = self.rng.below(3) == 0;
        let key = match repeats {
            true => self.queue.insert_repeating(requested, payload),
            false => self.queue.insert(requested, payload),
        };
        self.add_waiting(key, repeats, payload, requested, self.armed);
        self.armed += 1;
    }

    /// Adds a waiting timer to the model.
    fn add_waiting(&mut self, key: TimerKey, repeats: bool, payload: u64, requested: u64, sequence: u64) {
        let effective = self.phase.map_or(requested, |(now, _)| requested.max(now));
        self.waiting.push(Model { key, repeats, requested, effective, sequence, payload });
    }

    fn cancel_one(&mut self) {
        let Some(i) = self.one_of(self.waiting.len()) else { return };
        let timer = self.waiting.swap_remove(i);
        assert_eq!(self.queue.cancel(timer.key), Some(Cancelled::Waiting(timer.payload)));
        self.ended.push(timer.key);
    }

    fn reset_one(&mut self) {
        let Some(i) = self.one_of(self.waiting.len()) else { return };
        let deadline = match self.rng.below(4) {
            0 => self.waiting[i].requested,
            1 => self.waiting[i].requested.saturating_add(self.distance()),
            _ => self.deadline(),
        };
        let Model { key, repeats, payload, .. } = self.waiting.swap_remove(i);
        assert!(self.queue.reset(key, deadline));
        self.add_waiting(key, repeats, payload, deadline, self.armed);
        self.armed += 1;
    }

    fn try_ended(&mut self) {
        let Some(i) = self.one_of(self.ended.len()) else { return };
        let key = self.ended[i];
        assert_eq!(self.queue.cancel(key), None);
        assert!(!self.queue.reset(key, self.now));
        assert_eq!(self.queue.rearm(key, self.now, 7), Err(7));
        // A waiting timer cannot be re-armed either.
        if let Some(timer) = self.waiting.first() {
            assert_eq!(self.queue.rearm(timer.key, self.now, 7), Err(7));
        }
    }

    fn rearm_one(&mut self) {
        let Some(i) = self.one_of(self.popped.len()) else { return };
        let requested = self.deadline();
        let Popped { key, payload, cancelled, reset } = self.popped.swap_remove(i);
        let result = self.queue.rearm(key, requested, payload);
        if cancelled {
            assert_eq!(result, Err(payload));
            self.ended.push(key);
        } else {
            assert_eq!(result, Ok(()));
            let (requested, sequence) = reset.unwrap_or_else(|| {
                self.armed += 1;
                (requested, self.armed - 1)
            });
            self.add_waiting(key, true, payload, requested, sequence);
        }
    }

    /// Cancels or resets a timer that has been popped.
    fn use_popped(&mut self) {
        let Some(i) = self.one_of(self.popped.len()) else { return };
        let (cancels, requested) = (self.rng.below(3) == 0, self.deadline());
        let popped = &mut self.popped[i];
        if cancels {
            assert_eq!(self.queue.cancel(popped.key), (!popped.cancelled).then_some(Cancelled::Popped));
            popped.cancelled = true;
        } else {
            assert_eq!(self.queue.reset(popped.key, requested), !popped.cancelled);
            if !popped.cancelled {
                popped.reset = Some((requested, self.armed));
                self.armed += 1;
            }
        }
    }

    /// Returns whether a timer was due.
    fn pop(&mut self) -> bool {
        // The model scans every timer, so it cannot miss one that is due.
        let (now, end) = self.phase.unwrap_or((0, 0));
        let is_due = |timer: &Model| timer.requested <= now && timer.sequence < end;
        let due = (0..self.waiting.len()).filter(|&i| is_due(&self.waiting[i]));
        let first = due.min_by_key(|&i| (self.waiting[i].effective, self.waiting[i].sequence));
        let timer = first.map(|i| self.waiting.swap_remove(i));
        let expected =
            timer.map(|Model { key, requested, payload, .. }| Due { key, deadline: requested, payload });
        assert_eq!(self.queue.pop_due(), expected);
        match timer {
            Some(Model { key, payload, repeats: true, .. }) => {
                self.popped.push(Popped { key, payload, cancelled: false, reset: None });
            }
            Some(timer) => self.ended.push(timer.key),
            None => {}
        }
        timer.is_some()
    }

    fn check(&mut self) {
        let queue = &mut self.queue;
        assert_eq!((queue.len(), queue.is_empty()), (self.waiting.len(), self.waiting.is_empty()));
        let first = self.waiting.iter().map(|timer| timer.effective).min();
        assert_eq!(queue.next_deadline(), first);
        assert!(self.waiting.iter().all(|timer| queue.contains(timer.key)));
        assert!(self.popped.iter().all(|popped| queue.contains(popped.key) != popped.cancelled));
        assert!(!self.ended.iter().any(|&key| queue.contains(key)));
        assert_sound(queue);
        // Not always, since it may move timers.
        if self.rng.below(2) == 0 {
            let wake = queue.next_wake();
            assert_eq!(wake.is_some(), first.is_some());
            if let (Some(first), Some(wake)) = (first, wake) {
                let now = self.phase.map_or(0, |(now, _)| now);
                // A tick that differs from the present one in its lowest digit only is in level 0,
                // or near.
                if first <= now || tick_of(first) >> 11 == tick_of(now) >> 11 {
                    assert_eq!(wake, first, "exact if near");
                } else {
                    assert!(wake <= first, "woken at {wake} for {first}");
                    assert!(tick_of(wake) > tick_of(now), "the owner must not spin");
                }
            }
            assert_eq!(queue.next_deadline(), first);
            assert_sound(queue);
        }
    }

    fn end(mut self) {
        if self.rng.below(2) == 0 {
            // An owner that begins a phase at each `next_wake` pops every timer exactly at its
            // deadline.
            while let Some(wake) = self.queue.next_wake() {
                let next = self.waiting.iter().map(|timer| timer.effective).min();
                assert!(wake <= next.unwrap());
                self.begin_phase(wake);
                while self.pop() {}
            }
            assert!(self.waiting.is_empty());
        }
        self.waiting.sort_by_key(|timer| (timer.effective, timer.sequence));
        let expected: Vec<_> = self.waiting.iter().map(|timer| timer.payload).collect();
        assert_eq!(self.queue.drain(), expected);
        assert_sound(&mut self.queue);
        assert!(self.rng.seed() % 16 > 0 || self.queue.far.lists() == 0);
        let all = 0..self.queue.nodes.len() as u32;
        assert!(self.queue.nodes.vacant().into_iter().eq(all), "every node is vacant, once");
        assert!(self.queue.is_empty() && self.queue.next_wake().is_none());
        let keys =
            self.waiting.iter().map(|timer| timer.key).chain(self.popped.iter().map(|popped| popped.key));
        keys.for_each(|key| assert!(!self.queue.contains(key)));
        let key = self.queue.insert(self.now, 1);
        assert_eq!(self.queue.cancel(key), Some(Cancelled::Waiting(1)));
    }
}

fn assert_sound<C>(queue: &mut TimerQueue<C>) {
    queue.near.assert_sound(&queue.nodes);
    let far = queue.far.assert_sound(&queue.nodes);
    assert_eq!(queue.near.entries().count() + far, queue.len());
    let payloads = queue.nodes.iter().filter(|(_, node)| node.payload.is_some()).count();
    assert_eq!(payloads, queue.len(), "only waiting timers have payloads");
}
