//! `Backoff`: the delays between retries. Uses no clock: delays are numbers, and the random number
//! is a parameter.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The shortest delay, so that a client with a zero delay does not keep its loop and its server
/// busy.
const MIN_DELAY: Duration = Duration::from_millis(1);

/// The retry policy of a client: exponential back-off with jitter. The delay doubles with each
/// retry, up to a cap.
///
/// Each delay is drawn at random from the upper half of its range: between 50 and 100 ms for a
/// start of 100 ms. So clients that have lost their server at the same moment do not all reconnect
/// at the same moment. The random numbers come from the seeds of the standard library's hash maps;
/// they are not suitable for cryptography.
///
/// ```
/// use reveille::net::Backoff;
/// use std::time::Duration;
///
/// // Retries after at most 100, 200, 400 and 500 ms, then reports the failure.
/// let backoff = Backoff::new()
///     .start(Duration::from_millis(100))
///     .cap(Duration::from_millis(500))
///     .max_retries(4);
/// # let _ = backoff;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a back-off has no effect until it is passed to `TcpClientBuilder::retry`"]
pub struct Backoff {
    start: Duration,
    cap: Duration,
    max_retries: Option<u32>,
}

impl Backoff {
    /// Delays from 100 ms up to 30 s, with no limit on the number of retries.
    pub const fn new() -> Backoff {
        Backoff { start: Duration::from_millis(100), cap: Duration::from_secs(30), max_retries: None }
    }

    /// The upper bound of the first delay. Default: 100 ms. At least 1 ms.
    pub fn start(mut self, delay: Duration) -> Backoff {
        self.start = delay.max(MIN_DELAY);
        self
    }

    /// The upper bound of all delays. Default: 30 s. A cap below the start also limits the start.
    pub fn cap(mut self, delay: Duration) -> Backoff {
        self.cap = delay.max(MIN_DELAY);
        self
    }

    /// The maximum number of retries after the first failed round. Default: no limit. With 0
    /// there is none.
    pub fn max_retries(mut self, retries: u32) -> Backoff {
        self.max_retries = Some(retries);
        self
    }

    /// Whether another retry is allowed after `retries` retries.
    pub(in crate::net) fn allows(&self, retries: u32) -> bool {
        self.max_retries.is_none_or(|max| retries < max)
    }

    /// The duration of a session after which the server counts as healthy and the delays restart.
    pub(in crate::net) fn reset_after(&self) -> Duration {
        self.cap
    }

    /// The delay after `earlier` delays in a row. `random` selects a value in the upper half of its
    /// range.
    pub(in crate::net) fn delay(&self, earlier: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(earlier).unwrap_or(u32::MAX);
        let longest = self.start.saturating_mul(factor).min(self.cap);
        let half = longest / 2;
        let fraction = random as f64 / u64::MAX as f64;
        // Rounding must not exceed the cap.
        (half + (longest - half).mul_f64(fraction)).min(longest)
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

/// A random number: each `RandomState` has its own keys, so the hash of the empty input differs.
pub(in crate::net) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
