//! How long to wait before trying again. Knows no clock: the delays are numbers, and the randomness is handed in.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// No delay is shorter, so that a client which is told to wait for nothing does not keep its loop and its server busy.
const SHORTEST: Duration = Duration::from_millis(1);

/// When a client tries again: after a delay that doubles from one time to the next, up to a cap.
///
/// Each delay is drawn at random from the upper half of what it may be: between 50 and 100 ms for a start of 100 ms. So clients
/// that have lost their server in the same moment do not all come back in the same moment. The randomness is that which
/// the standard library seeds its hash maps with; it is not meant for cryptography.
///
/// ```
/// use reveille::Backoff;
/// use std::time::Duration;
///
/// // After at most 100, 200, 400 and 500 ms, and then no more.
/// let backoff = Backoff::new()
///     .start(Duration::from_millis(100))
///     .cap(Duration::from_millis(500))
///     .max_retries(4);
/// # let _ = backoff;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a client is given it"]
pub struct Backoff {
    start: Duration,
    cap: Duration,
    max_retries: Option<u32>,
}

impl Backoff {
    /// From 100 ms up to 30 s, without end.
    pub const fn new() -> Backoff {
        Backoff { start: Duration::from_millis(100), cap: Duration::from_secs(30), max_retries: None }
    }

    /// The longest that the first delay may be. Usually 100 ms; at least 1 ms.
    pub fn start(mut self, delay: Duration) -> Backoff {
        self.start = delay.max(SHORTEST);
        self
    }

    /// The longest that any delay may be. Usually 30 s. One that is shorter than the start shortens that as well.
    pub fn cap(mut self, delay: Duration) -> Backoff {
        self.cap = delay.max(SHORTEST);
        self
    }

    /// How many times to try again when the first time has failed. Usually without end.
    pub fn max_retries(mut self, retries: u32) -> Backoff {
        self.max_retries = Some(retries);
        self
    }

    /// Whether another retry is due after so many.
    pub(in crate::net) fn allows(&self, retries: u32) -> bool {
        self.max_retries.is_none_or(|max| retries < max)
    }

    /// A session that lasts so long shows that the server is well.
    pub(in crate::net) fn settled_after(&self) -> Duration {
        self.cap
    }

    /// The delay that follows `earlier` others in a row. `random` decides where in the upper half of it.
    pub(in crate::net) fn delay(&self, earlier: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(earlier).unwrap_or(u32::MAX);
        let longest = self.start.saturating_mul(factor).min(self.cap);
        let half = longest / 2;
        let fraction = random as f64 / u64::MAX as f64;
        // Rounding is not to take it past the cap.
        (half + (longest - half).mul_f64(fraction)).min(longest)
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

/// Some number: each `RandomState` has keys of its own, and so hashes nothing at all to something else.
pub(in crate::net) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
