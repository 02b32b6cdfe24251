//! The state that a spawned future shares with its wakers and its join handle, in one atomic word.
//!
//! There are three parties: the loop, which owns the future; the join handle; and wakers, on any
//! thread. No party waits for another. The word also assigns the two values that are not atomic:
//!
//! - **The result** belongs to the loop until [`complete`](FutureState::complete), and afterwards
//!   to the join handle. If that has been [released](FutureState::release), it stays with the loop.
//! - **The joiner's waker** belongs to the join handle, except from
//!   [`publish`](FutureState::publish) to [`withdraw`](FutureState::withdraw). A completion in that
//!   time takes it.
//!
//! A wake-up from another thread is coalesced with those that the loop has not taken. All of them
//! are read-modify-write operations, so that the loop, which takes them with another one, sees what
//! each of their threads has written before. A plain load that finds the bit set would lose that.
//!
//! The wake-ups of the loop's own thread do not use this word. `tests/loom` checks this file
//! unchanged.

/// An atomic word. The operations return the previous value, and have the ordering acquire-release.
pub(crate) trait Word {
    fn new(value: u32) -> Self;
    /// A load with acquire ordering.
    fn load(&self) -> u32;
    fn fetch_or(&self, bits: u32) -> u32;
    fn fetch_and(&self, bits: u32) -> u32;
}

/// A wake-up from another thread is on its way to the loop.
const WOKEN: u32 = 1;
/// The future is to be dropped before it is polled again.
const ABORTED: u32 = 2;
/// The future has been dropped, and the result is stored.
const COMPLETE: u32 = 4;
/// There is a join handle.
const JOINED: u32 = 8;
/// The join handle waits: its waker is published.
const WAITING: u32 = 16;

/// What the loop must do after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The join handle has been released, so the loop drops the result.
    pub(crate) is_unclaimed: bool,
    /// The loop takes the joiner's waker, and wakes it.
    pub(crate) has_joiner: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct FutureState<W>(W);

impl<W: Word> FutureState<W> {
    /// The state of a future with a join handle. If it `is_arriving`, it is on its way to the loop,
    /// and its [delivery](FutureState::deliver) causes the first poll.
    pub(crate) fn new(is_arriving: bool) -> Self {
        FutureState(W::new(if is_arriving { JOINED | WOKEN } else { JOINED }))
    }

    /// For a waker on another thread. Returns whether it must notify the loop.
    #[must_use]
    pub(crate) fn wake(&self) -> bool {
        self.0.fetch_or(WOKEN) & (WOKEN | COMPLETE) == 0
    }

    /// For the join handle, on any thread. Returns whether it must notify the loop.
    #[must_use]
    pub(crate) fn abort(&self) -> bool {
        self.0.fetch_or(ABORTED | WOKEN) & (WOKEN | COMPLETE) == 0
    }

    /// For the loop, when it has been notified, before it polls the future.
    pub(crate) fn deliver(&self) {
        self.0.fetch_and(!WOKEN);
    }

    /// For the loop, before it polls the future.
    #[must_use]
    pub(crate) fn is_aborted(&self) -> bool {
        self.0.load() & ABORTED != 0
    }

    /// For the loop, after it has dropped the future and stored the result. Later wake-ups have no
    /// effect.
    pub(crate) fn complete(&self) -> Completion {
        let before = self.0.fetch_or(COMPLETE);
        Completion { is_unclaimed: before & JOINED == 0, has_joiner: before & WAITING != 0 }
    }

    /// From any thread. For the join handle, `true` means that it owns the result.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.0.load() & COMPLETE != 0
    }

    /// For the join handle, which has stored its waker. Returns whether the future has completed
    /// before that. The waker then still belongs to the handle, and is not woken.
    #[must_use]
    pub(crate) fn publish(&self) -> bool {
        self.0.fetch_or(WAITING) & COMPLETE != 0
    }

    /// For the join handle, before it changes a waker that may be published. Returns whether the
    /// future has completed. The waker then is, or was, the loop's.
    #[must_use]
    pub(crate) fn withdraw(&self) -> bool {
        let before = self.0.load();
        // Only the handle sets the bit, so it cannot appear meanwhile.
        before & COMPLETE != 0 || (before & WAITING != 0 && self.0.fetch_and(!WAITING) & COMPLETE != 0)
    }

    /// For the join handle, which ends. Returns whether the future has completed, so that the
    /// handle drops the result. Otherwise it drops its waker.
    #[must_use]
    pub(crate) fn release(&self) -> bool {
        self.0.fetch_and(!(JOINED | WAITING)) & COMPLETE != 0
    }
}
