//! Delays in the buckets that the page and the text for Prometheus show.

use std::time::Duration;

use crate::event_loop::observation::metrics::Delays;

/// The longest delay of each bucket, in seconds. One more bucket has all longer delays.
pub(super) const BOUNDS: [f64; 17] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// A histogram of delays.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct DelayCounts {
    pub(super) counts: [u64; BOUNDS.len() + 1],
    /// In seconds.
    pub(super) sum: f64,
    pub(super) longest: Duration,
}

impl DelayCounts {
    pub(super) fn add(&mut self, delay: Duration) {
        self.add_times(delay, 1);
    }

    fn add_times(&mut self, delay: Duration, times: u64) {
        let seconds = delay.as_secs_f64();
        self.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += times;
        self.sum += seconds * times as f64;
        self.longest = self.longest.max(delay);
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound of the bucket that contains this fraction of the delays, or the longest delay if
    /// that is shorter. `None` if there are no delays.
    pub(super) fn quantile(&self, fraction: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * fraction).ceil().max(1.0) as u64;
        let mut passed = 0;
        let bucket = self.counts.iter().position(|count| {
            passed += count;
            passed >= wanted
        })?;
        let bound = BOUNDS.get(bucket).map_or(self.longest, |bound| Duration::from_secs_f64(*bound));
        Some(bound.min(self.longest))
    }
}

impl From<&Delays> for DelayCounts {
    /// Each delay counts as the longest one of its bucket in `delays`, which is up to a sixteenth
    /// longer than it was.
    fn from(delays: &Delays) -> DelayCounts {
        let mut counts = DelayCounts::default();
        delays.buckets().for_each(|(delay, times)| counts.add_times(delay, times));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_in_the_first_bucket_that_is_not_shorter() {
        let mut counts = DelayCounts::default();
        for micros in [0, 10, 11, 25, 26, 2_500_000, 2_500_001, 9_000_000] {
            counts.add(Duration::from_micros(micros));
        }
        let mut expected = [0; BOUNDS.len() + 1];
        (expected[0], expected[1], expected[2]) = (2, 2, 1);
        (expected[BOUNDS.len() - 1], expected[BOUNDS.len()]) = (1, 2);
        assert_eq!(counts.counts, expected);
        assert!((counts.sum - 14.000073).abs() < 1e-9, "{}", counts.sum);
    }

    #[test]
    fn quantiles_are_bounds_up_to_the_longest_delay() {
        let mut counts = DelayCounts::default();
        assert_eq!(counts.quantile(0.5), None);
        for _ in 0..99 {
            counts.add(Duration::from_micros(20));
        }
        counts.add(Duration::from_secs(7));
        assert_eq!(counts.quantile(0.0), Some(Duration::from_micros(25)));
        assert_eq!(counts.quantile(0.99), Some(Duration::from_micros(25)));
        assert_eq!(counts.quantile(1.0), Some(Duration::from_secs(7)));
        let mut short = DelayCounts::default();
        short.add(Duration::from_micros(3));
        assert_eq!(short.quantile(0.5), Some(Duration::from_micros(3)));
    }
}
