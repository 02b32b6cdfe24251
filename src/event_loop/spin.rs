//! Adaptive spinning before a blocking wait, and batching of bursts.
//!
//! Both choices have a cost. Ending a sleep costs the producer a system call. If each side has a
//! processor, it also takes some time until the loop runs: 4 us on one machine, 33 us on another,
//! where a processor without work returns to the hypervisor. A spin that finds nothing keeps a
//! processor busy. The loop predicts from the past: it spins while spinning finds work. Each miss
//! doubles the number of waits without a spin (exponential back-off, at most [`MAX_SKIPPED`]).
//! Where no reply arrives soon, or there is no processor to send it from, the cost of spinning
//! therefore falls to nothing.
//!
//! A spin lasts as long as two wake-ups take. That is what it saves, since both sides of an
//! exchange would sleep, and it includes the reply of a loop that has to be woken for it. So the
//! loop measures its wake-ups: the thread that wakes it stores the time ([`WakeTime`]).
//!
//! A spin either checks continually, or yields the processor between two checks. The first is for
//! producers on other processors. The second is for those that share the loop's: they run during
//! the yield, and two loops that exchange messages then need neither wake-ups nor sleeps, which
//! cost more than the switch between the threads. The loop changes over after a spin that has found
//! nothing, and back when the work repeatedly comes later than after the first yield. Where other
//! threads need the processor, a yield may last as long as a time slice. The loop then makes so
//! many waits without a yield that the loss is insignificant for each of them.
//!
//! Measured on two processors with wake-ups of 4 us, and posts at even intervals. At intervals
//! below the 10 us of a spin a post costs the producer 0.3 us and its task runs after 0.6 us. With
//! a loop that sleeps these are 1 to 2 us and 3.5 to 8 us. The sleeping loop is then busy a third
//! of the time, this one all of the time. From twice that interval on there is no difference.
//! With wake-ups of 33 us, a round trip between two loops takes 0.8 us instead of 56.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::event_loop::timers::clock::nanos;

/// The shortest spin of an adaptive loop, and its spin before a wake-up has been measured.
const MIN_SPIN: Duration = Duration::from_micros(10);

/// The longest spin of an adaptive loop. A wake-up that takes more than half of it has waited for
/// other threads that need the processor.
const MAX_SPIN: Duration = Duration::from_micros(100);

/// The weight of a new measurement in the average of the wake-ups is one in so many.
const WEIGHT: u32 = 8;

/// The largest number of waits without a spin before spinning is tried again.
const MAX_SKIPPED: u32 = 1023;

/// A spin of this length has waited for other threads that need the processor. Interrupts take up
/// to 100 us on a virtual machine.
const TOO_LONG: Duration = Duration::from_micros(200);

/// After this many spins in a row that have found work later than after the first yield, the loop
/// stops yielding. A few can have another cause, such as an interrupt, and a spin without yields
/// on a shared processor delays the producers by its whole length.
const LATE_SPINS: u32 = 8;

/// The time that a wait may lose on average by such spins. A yield that finds work in time gains
/// about 1 us.
const YIELD_LOSS: Duration = Duration::from_nanos(50);

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
    /// The average time of a wake-up.
    wake_up: Cell<Duration>,
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
    /// Whether the next spin yields the processor.
    yields: Cell<bool>,
    /// How many spins in a row have found work later than after the first yield.
    late_spins: Cell<u32>,
    /// How many waits must not yield.
    yield_skips_left: Cell<u32>,
}

/// When another thread has begun to wake the loop. Producers write it, so it has cache lines of its
/// own.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct WakeTime {
    created: Instant,
    /// Nanoseconds since the creation. Zero if no wake-up is to be measured.
    nanos: AtomicU64,
}

impl WakeTime {
    pub(super) fn new() -> WakeTime {
        WakeTime { created: Instant::now(), nanos: AtomicU64::new(0) }
    }

    /// On the thread that wakes the loop, before it does.
    pub(super) fn set(&self) {
        self.nanos.store(nanos(self.created.elapsed()), Relaxed);
    }

    /// On the loop's thread, before it announces a sleep. What is left from before was set when the
    /// loop did not sleep any more.
    pub(super) fn clear(&self) {
        if self.nanos.load(Relaxed) != 0 {
            self.nanos.store(0, Relaxed);
        }
    }

    /// On the loop's thread, after a sleep: how long the wake-up has taken, if another thread has
    /// ended the sleep.
    pub(super) fn take_elapsed(&self) -> Option<Duration> {
        // The eventfd orders the store before this load.
        let set = self.nanos.load(Relaxed);
        (set != 0).then(|| {
            self.nanos.store(0, Relaxed);
            self.created.elapsed().saturating_sub(Duration::from_nanos(set))
        })
    }
}

/// A spin that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spun {
    /// Whether it has found work.
    pub(super) found: bool,
    /// How many times it has yielded the processor.
    pub(super) yields: usize,
    pub(super) lasted: Duration,
}

impl Spin {
    /// `capacity` is that of the queue.
    pub(super) fn new(fixed: Option<Duration>, capacity: usize) -> Spin {
        Spin {
            fixed,
            wake_up: Cell::new(MIN_SPIN / 2),
            near_capacity: capacity / 4,
            was_posted: Cell::new(false),
            last_burst: Cell::new(None),
            back_off: Cell::new(0),
            skips_left: Cell::new(0),
            yields: Cell::new(false),
            late_spins: Cell::new(0),
            yield_skips_left: Cell::new(0),
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

    /// Records how long a wake-up has taken.
    pub(super) fn record_wake_up(&self, taken: Duration) {
        let average = self.wake_up.get();
        self.wake_up.set(average - average / WEIGHT + taken.min(MAX_SPIN / 2) / WEIGHT);
    }

    /// How long to spin before this sleep.
    ///
    /// An adaptive loop spins only if other threads have posted in the last turn: events from
    /// outside the process arrive independently of the loop.
    pub(super) fn duration(&self) -> Duration {
        self.yield_skips_left.set(self.yield_skips_left.get().saturating_sub(1));
        match self.fixed {
            Some(fixed) => fixed,
            None if !self.was_posted.get() => Duration::ZERO,
            None if self.skips_left.get() == 0 => (2 * self.wake_up.get()).max(MIN_SPIN),
            None => {
                self.skips_left.set(self.skips_left.get() - 1);
                Duration::ZERO
            }
        }
    }

    /// Whether the spin yields the processor between two checks.
    pub(super) fn yields(&self) -> bool {
        self.yields.get()
    }

    /// Records a spin.
    pub(super) fn record(&self, spun: Spun) {
        let Spun { found, yields, lasted } = spun;
        if yields > 0 && lasted > TOO_LONG {
            let waits = lasted.as_nanos() / YIELD_LOSS.as_nanos();
            self.yield_skips_left.set(waits.try_into().unwrap_or(u32::MAX));
        }
        let may_yield = self.yield_skips_left.get() == 0 && self.fixed.is_none();
        let is_late = found && yields > 1;
        self.late_spins.set(if is_late { self.late_spins.get() + 1 } else { 0 });
        let is_better = if found { yields > 0 && self.late_spins.get() < LATE_SPINS } else { yields == 0 };
        self.yields.set(may_yield && is_better);
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

    const NOTHING: Spun = Spun { found: false, yields: 0, lasted: MIN_SPIN };
    const WORK: Spun = Spun { found: true, ..NOTHING };

    /// Counts the spins in `waits` waits, all of which end the same.
    fn spins(spin: &Spin, waits: u32, spun: Spun) -> u32 {
        (0..waits)
            .filter(|_| {
                spin.record_posted(1);
                let spins = !spin.duration().is_zero();
                if spins {
                    spin.record(spun);
                }
                spins
            })
            .count()
            .try_into()
            .expect("no more than the waits")
    }

    #[test]
    fn a_loop_spins_before_every_wait_while_it_finds_work() {
        assert_eq!(spins(&Spin::new(None, usize::MAX), 100, WORK), 100);
    }

    #[test]
    fn fruitless_spins_back_off_until_one_finds_work() {
        let spin = Spin::new(None, usize::MAX);
        assert_eq!(spins(&spin, 1023, NOTHING), 10);
        let waits = 100 * (MAX_SKIPPED + 1);
        assert!((100..=101).contains(&spins(&spin, waits, NOTHING)));
        // The remaining waits of the back-off are skipped, then every spin finds work.
        assert!(spins(&spin, 2 * MAX_SKIPPED, WORK) >= MAX_SKIPPED);
        // By then the back-off starts from zero again.
        assert_eq!(spins(&spin, 1023, NOTHING), 10);
    }

    #[test]
    fn a_spin_lasts_two_wake_ups_within_its_limits() {
        let spin = Spin::new(None, usize::MAX);
        spin.record_posted(1);
        assert_eq!(spin.duration(), MIN_SPIN);
        for (taken, lasts) in [(30, 60), (1, 10), (50, 100), (100_000, 100)] {
            for _ in 0..100 {
                spin.record_wake_up(Duration::from_micros(taken));
            }
            let difference = spin.duration().abs_diff(Duration::from_micros(lasts));
            assert!(difference < Duration::from_micros(1), "{taken} us");
        }
    }

    #[test]
    fn one_slow_wake_up_prolongs_spins_by_an_eighth_of_the_limit() {
        let spin = Spin::new(None, usize::MAX);
        spin.record_posted(1);
        spin.record_wake_up(Duration::MAX);
        assert!(spin.duration() <= MIN_SPIN + MAX_SPIN / WEIGHT);
    }

    #[test]
    fn a_wake_up_is_measured_once() {
        let wake_time = WakeTime::new();
        assert_eq!(wake_time.take_elapsed(), None);
        wake_time.set();
        assert!(wake_time.take_elapsed().is_some());
        assert_eq!(wake_time.take_elapsed(), None);
        wake_time.set();
        wake_time.clear();
        assert_eq!(wake_time.take_elapsed(), None);
    }

    #[test]
    fn a_loop_yields_until_work_comes_late_repeatedly() {
        let spin = Spin::new(None, usize::MAX);
        assert!(!spin.yields());
        spin.record(NOTHING);
        for _ in 0..10 {
            assert!(spin.yields());
            spin.record(Spun { yields: 1, ..WORK });
        }
        for late in 1..=LATE_SPINS {
            assert!(spin.yields(), "{late}");
            spin.record(Spun { yields: 2, ..WORK });
        }
        assert!(!spin.yields());
        spin.record(NOTHING);
        assert!(spin.yields());
        spin.record(Spun { yields: 50, ..NOTHING });
        assert!(!spin.yields());
    }

    #[test]
    fn a_yield_that_lasts_too_long_is_not_repeated_soon() {
        for found in [true, false] {
            let spin = Spin::new(None, usize::MAX);
            spin.record(NOTHING);
            let waits = 5000;
            assert!(waits * YIELD_LOSS > TOO_LONG);
            spin.record(Spun { found, yields: 1, lasted: waits * YIELD_LOSS });
            for _ in 1..waits {
                spin.duration();
                spin.record(NOTHING);
                assert!(!spin.yields());
            }
            spin.duration();
            spin.record(NOTHING);
            assert!(spin.yields());
        }
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
                spin.record(NOTHING);
                assert!(!spin.yields());
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
        for fixed in [Duration::ZERO, MIN_SPIN] {
            let configured = Spin::new(Some(fixed), 100);
            configured.record_posted(BURST);
            assert_eq!(configured.next_batch_at(), None);
        }
    }
}
