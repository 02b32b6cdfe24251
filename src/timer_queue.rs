//! Deadlines in order.
//!
//! A [`TimerQueue`] knows when the next timer is due and hands out those that are. It reads no clock and
//! calls nothing it carries: time is what its caller says it is, and the payloads that it gives back are the
//! caller's to run or drop, with no borrow of the queue held meanwhile.
//!
//! A timer waits in a heap, ordered by deadline and, among equal ones, by when it was armed. Its payload lies
//! still in a slot, which remembers where in the heap its entry is, so that cancelling takes the entry out at
//! once instead of leaving a husk to be met later. Inserting and cancelling cost O(log n), and no memory once
//! the queue has been as full as it gets: it keeps the room it has grown to.

use std::fmt;
use std::mem;
use std::time::Instant;

/// Children per heap node. With four, a million entries are ten levels deep, and the children that are
/// compared with each other lie side by side in two or three cache lines.
const ARITY: usize = 4;

/// The largest generation of a slot. A slot that has used them all up is abandoned.
const LAST_GENERATION: u32 = u32::MAX - 1;

/// Names one timer of one queue, for as long as the queue lives: no two timers ever get the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TimerKey {
    index: u32,
    generation: u32,
}

/// A timer that [`TimerQueue::pop_due`] has taken out.
#[derive(PartialEq, Debug)]
pub(crate) struct Due<C> {
    pub(crate) key: TimerKey,
    /// What was asked for, even if that was already past: repeats at a fixed rate count from here.
    pub(crate) deadline: Instant,
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
    /// A heap: no entry sorts before its parent, which for the entry at `i` is at `(i - 1) / ARITY`.
    heap: Vec<Entry>,
    /// For each slot that has an entry in the heap, where. Apart from `slots`, because a sift writes one for
    /// every level it passes, and these are 16 to a cache line.
    positions: Vec<u32>,
    slots: Vec<Slot<C>>,
    /// The vacant slots, but for those that have used up their generations.
    free: Vec<u32>,
    next_sequence: u64,
    phase: Option<Phase>,
}

#[derive(Clone, Copy)]
struct Entry {
    deadline: Instant,
    sequence: u64,
    slot: u32,
}

impl Entry {
    fn sorts_before(&self, other: &Entry) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

struct Slot<C> {
    /// That of the key the slot now answers to, or will when it is next used.
    generation: u32,
    state: State<C>,
}

enum State<C> {
    Vacant,
    Once(Timer<C>),
    Repeating(Timer<C>),
    /// A repeating timer between `pop_due` and `rearm`.
    Popped,
}

struct Timer<C> {
    /// As asked for; the one in the heap may be later.
    deadline: Instant,
    payload: C,
}

/// What counts as due: deadlines up to `now` of timers armed with a sequence below `end`.
#[derive(Clone, Copy)]
struct Phase {
    now: Instant,
    end: u64,
}

impl<C> TimerQueue<C> {
    pub(crate) const fn new() -> TimerQueue<C> {
        TimerQueue {
            heap: Vec::new(),
            positions: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            next_sequence: 0,
            phase: None,
        }
    }

    /// How many timers wait.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// When the next timer is due. For one whose deadline had passed when it was armed, that is the `now` of
    /// the [phase](TimerQueue::begin_phase) before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Adds a timer that is due once.
    pub(crate) fn insert(&mut self, deadline: Instant, payload: C) -> TimerKey {
        self.insert_as(State::Once(Timer { deadline, payload }), deadline)
    }

    /// Adds a timer whose key stays valid when it has been popped, until it is [re-armed](TimerQueue::rearm)
    /// or [cancelled](TimerQueue::cancel). Whoever pops it must do one or the other.
    pub(crate) fn insert_repeating(&mut self, deadline: Instant, payload: C) -> TimerKey {
        self.insert_as(State::Repeating(Timer { deadline, payload }), deadline)
    }

    /// Puts a popped repeating timer back, under the same key and due at `deadline`.
    ///
    /// # Errors
    /// Returns the payload if the timer has been cancelled since it was popped, or `key` is not that of a
    /// popped timer.
    pub(crate) fn rearm(&mut self, key: TimerKey, deadline: Instant, payload: C) -> Result<(), C> {
        match self.slot_mut(key) {
            Some(slot) if matches!(slot.state, State::Popped) => {
                slot.state = State::Repeating(Timer { deadline, payload });
                self.push(key.index, deadline);
                Ok(())
            }
            _ => Err(payload),
        }
    }

    /// Ends a timer. `None` if it has ended already: it was cancelled, or was due once and has been popped.
    ///
    /// The payload comes back, rather than being dropped here, because its destructor may want to use the
    /// queue.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<Cancelled<C>> {
        let slot = self.slot_mut(key)?;
        match mem::replace(&mut slot.state, State::Vacant) {
            State::Vacant => None,
            State::Once(timer) | State::Repeating(timer) => {
                self.remove_entry(self.positions[key.index as usize] as usize);
                self.vacate(key.index);
                Some(Cancelled::Waiting(timer.payload))
            }
            State::Popped => {
                self.vacate(key.index);
                Some(Cancelled::Popped)
            }
        }
    }

    /// Whether the timer has yet to end: whether [`cancel`](TimerQueue::cancel) would find it.
    #[cfg(test)]
    pub(crate) fn contains(&self, key: TimerKey) -> bool {
        let slot = self.slots.get(key.index as usize);
        slot.is_some_and(|slot| slot.generation == key.generation && !matches!(slot.state, State::Vacant))
    }

    /// Makes due what has a deadline up to `now` and is in the queue at this moment.
    ///
    /// A timer armed from here on waits for the next phase, however early its deadline, so that timers which
    /// re-arm themselves to "now" cannot keep the caller from getting on. If `now` is earlier than that of
    /// the phase before, the latter counts.
    pub(crate) fn begin_phase(&mut self, now: Instant) {
        let now = self.phase.map_or(now, |last| last.now.max(now));
        self.phase = Some(Phase { now, end: self.next_sequence });
    }

    /// Takes out the first timer that is due in the current phase. `None` ends the phase.
    ///
    /// One at a time, so that what is run can still cancel what would have come next.
    pub(crate) fn pop_due(&mut self) -> Option<Due<C>> {
        let phase = self.phase?;
        let first = self.heap.first()?;
        // No due timer can be hidden behind a first one that is too new: `push` sorts new ones behind all
        // that is due.
        if first.deadline > phase.now || first.sequence >= phase.end {
            return None;
        }
        let index = first.slot;
        self.remove_entry(0);
        let slot = &mut self.slots[index as usize];
        let key = TimerKey { index, generation: slot.generation };
        let Timer { deadline, payload } = match mem::replace(&mut slot.state, State::Popped) {
            State::Repeating(timer) => timer,
            State::Once(timer) => {
                self.vacate(index);
                timer
            }
            State::Vacant | State::Popped => unreachable!("a heap entry without a timer"),
        };
        Some(Due { key, deadline, payload })
    }

    /// Ends all timers, popped ones too, and returns the payloads of those that waited in the order in which
    /// they would have come out.
    pub(crate) fn drain(&mut self) -> Vec<C> {
        let mut entries = mem::take(&mut self.heap);
        entries.sort_unstable_by_key(|entry| (entry.deadline, entry.sequence));
        let payloads = entries.into_iter().filter_map(|entry| {
            match mem::replace(&mut self.slots[entry.slot as usize].state, State::Popped) {
                State::Once(timer) | State::Repeating(timer) => Some(timer.payload),
                State::Vacant | State::Popped => None,
            }
        });
        let payloads = payloads.collect();
        for index in 0..self.slots.len() {
            if !matches!(self.slots[index].state, State::Vacant) {
                self.vacate(index as u32);
            }
        }
        payloads
    }

    fn slot_mut(&mut self, key: TimerKey) -> Option<&mut Slot<C>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)
    }

    fn insert_as(&mut self, state: State<C>, deadline: Instant) -> TimerKey {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("at most 2^32 timers at a time");
            self.slots.push(Slot { generation: 0, state: State::Vacant });
            self.positions.push(0);
            index
        });
        let slot = &mut self.slots[index as usize];
        slot.state = state;
        let key = TimerKey { index, generation: slot.generation };
        self.push(index, deadline);
        key
    }

    /// Ends the key of a slot and makes the slot available for another.
    fn vacate(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Vacant;
        slot.generation += 1;
        // The slot used last is used next, so a busy one gets here within two hours at a million timers a
        // second. It is abandoned, a few bytes for four thousand million timers; starting again at 0 would let an old
        // key cancel a stranger.
        if slot.generation <= LAST_GENERATION {
            self.free.push(index);
        }
    }

    /// Enters the timer of `slot` into the heap.
    fn push(&mut self, slot: u32, deadline: Instant) {
        // A deadline from before the latest phase counts as that phase's `now`, so the sequence sorts the
        // timer behind everything that is due. Else it could come first, and, being too new for the phase,
        // hide what comes after.
        let deadline = self.phase.map_or(deadline, |phase| phase.now.max(deadline));
        let entry = Entry { deadline, sequence: self.next_sequence, slot };
        self.next_sequence += 1;
        self.heap.push(entry);
        self.sift_up(self.heap.len() - 1, entry);
    }

    fn remove_entry(&mut self, position: usize) {
        let last = self.heap.pop().expect("an entry to remove");
        if position == self.heap.len() {
            return;
        }
        // The last entry fills the gap. It comes from another branch, perhaps, so it may belong on either
        // side.
        if position > 0 && last.sorts_before(&self.heap[(position - 1) / ARITY]) {
            self.sift_up(position, last);
        } else {
            self.sift_down(position, last);
        }
    }

    /// Puts `entry` into the gap at `position`, or further up.
    fn sift_up(&mut self, mut position: usize, entry: Entry) {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !entry.sorts_before(&self.heap[parent]) {
                break;
            }
            self.place(position, self.heap[parent]);
            position = parent;
        }
        self.place(position, entry);
    }

    /// Puts `entry` into the gap at `position`, or further down.
    fn sift_down(&mut self, mut position: usize, entry: Entry) {
        loop {
            let first = position * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            let least = children.reduce(|a, b| if self.heap[b].sorts_before(&self.heap[a]) { b } else { a });
            match least {
                Some(child) if self.heap[child].sorts_before(&entry) => {
                    self.place(position, self.heap[child]);
                    position = child;
                }
                _ => break,
            }
        }
        self.place(position, entry);
    }

    fn place(&mut self, position: usize, entry: Entry) {
        self.heap[position] = entry;
        self.positions[entry.slot as usize] = position as u32;
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
mod tests;
