//! Deadlines in order: a wheel for what is far, a heap for what is near.
//!
//! A [`TimerQueue`] knows when the next timer is due and hands out those that are. It reads no clock and calls
//! nothing it carries: time is a number of nanoseconds since a moment of the owner's choice, and the payloads that
//! it gives back are the caller's to run or drop, with no borrow of the queue held meanwhile.
//!
//! Most timers are cancelled or put off long before they are due, and until then nobody asks for their order. So a
//! timer waits in a bucket of the [wheel](Wheel), where adding, cancelling and putting off take a few steps however
//! many there are, and is put into [exact order](Near), to the nanosecond, when its bucket comes up. A cancelled
//! timer leaves nothing behind but room for the next.
//!
//! # Costs
//! Let k timers be near: armed for the present tick, or for the first one ahead that has any. Adding and cancelling
//! are O(1), or O(log k) for what is near already. Firing is O(log k), and before that a timer moves down three
//! levels at most. A timer that is put off stays in its bucket, and is put right when that comes up, however often
//! it was put off meanwhile.
//!
//! The worst is a phase that passes the beginning of a full bucket, for it moves all that is in there at once: a
//! million timers that are more than two seconds ahead, and due within the same two, hold it up for 20 milliseconds,
//! and for 140 if the owner has slept so long that all of them are due, and must be sorted.
//!
//! A timer takes 24 bytes and its payload, in whole cache lines, and five more in the wheel or sixteen when it is near. The
//! buckets take 32 KiB and, at worst, a chunk of 64 bytes for each timer, if all others of its chunk have been cancelled. Room for
//! many more timers than there are lately is given up, up to the last node that a timer still has.
//!
//! # What was tried and is slower
//! What a million timers cost is the memory that has to come for each. So a node and its payload are one cache line, chunks keep the
//! gaps of cancelled timers and hear of 64 of them at a time, and vacant nodes are used in order: adding and cancelling one takes
//! 117 ns like this, of which 60 are a plain heap's without callbacks and keys. Without the order of the vacant nodes it takes 143,
//! with each chunk told at once besides 190, with full chunks and payloads apart 280. One heap of all timers instead, in that state:
//! 1.5 times as long again, and firing 5 times. Buckets that are lists through the nodes: firing 2.3 times. Those, and a heap for what
//! comes out of the wheel instead of sorting it: 3 times.

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
use crate::event_loop::trimming::slack::{Slack, has_much};

/// A timer that [`TimerQueue::pop_due`] has taken out.
#[derive(PartialEq, Debug)]
pub(crate) struct Due<C> {
    pub(crate) key: TimerKey,
    /// What was asked for, even if that was already past: repeats at a fixed rate count from here.
    pub(crate) deadline: u64,
    pub(crate) payload: C,
}

/// What [`TimerQueue::cancel`] found.
#[derive(PartialEq, Debug)]
pub(crate) enum Cancelled<C> {
    /// The timer was waiting, with this.
    Waiting(C),
    /// The timer repeats and its payload is out; it cannot be re-armed any more.
    Popped,
}

/// Timers in the order of their deadlines, each with a payload `C`.
pub(crate) struct TimerQueue<C> {
    nodes: Nodes<C>,
    /// What lies up to the wheel's cursor, which is where the latest phase stands, and the first bucket behind it if
    /// [`next_wake`](TimerQueue::next_wake) has asked.
    near: Near,
    far: Wheel,
    /// How many are in `near` and `far`.
    len: usize,
    next_sequence: u64,
    phase: Option<Phase>,
    slack: Slack,
    /// How many nodes the last trim has left.
    trimmed: usize,
}

/// What counts as due: deadlines up to `now` of timers armed with a sequence below `end`.
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
            trimmed: 0,
        }
    }

    /// How many timers wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the next timer is due. For one whose deadline had passed when it was armed, that is the `now` of
    /// the [phase](TimerQueue::begin_phase) before.
    ///
    /// Looks at every timer of a bucket if none is near, and at more buckets if timers were put off.
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

    /// When to begin the next phase: never later than the next timer is due, and exactly then if that is less than a second
    /// or two ahead. For a timer further away it may be earlier, three times at most, and for one that was put
    /// off once more; a phase that is begun then makes nothing due and knows better afterwards.
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

    /// Adds a timer that is due once.
    pub(crate) fn insert(&mut self, deadline: u64, payload: C) -> TimerKey {
        self.insert_as(false, deadline, payload)
    }

    /// Adds a timer whose key stays valid when it has been popped, until it is [re-armed](TimerQueue::rearm)
    /// or [cancelled](TimerQueue::cancel). Whoever pops it must do one or the other.
    pub(crate) fn insert_repeating(&mut self, deadline: u64, payload: C) -> TimerKey {
        self.insert_as(true, deadline, payload)
    }

    /// Puts a popped repeating timer back, under the same key and due at `deadline`, or at the deadline that it was
    /// [reset](TimerQueue::reset) to since it was popped.
    ///
    /// # Errors
    /// Returns the payload if the timer has been cancelled since it was popped, or `key` is not that of a
    /// popped timer.
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

    /// Gives a timer another deadline, as if it were armed now. `false` if it has ended.
    ///
    /// Of a popped repeating timer it is the deadline that it will be re-armed to.
    pub(crate) fn reset(&mut self, key: TimerKey, deadline: u64) -> bool {
        let Some(index) = self.nodes.find(key) else { return false };
        let state = self.nodes[index].state();
        if state == State::InWheel {
            let later = deadline >= self.nodes[index].deadline;
            self.note(index, deadline);
            // A bucket that comes up too early does no harm.
            if !later && tick_of(deadline) < self.far.first_tick_around(index, &self.nodes) {
                self.far.remove(index, &self.nodes);
                self.place(index, deadline);
            }
        } else if state.is_near() {
            // Taken out first, because the order of what is near rests on the sequences in the nodes.
            self.near.remove(index, &mut self.nodes);
            self.note(index, deadline);
            self.place(index, deadline);
        } else {
            self.note(index, deadline);
            self.nodes[index].set_state(State::PoppedAndReset);
        }
        true
    }

    /// Ends a timer. `None` if it has ended already: it was cancelled, or was due once and has been popped.
    ///
    /// The payload comes back, rather than being dropped here, because its destructor may want to use the
    /// queue.
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

    /// Whether the timer has yet to end: whether [`cancel`](TimerQueue::cancel) would find it.
    #[cfg(test)]
    pub(crate) fn contains(&self, key: TimerKey) -> bool {
        self.nodes.find(key).is_some()
    }

    /// Makes due what has a deadline up to `now` and is in the queue at this moment.
    ///
    /// A timer armed from here on waits for the next phase, however early its deadline, so that timers which
    /// re-arm themselves to "now" cannot keep the caller from getting on. If `now` is earlier than that of
    /// the phase before, the latter counts.
    ///
    /// Returns how many bytes of room the queue has given up.
    pub(crate) fn begin_phase(&mut self, now: u64) -> usize {
        let now = self.phase.map_or(now, |last| last.now.max(now));
        self.phase = Some(Phase { now, end: self.next_sequence });
        let tick = tick_of(now);
        self.far.settle();
        let mut given_up = 0;
        if self.slack.note::<Node<C>>(self.len, self.nodes.len()).is_some() {
            let before = self.nodes.len();
            given_up = self.trim();
            if self.nodes.len() > before / 2 {
                self.slack.postpone();
            }
        }
        while let Some(bucket) = self.far.first().filter(|bucket| bucket.first_tick <= tick) {
            // Nothing lies between the cursor and this bucket, nor elsewhere up to the bucket's end.
            let taken = self.far.take(bucket);
            let cursor = bucket.last_tick.min(tick);
            self.far.set_cursor(cursor);
            self.place_all(taken, cursor);
        }
        self.near.settle(&mut self.nodes);
        self.far.set_cursor(tick);
        given_up
    }

    /// Takes out the first timer that is due in the current phase. `None` ends the phase.
    ///
    /// One at a time, so that what is run can still cancel what would have come next.
    pub(crate) fn pop_due(&mut self) -> Option<Due<C>> {
        let phase = self.phase?;
        let first = self.near.first(&self.nodes)?;
        let index = first.index;
        // No due timer can be hidden behind a first one that is too new: `place` sorts new ones behind all
        // that is due.
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

    /// Ends all timers, popped ones too, and returns the payloads of those that waited in the order in which
    /// they would have come out.
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

    /// Whether so many timers need the nodes that there are.
    pub(crate) fn needs_room_for(&self, timers: usize) -> bool {
        has_much::<Node<C>>(self.nodes.len()) && timers > self.nodes.len() / 8
    }

    /// Whether there are nodes for many more timers than wait, that have come since the last [trim](TimerQueue::trim).
    pub(crate) fn has_slack(&self) -> bool {
        let nodes = self.nodes.len();
        has_much::<Node<C>>(nodes) && self.len <= nodes / 8 && nodes > self.trimmed
    }

    /// Gives up the nodes behind the last that a timer has, and the room beside what is there. It looks at every node, and places
    /// every far timer anew. Returns how many bytes of nodes it gives up.
    pub(crate) fn trim(&mut self) -> usize {
        let before = self.nodes.len();
        self.far.settle();
        self.nodes.trim(self.len);
        let far: Vec<u32> = self.nodes.far().collect();
        self.far.reset();
        for index in far {
            self.place(index, self.nodes[index].deadline);
        }
        self.near.trim();
        self.trimmed = self.nodes.len();
        (before - self.trimmed) * size_of::<Node<C>>()
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

    /// Writes down a timer's deadline and its place in the order of arming.
    fn note(&mut self, index: u32, deadline: u64) {
        let node = &mut self.nodes[index];
        node.deadline = deadline;
        node.set_sequence(self.next_sequence);
        self.next_sequence += 1;
    }

    /// Enters a timer where its deadline belongs.
    fn place(&mut self, index: u32, deadline: u64) {
        let tick = tick_of(deadline);
        if tick > self.far.cursor() {
            return self.far.add(index, tick, &mut self.nodes);
        }
        // A deadline from before the latest phase counts as that phase's `now`, so the sequence sorts the
        // timer behind everything that is due. Else it could come first, and, being too new for the phase,
        // hide what comes after.
        let deadline = self.phase.map_or(deadline, |phase| phase.now.max(deadline));
        self.near.push(Entry { deadline, index }, &mut self.nodes);
    }

    /// Places what was taken out of the wheel; what lies up to `last_near`, which may be behind the cursor, is gathered.
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
