//! When a collection releases capacity that it no longer needs.
//!
//! A collection keeps the capacity of its largest use, and so would remember a burst for ever.
//! Releasing the capacity at once would cost a steady load an allocation for each of its peaks. So
//! capacity is released after [`USES`] uses in a row have not needed it, and only if it is large: a
//! collection of [`RETAINED`] bytes is left alone, and a release leaves twice the need of the
//! largest of those uses. Growing again costs no more than the uses that did without the capacity.
//!
//! A queue of values that are allocated one by one releases its capacity when it is empty
//! ([`release_if_empty`], [`release_capacity`]). A burst that needs the capacity has allocated each
//! of its values, so the queue's share of the cost is small, and no counting is needed.

use std::collections::VecDeque;

/// The bytes of capacity that a collection always keeps.
pub(crate) const RETAINED: usize = 64 * 1024;

/// The number of uses in a row that have to need an eighth of the capacity at most before it is
/// released.
const USES: u32 = 256;

/// The needs of the latest uses of one collection.
#[derive(Debug)]
pub(crate) struct Slack {
    /// The number of uses in a row that have needed an eighth of the capacity at most.
    uses: u32,
    /// The largest need of these.
    largest: usize,
    /// The number of uses after which capacity is released.
    threshold: u32,
}

impl Slack {
    pub(crate) const fn new() -> Slack {
        Slack { uses: 0, largest: 0, threshold: USES }
    }

    /// Records a use that needed capacity for `needed` values of type `T`, of the present
    /// `capacity`. Returns the capacity to keep if some is to be released.
    #[inline]
    pub(crate) fn record<T>(&mut self, needed: usize, capacity: usize) -> Option<usize> {
        if is_large::<T>(capacity) { self.record_use::<T>(needed, capacity) } else { None }
    }

    #[cold]
    fn record_use<T>(&mut self, needed: usize, capacity: usize) -> Option<usize> {
        if !is_excess::<T>(needed, capacity) {
            *self = Slack::new();
            return None;
        }
        self.uses += 1;
        self.largest = self.largest.max(needed);
        if self.uses < self.threshold {
            return None;
        }
        let left = retained::<T>(2 * self.largest);
        (self.uses, self.largest) = (0, 0);
        Some(left)
    }

    /// The capacity could not be released. The next attempt is after twice as many uses.
    pub(crate) fn postpone(&mut self) {
        self.threshold = self.threshold.saturating_mul(2);
    }

    /// Same as [`record`](Slack::record) for a vector, whose capacity is released here. The present
    /// content of the vector does not count as needed. Returns whether the use needed a large
    /// capacity.
    #[inline]
    pub(crate) fn record_vec<T>(&mut self, needed: usize, vec: &mut Vec<T>) -> bool {
        let capacity = vec.capacity();
        if let Some(left) = self.record::<T>(needed, capacity) {
            vec.shrink_to(left);
        }
        is_large::<T>(capacity) && !is_excess::<T>(needed, capacity)
    }
}

impl Default for Slack {
    fn default() -> Slack {
        Slack::new()
    }
}

/// Releases the capacity of a vector that is empty, if it is large.
pub(crate) fn release_capacity<T>(vec: &mut Vec<T>) {
    if vec.is_empty() && is_large::<T>(vec.capacity()) {
        *vec = Vec::new();
    }
}

/// Releases the capacity of a queue that is empty, except what is always kept.
#[inline]
pub(crate) fn release_if_empty<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        queue.shrink_to(retained::<T>(0));
    }
}

/// Whether the capacity for values of type `T` is large, and `needed` values take an eighth of it
/// at most.
#[inline]
pub(crate) fn is_excess<T>(needed: usize, capacity: usize) -> bool {
    is_large::<T>(capacity) && needed <= capacity / 8
}

/// Whether the capacity for values of type `T` is larger than what is always kept.
#[inline]
pub(crate) fn is_large<T>(capacity: usize) -> bool {
    capacity > retained::<T>(0)
}

/// The capacity to leave to a collection that needs `needed` values at most.
pub(crate) fn retained<T>(needed: usize) -> usize {
    needed.max(RETAINED / size_of::<T>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses a vector in the way a batch is used. Returns how often its capacity has changed.
    fn changes(slack: &mut Slack, vec: &mut Vec<u64>, uses: impl Iterator<Item = usize>) -> usize {
        uses.filter(|&needed| {
            let before = vec.capacity();
            vec.resize(needed, 0);
            vec.clear();
            slack.record_vec(needed, vec);
            vec.capacity() != before
        })
        .count()
    }

    #[test]
    fn capacity_of_a_burst_is_released_after_many_small_uses() {
        let (mut slack, mut vec) = (Slack::default(), Vec::new());
        changes(&mut slack, &mut vec, [1_000_000].into_iter());
        assert_eq!(changes(&mut slack, &mut vec, (0..255).map(|_| 100)), 0);
        assert_eq!(changes(&mut slack, &mut vec, [20_000].into_iter()), 1);
        assert!((40_000..50_000).contains(&vec.capacity()), "twice what was needed: {}", vec.capacity());
        assert_eq!(changes(&mut slack, &mut vec, (0..256).map(|_| 3)), 1);
        assert_eq!(vec.capacity(), RETAINED / size_of::<u64>());
        assert_eq!(changes(&mut slack, &mut vec, (0..1000).map(|_| 3)), 0);
    }

    #[test]
    fn recurring_peaks_keep_their_capacity() {
        let (mut slack, mut vec) = (Slack::default(), Vec::new());
        let peaks = |n: usize| (0..n).map(|use_| if use_ % 256 == 0 { 100_000 } else { 1 });
        changes(&mut slack, &mut vec, peaks(1));
        assert_eq!(changes(&mut slack, &mut vec, peaks(10_000)), 0);
    }

    #[test]
    fn small_capacity_is_never_released() {
        let (mut slack, mut vec) = (Slack::default(), Vec::with_capacity(RETAINED / size_of::<u64>()));
        assert_eq!(changes(&mut slack, &mut vec, (0..10_000).map(|_| 0)), 0);
    }
}
