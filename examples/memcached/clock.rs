//! The time in seconds, and expiry times.

use std::time::{Duration, Instant};

/// An expiry time up to this number of seconds is relative; a larger one is absolute.
const LONGEST_RELATIVE: i64 = 30 * 24 * 3600;

/// A second that has passed. 0 stands for an item that does not expire.
const PAST: u32 = 1;

/// Counts seconds from the start of the server, beginning with 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// Second 0 in Unix time.
    zero: i64,
}

impl Clock {
    /// Creates a clock that was started at `started`, which is `unix` since the Unix epoch.
    pub(crate) fn new(started: Instant, unix: Duration) -> Clock {
        Clock { started, zero: unix.as_secs() as i64 - i64::from(PAST) - 1 }
    }

    pub(crate) fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_secs() as u32 + PAST + 1
    }

    /// The Unix time of a second.
    pub(crate) fn unix(&self, second: u32) -> i64 {
        self.zero + i64::from(second)
    }

    /// The second from which an item with this expiry time has expired; 0 if it does not expire. A
    /// negative time has passed.
    pub(crate) fn expiry(&self, now: u32, time: i64) -> u32 {
        match time {
            0 => 0,
            1..=LONGEST_RELATIVE => now.saturating_add(time as u32),
            _ => (time - self.zero).clamp(PAST.into(), u32::MAX.into()) as u32,
        }
    }
}
