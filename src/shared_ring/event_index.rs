//! Who has to ring: the protocol by which a side that sleeps is woken, and one that is awake costs its peer no system call.
//!
//! Each position of a ring is moved on by one side and read by the other. The side that reads has a mark beside it: before it
//! sleeps it sets the mark, looks at the position once more, and sleeps only if that is not beyond the mark. The side that
//! moves the position on looks at the mark after each move, and rings if it was this move that passed it. So a sleep costs one
//! ring at most, and nobody has to take a mark back: one that has been passed is not passed again. These are the event indices
//! of virtio (VIRTIO 1.2, sections 2.7.7 and 2.7.10).
//!
//! Both sides store one word and load the other's, with a sequentially consistent fence in between. Of two such fences one is
//! the later, and its side sees what the other one has stored: either the move finds the mark, or the last look finds the move.
//! With anything weaker both could miss, and the reader would sleep over what is there. `tests/loom` checks this file as it is.

/// A word in memory that two sides share.
pub(crate) trait Word {
    fn load_relaxed(&self) -> u64;
    fn store_relaxed(&self, value: u64);
    fn load_acquire(&self) -> u64;
    fn store_release(&self, value: u64);
    /// Sequentially consistent.
    fn fence();
}

/// Moves `position` on. Answers whether the other side has to be rung for.
pub(crate) fn move_on<W: Word>(position: &W, mark: &W, from: u64, to: u64) -> bool {
    position.store_release(to);
    W::fence();
    passes(mark.load_relaxed(), from, to)
}

/// Asks to be rung for when `position` passes `at`. Answers where it is now: if that is beyond `at`, nobody may ring.
pub(crate) fn set_mark<W: Word>(position: &W, mark: &W, at: u64) -> u64 {
    mark.store_relaxed(at);
    W::fence();
    position.load_acquire()
}

/// Whether a move begins at the mark or before it, and ends beyond it. Positions count on from 0 when they pass `u64::MAX`.
fn passes(mark: u64, from: u64, to: u64) -> bool {
    to.wrapping_sub(mark).wrapping_sub(1) < to.wrapping_sub(from)
}
