//! The input of all contenders: the same deadlines, and the same order of cancelling.

use std::time::Duration;

/// A timer to be added: two words, which its callback captures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timer {
    /// The deadline, in nanoseconds after the beginning.
    pub(super) offset: u64,
    pub(super) number: u64,
}

/// Returns `count` timers with random deadlines within the span. The result is the same for each
/// call.
pub(super) fn timers(count: usize, span: Duration) -> Vec<Timer> {
    let span = span.as_nanos() as u64;
    let mut random = Random::new(0);
    (0..count as u64).map(|number| Timer { offset: random.below(span), number }).collect()
}

/// A pseudo-random sequence by splitmix64 (Steele, Lea and Flood: "Fast splittable pseudorandom
/// number generators", 2014). Equal seeds give equal sequences.
#[derive(Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number less than `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Brings things into an order of which nothing is known.
    pub(super) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// Makes of each number another, and of similar ones different ones.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timers_are_the_same_each_time_and_within_the_span() {
        let span = Duration::from_secs(10);
        let all = timers(1000, span);
        assert_eq!(all, timers(1000, span));
        assert!(all.iter().all(|timer| timer.offset < 10_000_000_000));
        // A thousand in ten seconds, of which about a half lie in the first five.
        let early = all.iter().filter(|timer| timer.offset < 5_000_000_000).count();
        assert!((400..600).contains(&early), "{early} in the first half");
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut numbers: Vec<u32> = (0..1000).collect();
        Random::new(1).shuffle(&mut numbers);
        assert!(!numbers.is_sorted());
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..1000));
    }
}
