//! Deadlines in order: a wheel for what is far, a heap for what is near.
//!
//! A [`TimerQueue`] knows when the next timer is due and hands out those that are. It reads no clock and
//! calls nothing it carries: time is a number of nanoseconds since a moment of the owner's choice, and the payloads that it
//! gives back are the caller's to run or drop, with no borrow of the queue held meanwhile.
//!
//! Most timers are cancelled or put off long before they are due, and until then nobody asks for their order. So a timer
//! waits in a bucket of the [wheel](Wheel), where adding, cancelling and putting off take a few steps however
//! many there are, and comes into the [heap](Heap), which is exact to the nanosecond, when its tick does. A cancelled timer
//! leaves nothing behind.
//!
//! What it costs, for n timers, of which k are in the tick that is next: adding and cancelling are O(1), or O(log k) in that tick.
//! Firing is O(log k), and before that a timer moves down three levels at most. A timer that is put off stays where it
//! stands, and is put right when its bucket comes up, however often it was put off meanwhile. The worst is a phase that
//! passes the beginning of a full bucket, for it moves all that is in there at once: timers that are all more than two seconds
//! ahead, and due in the same two seconds, cost that one phase a cache miss or two each. No memory is used beyond 32
//! bytes and the payload for each timer, 16 bytes for each of the k, and 32 KiB for the buckets; the queue keeps the room it has
//! grown to.

mod heap;
mod near;
mod nodes;
mod wheel;

use std::fmt;

use self::heap::Entry;
use self::near::Near;
pub(crate) use self::nodes::TimerKey;
use self::nodes::{NONE, Nodes, State};
use self::wheel::{TICK_BITS, Wheel, tick_of};

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
    nodes: Nodes,
    /// By the index of the node. Apart, because of most timers nothing but the node is looked at until they end.
    payloads: Vec<Option<C>>,
    /// What lies up to the wheel's cursor, which is where the latest phase stands, and the first bucket behind it if
    /// [`next_wake`](TimerQueue::next_wake) has asked.
    near: Near,
    far: Wheel,
    /// How many are in `near` and `far`.
    len: usize,
    next_sequence: u64,
    phase: Option<Phase>,
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
            payloads: Vec::new(),
            near: Near::new(),
            far: Wheel::new(),
            len: 0,
            next_sequence: 0,
            phase: None,
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
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let mut first = self.near.first(&self.nodes).map(|entry| entry.deadline);
        for bucket in self.far.buckets() {
            if first.is_some_and(|first| tick_of(first) < bucket.first_tick) {
                break;
            }
            let deadlines = self.far.nodes_in(bucket, &self.nodes).map(|index| self.nodes[index].deadline);
            first = first.into_iter().chain(deadlines).min();
        }
        first
    }

    /// When to begin the next phase: never later than the next timer is due, and exactly then if that is less than a second
    /// or two ahead. For a timer further away it may be earlier, three times at most, and for one that was put
    /// off once more; a phase that is begun then makes nothing due and knows better afterwards.
    pub(crate) fn next_wake(&mut self) -> Option<u64> {
        loop {
            let near = self.near.first(&self.nodes).map(|entry| entry.deadline);
            match self.far.first() {
                Some(bucket) if near.is_none_or(|near| tick_of(near) >= bucket.first_tick) => {
                    if bucket.first_tick < bucket.last_tick {
                        return Some(bucket.first_tick << TICK_BITS);
                    }
                    let head = self.far.take(bucket);
                    self.place_all(head, bucket.last_tick);
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
        match self.nodes[index].state {
            State::Popped => self.note(index, deadline),
            State::PoppedAndReset => {}
            State::Vacant | State::InRun | State::InHeap | State::InWheel => return Err(payload),
        }
        self.payloads[index as usize] = Some(payload);
        self.len += 1;
        self.place(index);
        Ok(())
    }

    /// Gives a timer another deadline, as if it were armed now. `false` if it has ended.
    ///
    /// Of a popped repeating timer it is the deadline that it will be re-armed to.
    pub(crate) fn reset(&mut self, key: TimerKey, deadline: u64) -> bool {
        let Some(index) = self.nodes.find(key) else { return false };
        match self.nodes[index].state {
            State::Vacant => return false,
            State::Popped | State::PoppedAndReset => {
                self.note(index, deadline);
                self.nodes[index].state = State::PoppedAndReset;
            }
            State::InRun | State::InHeap => {
                // Taken out first, because the order of what is near rests on the sequences in the nodes.
                self.near.remove(index, &mut self.nodes);
                self.note(index, deadline);
                self.place(index);
            }
            State::InWheel => {
                self.note(index, deadline);
                // A bucket that comes up too early does no harm.
                if tick_of(deadline) < self.far.first_tick_around(index, &self.nodes) {
                    self.far.unlink(index, &mut self.nodes);
                    self.place(index);
                }
            }
        }
        true
    }

    /// Ends a timer. `None` if it has ended already: it was cancelled, or was due once and has been popped.
    ///
    /// The payload comes back, rather than being dropped here, because its destructor may want to use the
    /// queue.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<Cancelled<C>> {
        let index = self.nodes.find(key)?;
        match self.nodes[index].state {
            State::Vacant => return None,
            State::InRun | State::InHeap => self.near.remove(index, &mut self.nodes),
            State::InWheel => self.far.unlink(index, &mut self.nodes),
            State::Popped | State::PoppedAndReset => {
                self.nodes.vacate(index);
                return Some(Cancelled::Popped);
            }
        }
        self.len -= 1;
        self.nodes.vacate(index);
        self.payloads[index as usize].take().map(Cancelled::Waiting)
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
    pub(crate) fn begin_phase(&mut self, now: u64) {
        let now = self.phase.map_or(now, |last| last.now.max(now));
        self.phase = Some(Phase { now, end: self.next_sequence });
        let tick = tick_of(now);
        while let Some(bucket) = self.far.first().filter(|bucket| bucket.first_tick <= tick) {
            // Nothing lies between the cursor and this bucket, nor elsewhere up to the bucket's end.
            let head = self.far.take(bucket);
            let cursor = bucket.last_tick.min(tick);
            self.far.set_cursor(cursor);
            self.place_all(head, cursor);
        }
        self.near.settle(&mut self.nodes);
        self.far.set_cursor(tick);
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
        if first.deadline > phase.now || self.nodes[index].sequence >= phase.end {
            return None;
        }
        self.near.remove(index, &mut self.nodes);
        self.len -= 1;
        let payload = self.payloads[index as usize].take().expect("a waiting timer has its payload");
        let due = Due { key: self.nodes.key(index), deadline: self.nodes[index].deadline, payload };
        if self.nodes[index].repeats {
            self.nodes[index].state = State::Popped;
        } else {
            self.nodes.vacate(index);
        }
        Some(due)
    }

    /// Ends all timers, popped ones too, and returns the payloads of those that waited in the order in which
    /// they would have come out.
    pub(crate) fn drain(&mut self) -> Vec<C> {
        let near = self.near.entries().map(|entry| (entry.deadline, entry.index));
        let far = self.nodes.iter().filter(|(_, node)| node.state == State::InWheel);
        let waiting = near.chain(far.map(|(index, node)| (node.deadline, index)));
        let mut waiting: Vec<_> =
            waiting.map(|(deadline, index)| (deadline, self.nodes[index].sequence, index)).collect();
        waiting.sort_unstable();
        self.near.clear();
        self.far.clear();
        self.len = 0;
        for index in 0..self.nodes.len() as u32 {
            if self.nodes[index].state != State::Vacant {
                self.nodes.vacate(index);
            }
        }
        waiting.into_iter().filter_map(|(_, _, index)| self.payloads[index as usize].take()).collect()
    }

    fn insert_as(&mut self, repeats: bool, deadline: u64, payload: C) -> TimerKey {
        let index = self.nodes.take_vacant().unwrap_or_else(|| {
            self.far.prepare();
            let index = self.nodes.grow();
            self.payloads.resize_with(self.nodes.len(), || None);
            index
        });
        self.payloads[index as usize] = Some(payload);
        self.nodes[index].repeats = repeats;
        self.len += 1;
        self.note(index, deadline);
        self.place(index);
        self.nodes.key(index)
    }

    /// Writes down a timer's deadline and its place in the order of arming.
    fn note(&mut self, index: u32, deadline: u64) {
        let node = &mut self.nodes[index];
        node.deadline = deadline;
        node.sequence = self.next_sequence;
        self.next_sequence += 1;
    }

    /// Enters a timer where its deadline belongs.
    fn place(&mut self, index: u32) {
        let deadline = self.nodes[index].deadline;
        let tick = tick_of(deadline);
        if tick > self.far.cursor() {
            return self.far.link(index, tick, &mut self.nodes);
        }
        // A deadline from before the latest phase counts as that phase's `now`, so the sequence sorts the
        // timer behind everything that is due. Else it could come first, and, being too new for the phase,
        // hide what comes after.
        let deadline = self.phase.map_or(deadline, |phase| phase.now.max(deadline));
        self.near.push(Entry { deadline, index }, &mut self.nodes);
    }

    /// Places the nodes of a list that was taken out of the wheel; into the heap those up to `last_near`, which may lie
    /// behind the cursor.
    fn place_all(&mut self, head: u32, last_near: u64) {
        let mut index = head;
        while index != NONE {
            let deadline = self.nodes[index].deadline;
            let next = self.nodes[index].next;
            let tick = tick_of(deadline);
            if tick <= last_near {
                self.near.gather(Entry { deadline, index });
            } else {
                self.far.link(index, tick, &mut self.nodes);
            }
            index = next;
        }
    }
}

impl<C> fmt::Debug for TimerQueue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerQueue")
            .field("len", &self.len())
            .field("next_deadline", &self.next_deadline())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod model {
    mod tests;
}
#[cfg(test)]
mod tests;
