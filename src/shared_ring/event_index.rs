//! The wake-up protocol of a ring: a sleeping side is signalled, and a side that is awake costs its
//! peer no system call.
//!
//! Each position of a ring is advanced by one side and read by the other. The reading side has a
//! mark beside it. Before it sleeps, it sets the mark, reads the position again, and sleeps only if
//! the position is not beyond the mark. The advancing side checks the mark after each advance, and
//! rings if this advance passed the mark. So a sleep costs at most one ring. A mark need not be
//! cleared, since a mark that has been passed is not passed again. These are the event indices of
//! virtio (VIRTIO 1.2, sections 2.7.7 and 2.7.10).
//!
//! Both sides store one word and load the other's, with a sequentially consistent fence in between.
//! One of the two fences comes second, and its side sees the store of the other one: either the
//! advance sees the mark, or the recheck sees the advance. With weaker ordering both could miss,
//! and the reader would sleep although there is a message. `tests/loom` checks this file unchanged.

/// A shared word of memory.
pub(crate) trait Word {
    fn load_relaxed(&self) -> u64;
    fn store_relaxed(&self, value: u64);
    fn load_acquire(&self) -> u64;
    fn store_release(&self, value: u64);
    /// A sequentially consistent fence.
    fn fence();
}

/// Advances `position`. Returns whether the other side must be signalled.
pub(crate) fn move_on<W: Word>(position: &W, mark: &W, from: u64, to: u64) -> bool {
    position.store_release(to);
    W::fence();
    passes(mark.load_relaxed(), from, to)
}

/// Requests a ring when `position` passes `at`. Returns the current position; if it is beyond `at`,
/// there may be no ring.
pub(crate) fn set_mark<W: Word>(position: &W, mark: &W, at: u64) -> u64 {
    mark.store_relaxed(at);
    W::fence();
    position.load_acquire()
}

/// Whether an advance starts at or before the mark, and ends beyond it. Positions wrap around from
/// `u64::MAX` to 0.
fn passes(mark: u64, from: u64, to: u64) -> bool {
    to.wrapping_sub(mark).wrapping_sub(1) < to.wrapping_sub(from)
}
