//! Calls to the program's logger.
//!
//! A logger is user code. It may call into this crate, so a line is logged only with nothing
//! borrowed or locked and with all state consistent. It may also panic, which is caught here.
//!
//! A line that a peer can cause repeatedly would fill the log. Such lines have a kind. For each
//! kind a thread logs at most one line a second, with the number of lines suppressed since the last
//! one.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::dispose;

/// The least time between two lines of a kind.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

thread_local! {
    /// The clock of this thread: that of its loop, if there is one, since a loop may have a virtual
    /// clock.
    static CLOCK: Cell<fn() -> Instant> = const { Cell::new(Instant::now) };
    static KINDS: RefCell<Vec<Kind>> = const { RefCell::new(Vec::new()) };
}

struct Kind {
    /// The two parts of its name; the second may be empty.
    name: [&'static str; 2],
    last: Instant,
    suppressed: u64,
}

/// Sets the clock that limits [`recurring`] lines on this thread.
pub(crate) fn set_clock(clock: fn() -> Instant) {
    CLOCK.set(clock);
}

/// Calls the logger: `line` invokes one of the macros of `log`.
pub(crate) fn call(line: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(line)) {
        dispose(payload);
    }
}

/// Same as [`call`], for a line that a peer or a shortage can cause without limit: at most one a
/// second for each kind on this thread. `line` must put its argument at the end of the text.
pub(crate) fn recurring(kind: &'static str, line: impl FnOnce(Suppressed)) {
    recurring_in(kind, "", line);
}

/// Same as [`recurring`], with one limit for each pair of `kind` and `owner`.
pub(crate) fn recurring_in(kind: &'static str, owner: &'static str, line: impl FnOnce(Suppressed)) {
    let now = CLOCK.get()();
    // While a thread exits, the kinds may be destroyed before the last line.
    let due = KINDS
        .try_with(|kinds| due(&mut kinds.borrow_mut(), [kind, owner], now))
        .unwrap_or(Some(Suppressed(0)));
    if let Some(suppressed) = due {
        call(|| line(suppressed));
    }
}

/// The number of suppressed lines, if a line is due now.
fn due(kinds: &mut Vec<Kind>, name: [&'static str; 2], now: Instant) -> Option<Suppressed> {
    let Some(kind) = kinds.iter_mut().find(|kind| kind.name == name) else {
        kinds.push(Kind { name, last: now, suppressed: 0 });
        return Some(Suppressed(0));
    };
    // An instant before the last one belongs to another clock: that of an earlier loop of this
    // thread.
    if now.checked_duration_since(kind.last).is_some_and(|interval| interval < MIN_INTERVAL) {
        kind.suppressed += 1;
        return None;
    }
    kind.last = now;
    Some(Suppressed(std::mem::take(&mut kind.suppressed)))
}

/// How many lines of a kind were suppressed before this one. Displayed only if there were any.
pub(crate) struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} more since the last such line)", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_logs_one_line_a_second() {
        let mut kinds = Vec::new();
        let begin = Instant::now();
        let mut suppressed = |name, milliseconds| {
            let at = begin + Duration::from_millis(milliseconds);
            due(&mut kinds, [name, ""], at).map(|suppressed| suppressed.0)
        };
        assert_eq!(suppressed("one", 0), Some(0));
        assert_eq!(suppressed("other", 1), Some(0));
        (2..999).for_each(|n| assert_eq!(suppressed("one", n), None));
        assert_eq!(suppressed("other", 1000), None);
        assert_eq!(suppressed("one", 1000), Some(997));
        assert_eq!(suppressed("one", 1999), None);
        assert_eq!(suppressed("other", 1001), Some(1));
        assert_eq!(suppressed("one", 90_000), Some(1));
        assert_eq!(suppressed("one", 91_000), Some(0));
    }

    #[test]
    fn a_restarted_clock_does_not_suppress_lines() {
        let mut kinds = Vec::new();
        let begin = Instant::now();
        assert!(due(&mut kinds, ["one", ""], begin + Duration::from_secs(3600)).is_some());
        assert!(due(&mut kinds, ["one", ""], begin).is_some());
        assert!(due(&mut kinds, ["one", ""], begin).is_none());
    }

    #[test]
    fn a_panic_in_a_logger_is_caught() {
        call(|| panic!("as a logger might"));
        recurring("a kind that panics", |_| panic!("as a logger might"));
    }
}
