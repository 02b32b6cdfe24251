//! Adaptive spinning before a blocking wait, and batching of bursts.
//!
//! Both choices have a cost. Ending a sleep costs the producer a system call. If each side has a
//! processor, it also takes several microseconds until the loop runs. A spin that finds nothing
//! keeps a processor busy. The loop predicts from the past: it spins while spinning finds work.
//! Each miss doubles the number of waits without a spin (exponential back-off, at most
//! [`MAX_SKIPPED`]). Where no reply arrives soon, or there is no processor to send it from, the
//! cost of spinning therefore falls to nothing.
//!
//! Measured on two processors, with posts at even intervals. At intervals below [`MAX_SPIN`] a post
//! costs the producer 0.3 us and its task runs after 0.6 us. With a loop that sleeps these are 1 to
//! 2 us and 3.5 to 8 us. The sleeping loop is then busy a third of the time, this one all of the
//! time. From twice that interval on there is no difference.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long an adaptive loop spins. It is about the largest cost of ending a sleep, for both sides
/// together, and long enough to see the reply of a loop that has to be woken for it.
const MAX_SPIN: Duration = Duration::from_micros(10);

/// The largest number of waits without a spin before spinning is tried again.
const MAX_SKIPPED: u32 = 1023;

/// A batch of this many tasks is a burst: more are likely to follow.
const BURST: usize = 16;

/// In a burst, the least time between two batches.
///
/// Loop and producers contend for the mutex at each take, which costs them more than the tasks.
/// Without this interval the loop takes a batch every 20 tasks or so, and two threads run 14
/// million tasks a second. With 8 us it is 24 to 36 million, with 3 us 20 to 27 million.
const BATCH_INTERVAL: Duration = Duration::from_micros(8);

/// What the loop has measured of its producers, and how long it spins because of that.
#[derive(Debug)]
pub(super) struct Spin {
    /// How long to spin before each sleep, if the user has set it.
    fixed: Option<Duration>,
    /// With a batch of this length the queue may be full before the next one.
    near_capacity: usize,
    /// Whether the last turn has had tasks of other threads.
    was_posted: Cell<bool>,
    /// When the last batch was taken, if it was part of a burst.
    last_burst: Cell<Option<Instant>>,
    /// How many waits to skip after the next spin that finds nothing.
    back_off: Cell<u32>,
    /// How many waits are still to be skipped.
    skips_left: Cell<u32>,
}

impl Spin {
    /// `capacity` is that of the queue.
    pub(super) fn new(fixed: Option<Duration>, capacity: usize) -> Spin {
        Spin {
            fixed,
            near_capacity: capacity / 4,
            was_posted: Cell::new(false),
            last_burst: Cell::new(None),
            back_off: Cell::new(0),
            skips_left: Cell::new(0),
        }
    }

    /// Whether the user has set a spin before every wait. Such a loop delays nothing to save work.
    pub(super) fn is_forced(&self) -> bool {
        self.fixed.is_some_and(|fixed| !fixed.is_zero())
    }

    /// Records that a batch of `posted` tasks has been taken from the queue.
    pub(super) fn record_posted(&self, posted: usize) {
        self.was_posted.set(posted > 0);
        let is_burst = posted >= BURST && posted < self.near_capacity && self.fixed.is_none();
        self.last_burst.set(is_burst.then(Instant::now));
    }

    /// When to take the next batch; `None` for at once.
    pub(super) fn next_batch_at(&self) -> Option<Instant> {
        self.last_burst.get().map(|taken| taken + BATCH_INTERVAL)
    }

    /// How long to spin before this sleep.
    ///
    /// An adaptive loop spins only if other threads have posted in the last turn: events from
    /// outside the process arrive independently of the loop.
    pub(super) fn duration(&self) -> Duration {
        match self.fixed {
            Some(fixed) => fixed,
            None if !self.was_posted.get() => Duration::ZERO,
            None if self.skips_left.get() == 0 => MAX_SPIN,
            None => {
                self.skips_left.set(self.skips_left.get() - 1);
                Duration::ZERO
            }
        }
    }

    /// Records whether a spin has found work.
    pub(super) fn record(&self, found: bool) {
        if found {
            self.back_off.set(self.back_off.get() / 2);
        } else {
            self.skips_left.set(self.back_off.get());
            self.back_off.set((2 * self.back_off.get() + 1).min(MAX_SKIPPED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the spins in `waits` waits, all of which find work, or none.
    fn spins(spin: &Spin, waits: u32, found: bool) -> u32 {
        (0..waits)
            .filter(|_| {
                spin.record_posted(1);
                let spins = !spin.duration().is_zero();
                if spins {
                    spin.record(found);
                }
                spins
            })
            .count()
            .try_into()
            .expect("no more than the waits")
    }

    #[test]
    fn a_loop_spins_before_every_wait_while_it_finds_work() {
        assert_eq!(spins(&Spin::new(None, usize::MAX), 100, true), 100);
    }

    #[test]
    fn fruitless_spins_back_off_until_one_finds_work() {
        let spin = Spin::new(None, usize::MAX);
        assert_eq!(spins(&spin, 1023, false), 10);
        let waits = 100 * (MAX_SKIPPED + 1);
        assert!((100..=101).contains(&spins(&spin, waits, false)));
        // The remaining waits of the back-off are skipped, then every spin finds work.
        assert!(spins(&spin, 2 * MAX_SKIPPED, true) >= MAX_SKIPPED);
        // By then the back-off starts from zero again.
        assert_eq!(spins(&spin, 1023, false), 10);
    }

    #[test]
    fn a_loop_without_posts_does_not_spin() {
        let spin = Spin::new(None, usize::MAX);
        assert_eq!(spin.duration(), Duration::ZERO);
        spin.record_posted(0);
        assert_eq!(spin.duration(), Duration::ZERO);
    }

    #[test]
    fn a_configured_spin_never_adapts() {
        for fixed in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
            let spin = Spin::new(Some(fixed), usize::MAX);
            for _ in 0..10 {
                assert_eq!(spin.duration(), fixed);
                spin.record(false);
            }
        }
    }

    #[test]
    fn a_burst_delays_batches_unless_the_queue_may_fill() {
        let spin = Spin::new(None, 100);
        for (posted, is_burst) in [(0, false), (15, false), (16, true), (24, true), (25, false)] {
            spin.record_posted(posted);
            assert_eq!(spin.next_batch_at().is_some(), is_burst, "{posted} tasks");
        }
        for fixed in [Duration::ZERO, MAX_SPIN] {
            let configured = Spin::new(Some(fixed), 100);
            configured.record_posted(BURST);
            assert_eq!(configured.next_batch_at(), None);
        }
    }
}
