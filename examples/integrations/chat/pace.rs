//! Limits how fast a guest may write: what one guest writes, all others of the room must read.

use std::time::{Duration, Instant};

/// The bytes that a guest may write at once, after a pause.
const BURST: f64 = 64.0 * 1024.0;

/// The bytes that a guest may write in a second.
const RATE: f64 = 32.0 * 1024.0;

/// What a line costs in addition to its bytes.
const PER_LINE: f64 = 64.0;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The bytes that may be written now; negative while the guest has to wait.
    available: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace { available: BURST, at: now }
    }

    /// Counts a line. Returns how long the guest is not read, if the line exceeds the limit.
    pub(crate) fn count(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.available = (self.available + since * RATE).min(BURST) - bytes as f64 - PER_LINE;
        self.at = now;
        (self.available < 0.0).then(|| Duration::from_secs_f64(-self.available / RATE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_applies() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let line = 1024 - PER_LINE as usize;
        for _ in 0..64 {
            assert_eq!(pace.count(line, start), None);
        }
        assert_eq!(pace.count(line, start), Some(Duration::from_secs_f64(1.0 / 32.0)));
        // After this wait nothing is owed, and nothing is left.
        let later = start + Duration::from_secs_f64(1.0 / 32.0);
        assert!(pace.count(line, later).is_some());
    }

    #[test]
    fn a_pause_restores_no_more_than_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.count(60 << 10, start), None);
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.count((BURST - PER_LINE) as usize, later), None);
        assert!(pace.count(1, later).is_some());
    }

    #[test]
    fn empty_lines_cost_something() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let free = (0..2000).take_while(|_| pace.count(0, start).is_none()).count();
        assert_eq!(free, (BURST / PER_LINE) as usize);
    }
}
