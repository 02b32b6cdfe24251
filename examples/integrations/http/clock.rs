//! The field Date, which is formatted once a second.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// The length of a date in a field.
pub(crate) const DATE_LENGTH: usize = 29;

/// The wall clock of a loop, to a second.
pub(crate) struct Clock {
    date: Cell<[u8; DATE_LENGTH]>,
    time: Cell<SystemTime>,
    /// When the next second begins.
    next: Cell<Instant>,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Clock {
        let time = Cell::new(SystemTime::UNIX_EPOCH);
        Clock { date: Cell::new([0; DATE_LENGTH]), time, next: Cell::new(now) }
    }

    /// Returns the date, and the time that it is of. `now` is the time of the loop.
    pub(crate) fn read(&self, now: Instant) -> ([u8; DATE_LENGTH], SystemTime) {
        if now >= self.next.get() {
            let time = SystemTime::now();
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let rest = Duration::from_nanos(u64::from(since.subsec_nanos()));
            self.next.set(now + (Duration::from_secs(1) - rest));
            self.time.set(time);
            let text = httpdate::fmt_http_date(time);
            self.date.set(text.as_bytes().try_into().expect("dates have one length"));
        }
        (self.date.get(), self.time.get())
    }
}
