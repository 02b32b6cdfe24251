//! Spans of time, and waits for near moments, in which the thread stays busy and no loop has a
//! part.

use std::hint;
use std::time::{Duration, Instant};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Longer than a test may take: for timers that are not to fire.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Waits until then.
pub(crate) fn wait_until(instant: Instant) {
    while Instant::now() < instant {
        hint::spin_loop();
    }
}

/// Waits until the clock shows a later time than this.
pub(crate) fn wait_for_tick(since: Instant) {
    while Instant::now() <= since {
        hint::spin_loop();
    }
}
