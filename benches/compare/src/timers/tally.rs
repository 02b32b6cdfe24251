//! The work of the callbacks: read the clock, record the lateness, and increment a counter.
//!
//! The lateness goes to a table in the order of the calls, so that it costs every contender the
//! same. That each timer fired once is checked by their number and by a sum over their words, which
//! no other set of timers is likely to have.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::workload::{Timer, mix};
use crate::Result;

/// The timers that have fired on this thread since [`expect`].
#[derive(Debug)]
struct Tally {
    beginning: Instant,
    expected: usize,
    /// In nanoseconds.
    lateness: Vec<u64>,
    early: usize,
    sum: u64,
}

thread_local! {
    static TALLY: RefCell<Option<Tally>> = const { RefCell::new(None) };
}

/// Starts a count of timers whose offsets refer to `beginning`.
pub(super) fn expect(count: usize, beginning: Instant) {
    // Written now, so that no contender pays for the page faults of the table.
    let mut lateness = vec![1; count];
    lateness.clear();
    TALLY.set(Some(Tally { beginning, expected: count, lateness, early: 0, sum: 0 }));
}

/// The callback. Returns whether this was the last expected timer.
#[inline]
pub(super) fn fired(timer: Timer) -> bool {
    TALLY.with_borrow_mut(|tally| {
        let Some(tally) = tally else { return true };
        let deadline = tally.beginning + Duration::from_nanos(timer.offset);
        let now = Instant::now();
        tally.early += usize::from(now < deadline);
        tally.lateness.push(now.saturating_duration_since(deadline).as_nanos() as u64);
        tally.sum = tally.sum.wrapping_add(word(timer));
        tally.lateness.len() == tally.expected
    })
}

/// Whether all expected timers have fired.
pub(super) fn all_fired() -> bool {
    TALLY.with_borrow(|tally| tally.as_ref().is_none_or(|tally| tally.lateness.len() >= tally.expected))
}

/// Ends the count. Checks that the timers that fired are `timers`. Returns the lateness of each in
/// nanoseconds, in no particular order.
pub(super) fn result(timers: &[Timer]) -> Result<Vec<u64>> {
    let Tally { lateness, early, sum, .. } = TALLY.take().ok_or("nothing was counted")?;
    if lateness.len() != timers.len() {
        return Err(format!("{} timers fired of {}", lateness.len(), timers.len()).into());
    }
    if sum != timers.iter().fold(0, |sum, timer| sum.wrapping_add(word(*timer))) {
        return Err("the timers that fired are not those that were added".into());
    }
    if early > 0 {
        return Err(format!("{early} timers fired before their deadlines").into());
    }
    Ok(lateness)
}

/// Combines the two words of a timer into one that is practically unique.
fn word(timer: Timer) -> u64 {
    mix(timer.offset ^ timer.number.rotate_left(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Timer = Timer { offset: 0, number: 0 };
    const SECOND: Timer = Timer { offset: 0, number: 1 };

    fn count(fire: &[Timer], beginning: Instant) -> Result<Vec<u64>> {
        expect(2, beginning);
        for timer in fire {
            fired(*timer);
        }
        result(&[FIRST, SECOND])
    }

    #[test]
    fn timers_count_if_each_fires_once_and_not_early() {
        let now = Instant::now();
        assert!(count(&[SECOND, FIRST], now).is_ok());
        assert!(count(&[FIRST], now).is_err());
        assert!(count(&[FIRST, FIRST], now).is_err());
        assert!(count(&[FIRST, SECOND, SECOND], now).is_err());
        assert!(count(&[FIRST, SECOND], now + Duration::from_secs(60)).is_err());
    }
}
