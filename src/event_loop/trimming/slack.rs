//! When a collection gives up room that it no longer needs.
//!
//! A collection keeps the room of its largest use, and a burst would be remembered for ever. Giving the room up at once would cost a
//! steady load with an allocation for each of its peaks. So room goes when it has not been needed for [`USES`] uses in a row, and only
//! if there is much of it: a collection of [`KEPT`] bytes is left alone, and what is given up leaves twice what the largest of those
//! uses needed. To get the room back costs no more than the uses that went without it.
//!
//! A queue of values that are allocated one by one gives its room up when it is empty ([`release_if_empty`], [`give_up`]): a burst
//! that needs the room has allocated each of its values, so the queue's share of that is small, and there is nothing to count.

use std::collections::VecDeque;

/// The bytes of room that a collection keeps whatever it needs.
pub(crate) const KEPT: usize = 64 * 1024;

/// How many uses in a row have to do with an eighth of the room before it is given up.
const USES: u32 = 256;

/// What the latest uses of one collection have needed.
#[derive(Debug)]
pub(crate) struct Slack {
    /// How many uses in a row have needed an eighth of the room at most.
    uses: u32,
    /// What the largest of these has needed.
    most: usize,
    /// How many it takes.
    wanted: u32,
}

impl Slack {
    pub(crate) const fn new() -> Slack {
        Slack { uses: 0, most: 0, wanted: USES }
    }

    /// Notes a use that has needed room for `needed` values of type `T`, of the `room` that there is. Returns how much room is to be
    /// left if some is to be given up.
    #[inline]
    pub(crate) fn note<T>(&mut self, needed: usize, room: usize) -> Option<usize> {
        if has_much::<T>(room) { self.note_use::<T>(needed, room) } else { None }
    }

    #[cold]
    fn note_use<T>(&mut self, needed: usize, room: usize) -> Option<usize> {
        if !is_excess::<T>(needed, room) {
            *self = Slack::new();
            return None;
        }
        self.uses += 1;
        self.most = self.most.max(needed);
        if self.uses < self.wanted {
            return None;
        }
        let left = kept::<T>(2 * self.most);
        (self.uses, self.most) = (0, 0);
        Some(left)
    }

    /// The room could not be given up. The next try comes after twice as many uses.
    pub(crate) fn postpone(&mut self) {
        self.wanted = self.wanted.saturating_mul(2);
    }

    /// The same for a vector, which gives the room up. What it holds now does not count as needed. Returns whether the use has needed
    /// much room.
    #[inline]
    pub(crate) fn note_vec<T>(&mut self, needed: usize, vec: &mut Vec<T>) -> bool {
        let room = vec.capacity();
        if let Some(left) = self.note::<T>(needed, room) {
            vec.shrink_to(left);
        }
        has_much::<T>(room) && !is_excess::<T>(needed, room)
    }
}

impl Default for Slack {
    fn default() -> Slack {
        Slack::new()
    }
}

/// Gives up the room of a vector that is empty, if it is much.
pub(crate) fn give_up<T>(vec: &mut Vec<T>) {
    if vec.is_empty() && has_much::<T>(vec.capacity()) {
        *vec = Vec::new();
    }
}

/// Gives up the room of a queue that is empty, but for what is always kept.
#[inline]
pub(crate) fn release_if_empty<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        queue.shrink_to(kept::<T>(0));
    }
}

/// Whether there is much room for values of type `T`, and `needed` values take an eighth of it at most.
#[inline]
pub(crate) fn is_excess<T>(needed: usize, room: usize) -> bool {
    has_much::<T>(room) && needed <= room / 8
}

/// Whether so much room for values of type `T` is more than is always kept.
#[inline]
pub(crate) fn has_much<T>(room: usize) -> bool {
    room > kept::<T>(0)
}

/// The room to leave to a collection that needs `needed` at most.
pub(crate) fn kept<T>(needed: usize) -> usize {
    needed.max(KEPT / size_of::<T>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses a vector as a batch is used, and returns how often its room has changed.
    fn changes(slack: &mut Slack, vec: &mut Vec<u64>, uses: impl Iterator<Item = usize>) -> usize {
        uses.filter(|&needed| {
            let before = vec.capacity();
            vec.resize(needed, 0);
            vec.clear();
            slack.note_vec(needed, vec);
            vec.capacity() != before
        })
        .count()
    }

    #[test]
    fn room_of_a_burst_is_given_up_after_many_small_uses() {
        let (mut slack, mut vec) = (Slack::default(), Vec::new());
        changes(&mut slack, &mut vec, [1_000_000].into_iter());
        assert_eq!(changes(&mut slack, &mut vec, (0..255).map(|_| 100)), 0);
        assert_eq!(changes(&mut slack, &mut vec, [20_000].into_iter()), 1);
        assert!((40_000..50_000).contains(&vec.capacity()), "twice what was needed: {}", vec.capacity());
        assert_eq!(changes(&mut slack, &mut vec, (0..256).map(|_| 3)), 1);
        assert_eq!(vec.capacity(), KEPT / size_of::<u64>());
        assert_eq!(changes(&mut slack, &mut vec, (0..1000).map(|_| 3)), 0);
    }

    #[test]
    fn peaks_that_come_again_and_again_keep_their_room() {
        let (mut slack, mut vec) = (Slack::default(), Vec::new());
        let peaks = |n: usize| (0..n).map(|use_| if use_ % 256 == 0 { 100_000 } else { 1 });
        changes(&mut slack, &mut vec, peaks(1));
        assert_eq!(changes(&mut slack, &mut vec, peaks(10_000)), 0);
    }

    #[test]
    fn little_room_is_kept_for_ever() {
        let (mut slack, mut vec) = (Slack::default(), Vec::with_capacity(KEPT / size_of::<u64>()));
        assert_eq!(changes(&mut slack, &mut vec, (0..10_000).map(|_| 0)), 0);
    }
}
