//! Deadlines in order: a wheel for distant timers, a heap for near ones.
//!
//! A [`TimerQueue`] returns the deadline of the next timer, and the timers that are due. It reads
//! no clock and calls none of its payloads. Time is a number of nanoseconds since a moment of the
//! owner's choice. The caller runs or drops the payloads that it returns, with no borrow of the
//! queue held.
//!
//! Most timers are cancelled or moved back long before they are due, and their order does not
//! matter until then. So a timer waits in a bucket of the [wheel](Wheel), where adding, cancelling
//! and moving back take a few steps for any number of timers. It is put into [exact
//! order](Near), to the nanosecond, when its bucket is reached. A cancelled timer leaves nothing
//! behind but a vacant node for the next.
//!
//! # Costs
//! Let k be the number of near timers: those of the current tick, or of the next tick that has any.
//! Adding and cancelling are O(1), or O(log k) for a near timer. Firing is O(log k), and before
//! that a timer moves down three levels at most. A timer that is moved back stays in its bucket and
//! is placed again when the bucket is reached, however often it was moved meanwhile.
//!
//! The worst case is a phase that passes the beginning of a full bucket, because it moves all
//! timers of the bucket at once: a million timers that are more than two seconds ahead, and due
//! within the same two seconds, take 20 milliseconds. They take 140 if the owner has slept so long
//! that all of them are due and must be sorted.
//!
//! A timer takes 24 bytes and its payload, in whole cache lines, and five more in the wheel or
//! sixteen when it is near. The buckets take 32 KiB and, in the worst case, a chunk of 64 bytes for
//! each timer, if all others of its chunk have been cancelled. If the queue has many more nodes
//! than timers for some time, it releases those after the last node in use, a quarter of a MiB in
//! each phase, because the timers of the phase wait meanwhile.
//!
//! # Slower alternatives
//! The cost of a million timers is the cost of fetching their memory. So a node and its payload are
//! one cache line, chunks keep gaps for cancelled timers and are updated for 64 of them at a time,
//! and vacant nodes are used in order. Adding and cancelling one timer takes 117 ns with this
//! design, of which 60 are those of a plain heap without callbacks and keys. Without the order of
//! the vacant nodes it takes 143; if also each chunk is updated at once, 190; with full chunks and
//! separate payloads, 280. A single heap of all timers, compared with the last state: 1.5 times as
//! long, and 5 times for firing. Buckets that are lists through the nodes: 2.3 times for firing.
//! Those lists, and a heap instead of sorting for the timers that leave the wheel: 3 times.

mod heap;
mod near;
mod nodes;
mod vacancies;
mod wheel;

use std::fmt;

use self::heap::Entry;
use self::near::Near;
pub(crate) use self::nodes::TimerKey;
use self::nodes::{Node, Nodes, State};
use self::wheel::{TICK_BITS, Taken, Wheel, tick_of};
use crate::event_loop::trimming::slack::{Slack, is_large};

/// A timer that [`TimerQueue::pop_due`] has removed.
#[derive(PartialEq, Debug)]
pub(crate) struct Due<C> {
    pub(crate) key: TimerKey,
    /// The requested deadline, even if it had passed already: fixed-rate repeats count from here.
    pub(crate) deadline: u64,
    pub(crate) payload: C,
}

/// The result of [`TimerQueue::cancel`].
#[derive(PartialEq, Debug)]
pub(crate) enum Cancelled<C> {
    /// The timer was waiting, with this payload.
    Waiting(C),
    /// The timer repeats and its payload has been popped. It cannot be re-armed any more.
    Popped,
}

/// Timers in the order of their deadlines, each with a payload `C`.
pub(crate) struct TimerQueue<C> {
    nodes: Nodes<C>,
    /// The timers up to the wheel's cursor, which is the tick of the latest phase. If
    /// [`next_wake`](TimerQueue::next_wake) has been called, also those of the first bucket after
    /// it.
    near: Near,
    far: Wheel,
    /// The number of timers in `near` and `far`.
    len: usize,
    next_sequence: u64,
    phase: Option<Phase>,
    slack: Slack,
    /// While each phase releases some nodes: the number of nodes before the first of these phases.
    trims_from: Option<usize>,
    /// The number of nodes that the last trim has left.
    trimmed: usize,
}

/// The definition of due: deadlines up to `now`, of timers armed with a sequence below `end`.
#[derive(Clone, Copy)]
struct Phase {
    now: u64,
    end: u64,
}

impl<C> TimerQueue<C> {
    pub(crate) const fn new() -> TimerQueue<C> {
        TimerQueue {
            nodes: Nodes::new(),
            near: Near::new(),
            far: Wheel::new(),
            len: 0,
            next_sequence: 0,
            phase: None,
            slack: Slack::new(),
            trims_from: None,
            trimmed: 0,
        }
    }

    /// The number of waiting timers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the deadline of the next timer. For a timer whose deadline had passed when it was
    /// armed, that is the `now` of the [phase](TimerQueue::begin_phase) before.
    ///
    /// Scans every timer of a bucket if none is near, and more buckets if timers were moved back.
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        self.far.settle();
        let mut first = self.near.first(&self.nodes).map(|entry| entry.deadline);
        for bucket in self.far.buckets() {
            if first.is_some_and(|first| tick_of(first) < bucket.first_tick) {
                break;
            }
            let deadlines = self.far.nodes_in(bucket).map(|index| self.nodes[index].deadline);
            first = first.into_iter().chain(deadlines).min();
        }
        first
    }

    /// Returns the time to begin the next phase. It is never later than the next timer is due, and
    /// exactly that time if it is less than a second or two ahead. For a distant timer it may be
    /// earlier, three times at most, and once more for a timer that was moved back. A phase that
    /// begins then makes no timer due, and the next result is more accurate.
    pub(crate) fn next_wake(&mut self) -> Option<u64> {
        self.far.settle();
        loop {
            let near = self.near.first(&self.nodes).map(|entry| entry.deadline);
            match self.far.first() {
                Some(bucket) if near.is_none_or(|near| tick_of(near) >= bucket.first_tick) => {
                    if bucket.first_tick < bucket.last_tick {
                        return Some(bucket.first_tick << TICK_BITS);
                    }
                    let taken = self.far.take(bucket);
                    self.place_all(taken, bucket.last_tick);
                    self.near.settle(&mut self.nodes);
                }
                _ => return near,
            }
        }
    }

    /// Adds a one-shot timer.
    pub(crate) fn insert(&mut self, deadline: u64, payload: C) -> TimerKey {
        self.insert_as(false, deadline, payload)
    }

    /// Adds a timer whose key stays valid after it has been popped, until it is
    /// [re-armed](TimerQueue::rearm) or [cancelled](TimerQueue::cancel). The caller that pops it
    /// must do one of the two.
    pub(crate) fn insert_repeating(&mut self, deadline: u64, payload: C) -> TimerKey {
        self.insert_as(true, deadline, payload)
    }

    /// Puts a popped repeating timer back under the same key. It is due at `deadline`, or at the
    /// deadline to which it has been [reset](TimerQueue::reset) since it was popped.
    ///
    /// # Errors
    /// Returns the payload if the timer has been cancelled since it was popped, or `key` is not the
    /// key of a popped timer.
    pub(crate) fn rearm(&mut self, key: TimerKey, deadline: u64, payload: C) -> Result<(), C> {
        let Some(index) = self.nodes.find(key) else { return Err(payload) };
        match self.nodes[index].state() {
            State::Popped => self.note(index, deadline),
            State::PoppedAndReset => {}
            State::Vacant | State::InRun | State::InHeap | State::InWheel => return Err(payload),
        }
        self.nodes[index].payload = Some(payload);
        self.len += 1;
        self.place(index, self.nodes[index].deadline);
        Ok(())
    }

    /// Changes the deadline of a timer, which then counts as armed now. `false` if it has ended.
    ///
    /// For a popped repeating timer it sets the deadline to which it will be re-armed.
    pub(crate) fn reset(&mut self, key: TimerKey, deadline: u64) -> bool {
        let Some(index) = self.nodes.find(key) else { return false };
        let state = self.nodes[index].state();
        if state == State::InWheel {
            let later = deadline >= self.nodes[index].deadline;
            self.note(index, deadline);
            // A bucket that is too early is harmless.
            if !later && tick_of(deadline) < self.far.first_tick_around(index, &self.nodes) {
                self.far.remove(index, &self.nodes);
                self.place(index, deadline);
            }
        } else if state.is_near() {
            // Removed first, because the order of near timers depends on the sequences in the
            // nodes.
            self.near.remove(index, &mut self.nodes);
            self.note(index, deadline);
            self.place(index, deadline);
        } else {
            self.note(index, deadline);
            self.nodes[index].set_state(State::PoppedAndReset);
        }
        true
    }

    /// Ends a timer. `None` if it has ended already: it was cancelled, or it was a one-shot timer
    /// and has been popped.
    ///
    /// Returns the payload instead of dropping it here, because its destructor may use the queue.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<Cancelled<C>> {
        let index = self.nodes.find(key)?;
        let state = self.nodes[index].state();
        if state == State::InWheel {
            self.far.remove(index, &self.nodes);
        } else if state.is_near() {
            self.near.remove(index, &mut self.nodes);
        } else {
            self.nodes.vacate(index);
            return Some(Cancelled::Popped);
        }
        self.len -= 1;
        let payload = self.nodes[index].payload.take();
        self.nodes.vacate(index);
        payload.map(Cancelled::Waiting)
    }

    /// The deadline of a timer that has not ended. A popped repeating timer has the deadline that
    /// it was popped for, until it is re-armed or reset.
    pub(crate) fn deadline(&self, key: TimerKey) -> Option<u64> {
        self.nodes.find(key).map(|index| self.nodes[index].deadline)
    }

    /// Whether the timer has not ended yet, so that [`cancel`](TimerQueue::cancel) would find it.
    #[cfg(test)]
    pub(crate) fn contains(&self, key: TimerKey) -> bool {
        self.nodes.find(key).is_some()
    }

    /// Makes those timers due that are in the queue now and have a deadline up to `now`.
    ///
    /// A timer armed from here on waits for the next phase, however early its deadline. So timers
    /// that re-arm themselves to "now" cannot keep the caller in the phase. If `now` is earlier
    /// than that of the previous phase, the previous one is used.
    ///
    /// Returns how many bytes of nodes the queue has released.
    pub(crate) fn begin_phase(&mut self, now: u64) -> usize {
        let now = self.phase.map_or(now, |last| last.now.max(now));
        self.phase = Some(Phase { now, end: self.next_sequence });
        let tick = tick_of(now);
        self.far.settle();
        let given_up = self.trim_gradually();
        while let Some(bucket) = self.far.first().filter(|bucket| bucket.first_tick <= tick) {
            // There are no timers between the cursor and this bucket, nor in any other bucket up to
            // its end.
            let taken = self.far.take(bucket);
            let cursor = bucket.last_tick.min(tick);
            self.far.set_cursor(cursor);
            self.place_all(taken, cursor);
        }
        self.near.settle(&mut self.nodes);
        self.far.set_cursor(tick);
        given_up
    }

    /// Removes the first timer that is due in the current phase. `None` ends the phase.
    ///
    /// Timers are returned one at a time, so that a callback can still cancel those after it.
    pub(crate) fn pop_due(&mut self) -> Option<Due<C>> {
        let phase = self.phase?;
        let first = self.near.first(&self.nodes)?;
        let index = first.index;
        // A first timer that is too new cannot hide one that is due: `place` sorts new ones after
        // all that are due.
        if first.deadline > phase.now || self.nodes[index].sequence() >= phase.end {
            return None;
        }
        self.near.remove(index, &mut self.nodes);
        self.len -= 1;
        let node = &mut self.nodes[index];
        let payload = node.payload.take().expect("a waiting timer has its payload");
        let key = TimerKey { index, generation: node.generation };
        let due = Due { key, deadline: node.deadline, payload };
        if node.repeats() {
            node.set_state(State::Popped);
        } else {
            self.nodes.vacate(index);
        }
        Some(due)
    }

    /// Ends all timers, also popped ones. Returns the payloads of the waiting ones in the order in
    /// which they would have been due.
    pub(crate) fn drain(&mut self) -> Vec<C> {
        let near = self.near.entries().map(|entry| (entry.deadline, entry.index));
        let far = self.nodes.iter().filter(|(_, node)| node.state() == State::InWheel);
        let waiting = near.chain(far.map(|(index, node)| (node.deadline, index)));
        let mut waiting: Vec<_> =
            waiting.map(|(deadline, index)| (deadline, self.nodes[index].sequence(), index)).collect();
        waiting.sort_unstable();
        self.near.clear();
        self.far.clear();
        self.len = 0;
        for index in 0..self.nodes.len() as u32 {
            if self.nodes[index].state() != State::Vacant {
                self.nodes.vacate(index);
            }
        }
        waiting.into_iter().filter_map(|(_, _, index)| self.nodes[index].payload.take()).collect()
    }

    /// Whether `timers` timers need the present number of nodes.
    pub(crate) fn needs_nodes_for(&self, timers: usize) -> bool {
        is_large::<Node<C>>(self.nodes.len()) && timers > self.nodes.len() / 8
    }

    /// Whether there are many more nodes than timers, and more than the last
    /// [trim](TimerQueue::trim) has left.
    pub(crate) fn has_slack(&self) -> bool {
        let nodes = self.nodes.len();
        is_large::<Node<C>>(nodes) && self.len <= nodes / 8 && nodes > self.trimmed
    }

    /// Releases the nodes after the last one in use, and all spare capacity. Takes milliseconds for
    /// a million nodes. Returns how many bytes of nodes it has released.
    pub(crate) fn trim(&mut self) -> usize {
        let before = self.nodes.len();
        while self.nodes.trim() {}
        self.end_trim();
        (before - self.nodes.len()) * size_of::<Node<C>>()
    }

    /// Does the same in several phases, one block of nodes in each, once many phases in a row have
    /// needed few of the nodes. The timers of a phase wait meanwhile, so each step has to be short.
    fn trim_gradually(&mut self) -> usize {
        let before = self.nodes.len();
        // With a 64th of the nodes in use, few timers have to be placed again at the end.
        if self.slack.record::<Node<C>>(8 * self.len, before).is_some() {
            self.trims_from = Some(before);
        }
        let Some(from) = self.trims_from else { return 0 };
        if self.needs_nodes_for(self.len) {
            self.trims_from = None;
        } else if !self.nodes.trim() {
            self.trims_from = None;
            self.end_trim();
            if self.nodes.len() > from / 2 {
                self.slack.postpone();
            }
        }
        (before - self.nodes.len()) * size_of::<Node<C>>()
    }

    fn end_trim(&mut self) {
        self.nodes.reserve_end(self.len);
        for index in self.far.reset() {
            self.place(index, self.nodes[index].deadline);
        }
        self.near.trim();
        self.trimmed = self.nodes.len();
    }

    fn insert_as(&mut self, repeats: bool, deadline: u64, payload: C) -> TimerKey {
        let key = self.nodes.take_vacant().unwrap_or_else(|| self.grow());
        self.nodes.fill(key.index, deadline, self.next_sequence, repeats, payload);
        self.next_sequence += 1;
        self.len += 1;
        self.place(key.index, deadline);
        key
    }

    #[cold]
    fn grow(&mut self) -> TimerKey {
        self.far.prepare();
        self.nodes.grow()
    }

    /// Stores a timer's deadline and its position in the order of arming.
    fn note(&mut self, index: u32, deadline: u64) {
        let node = &mut self.nodes[index];
        node.deadline = deadline;
        node.set_sequence(self.next_sequence);
        self.next_sequence += 1;
    }

    /// Puts a timer into the near timers or the wheel, depending on its deadline.
    fn place(&mut self, index: u32, deadline: u64) {
        let tick = tick_of(deadline);
        if tick > self.far.cursor() {
            return self.far.add(index, tick, &mut self.nodes);
        }
        // A deadline before the latest phase counts as that phase's `now`, so the sequence sorts
        // the timer after all that are due. Otherwise it could come first and, being too new for
        // the phase, hide the timers after it.
        let deadline = self.phase.map_or(deadline, |phase| phase.now.max(deadline));
        self.near.push(Entry { deadline, index }, &mut self.nodes);
    }

    /// Places the timers of a bucket that was taken out of the wheel. Those up to `last_near`,
    /// which may be after the cursor, are gathered.
    fn place_all(&mut self, mut taken: Taken, last_near: u64) {
        while let Some(some) = self.far.take_chunk(&mut taken) {
            for index in some {
                let deadline = self.nodes[index].deadline;
                let tick = tick_of(deadline);
                if tick <= last_near {
                    self.near.gather(Entry { deadline, index });
                } else {
                    self.far.add(index, tick, &mut self.nodes);
                }
            }
        }
    }
}

impl<C> fmt::Debug for TimerQueue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerQueue").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod model {
    mod tests;
}

#[cfg(test)]
mod tests;
