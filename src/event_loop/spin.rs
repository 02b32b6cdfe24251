//! How long the loop stays awake, or away from the queue, in the hope of more tasks from other threads.
//!
//! A sleep that is ended at once is dear: it costs whoever posts a system call, and with a processor for each side several
//! microseconds until the loop runs. A look that finds nothing is dear too, as it keeps a processor busy. Which of the two it will be
//! is judged by what it was: while looking finds something the loop goes on with it, and with each time that it does not the loop
//! sleeps through twice as many occasions before it tries again. So where nobody answers soon, or there is no processor to answer on,
//! the price of looking in vain falls to nothing.
//!
//! Measured on two processors, by posts at even distances: nearer than [`MOMENT`] each costs the other side 0.3 us and is run after
//! 0.6, instead of 1 to 2 us and 3.5 to 8 with a loop that sleeps; that loop is busy for a third of the time then, and this one for
//! all of it. From twice that distance on there is no difference.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a loop looks for work that judges for itself: about what it costs both sides, at the most, to end a sleep, and long enough
/// to see the answer of a loop that has to be woken for it.
const MOMENT: Duration = Duration::from_micros(10);

/// The most occasions that are slept through before looking is tried again.
const LONGEST_PAUSE: u32 = 1023;

/// So many tasks in one batch are a flood: where they come from there are more.
const FLOOD: usize = 16;

/// In a flood, the least time between two batches. Loop and producers meet at the mutex at each take, and that costs them more than
/// the tasks: with a take every 20 tasks or so, as it comes by itself, two threads did 14 million tasks a second, and 24 to 36 with
/// this; with 3 us they did 20 to 27.
const BETWEEN_TAKES: Duration = Duration::from_micros(8);

/// What the loop has learned of those who post to it.
#[derive(Debug)]
pub(super) struct Patience {
    /// How long to look for work before each sleep, if the user has said so.
    fixed: Option<Duration>,
    /// With a batch as long as this the queue may be full before the next.
    crowded: usize,
    /// Whether the last turn has had anything from other threads.
    was_posted: Cell<bool>,
    /// When the last batch was taken, if it was part of a flood.
    flood: Cell<Option<Instant>>,
    /// How many occasions to sleep through after the next look in vain.
    pause: Cell<u32>,
    /// How many are left of those to sleep through.
    left: Cell<u32>,
}

impl Patience {
    /// `capacity` is that of the queue.
    pub(super) fn new(fixed: Option<Duration>, capacity: usize) -> Patience {
        Patience {
            fixed,
            crowded: capacity / 4,
            was_posted: Cell::new(false),
            flood: Cell::new(None),
            pause: Cell::new(0),
            left: Cell::new(0),
        }
    }

    /// Whether the user has asked for a loop that does not wait where it need not.
    pub(super) fn is_eager(&self) -> bool {
        self.fixed.is_some_and(|fixed| !fixed.is_zero())
    }

    /// So much has been taken from the queue.
    pub(super) fn note_posted(&self, posted: usize) {
        self.was_posted.set(posted > 0);
        let is_flood = posted >= FLOOD && posted < self.crowded && self.fixed.is_none();
        self.flood.set(is_flood.then(Instant::now));
    }

    /// When to take the next batch, if not at once.
    pub(super) fn next_take(&self) -> Option<Instant> {
        self.flood.get().map(|taken| taken + BETWEEN_TAKES)
    }

    /// How long to look for work before this sleep.
    ///
    /// A loop that judges for itself does so only when other threads have just posted something: what comes from outside the
    /// process comes in its own time.
    pub(super) fn before_sleep(&self) -> Duration {
        match self.fixed {
            Some(fixed) => fixed,
            None if !self.was_posted.get() => Duration::ZERO,
            None if self.left.get() == 0 => MOMENT,
            None => {
                self.left.set(self.left.get() - 1);
                Duration::ZERO
            }
        }
    }

    /// What has come of that look.
    pub(super) fn learn(&self, found: bool) {
        if found {
            self.pause.set(self.pause.get() / 2);
        } else {
            self.left.set(self.pause.get());
            self.pause.set((2 * self.pause.get() + 1).min(LONGEST_PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the looks of a loop that finds something, or nothing, at each.
    fn looks(patience: &Patience, occasions: u32, found: bool) -> u32 {
        (0..occasions)
            .filter(|_| {
                patience.note_posted(1);
                let looks = !patience.before_sleep().is_zero();
                if looks {
                    patience.learn(found);
                }
                looks
            })
            .count()
            .try_into()
            .expect("no more than the occasions")
    }

    #[test]
    fn a_loop_that_finds_something_goes_on_looking() {
        assert_eq!(looks(&Patience::new(None, usize::MAX), 100, true), 100);
    }

    #[test]
    fn looks_in_vain_grow_rare_until_something_is_found() {
        let patience = Patience::new(None, usize::MAX);
        assert_eq!(looks(&patience, 1023, false), 10);
        let occasions = 100 * (LONGEST_PAUSE + 1);
        assert!((100..=101).contains(&looks(&patience, occasions, false)));
        // The rest of the pause is slept through, then it goes on finding.
        assert!(looks(&patience, 2 * LONGEST_PAUSE, true) >= LONGEST_PAUSE);
        // What was learned before is forgotten by then.
        assert_eq!(looks(&patience, 1023, false), 10);
    }

    #[test]
    fn nobody_is_expected_when_nobody_has_posted() {
        let patience = Patience::new(None, usize::MAX);
        assert_eq!(patience.before_sleep(), Duration::ZERO);
        patience.note_posted(0);
        assert_eq!(patience.before_sleep(), Duration::ZERO);
    }

    #[test]
    fn what_the_user_says_is_done() {
        for fixed in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
            let patience = Patience::new(Some(fixed), usize::MAX);
            for _ in 0..10 {
                assert_eq!(patience.before_sleep(), fixed);
                patience.learn(false);
            }
        }
    }

    #[test]
    fn a_flood_is_taken_less_often_unless_the_queue_fills_up_meanwhile() {
        let patience = Patience::new(None, 100);
        for (posted, is_flood) in [(0, false), (15, false), (16, true), (24, true), (25, false)] {
            patience.note_posted(posted);
            assert_eq!(patience.next_take().is_some(), is_flood, "{posted} tasks");
        }
        for fixed in [Duration::ZERO, MOMENT] {
            let told = Patience::new(Some(fixed), 100);
            told.note_posted(FLOOD);
            assert_eq!(told.next_take(), None);
        }
    }
}
