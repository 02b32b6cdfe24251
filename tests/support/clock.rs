//! Durations, and busy waits for an instant that do not use a loop.

use std::hint;
use std::time::{Duration, Instant};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Longer than any test takes: for timers that must not fire.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Busy-waits until `instant`.
pub(crate) fn wait_until(instant: Instant) {
    while Instant::now() < instant {
        hint::spin_loop();
    }
}

/// Busy-waits until the clock shows a later time than `since`.
pub(crate) fn wait_for_tick(since: Instant) {
    while Instant::now() <= since {
        hint::spin_loop();
    }
}
