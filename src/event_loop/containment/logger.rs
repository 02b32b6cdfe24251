//! The program's logger, as this crate calls it.
//!
//! A logger is the user's code. It may call into this crate, so a line is logged when nothing is borrowed or locked and when
//! all is done that belongs together; and it may panic, which ends here.
//!
//! What a peer can bring about again and again would fill the log. Such lines have a kind, and of one kind a thread logs one a
//! second, with the number of those that it has left out since.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::dispose;

/// How far apart two lines of a kind are at least.
const APART: Duration = Duration::from_secs(1);

thread_local! {
    /// Where a thread with a loop has its time from, so that a loop with a clock of its own goes by that.
    static CLOCK: Cell<fn() -> Instant> = const { Cell::new(Instant::now) };
    static KINDS: RefCell<Vec<Kind>> = const { RefCell::new(Vec::new()) };
}

struct Kind {
    name: &'static str,
    last: Instant,
    left_out: u64,
}

/// Has this thread take the time for [`recurring`] lines from `clock`.
pub(crate) fn set_clock(clock: fn() -> Instant) {
    CLOCK.set(clock);
}

/// Calls the logger: `line` is a call of one of the macros of `log`.
pub(crate) fn call(line: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(line)) {
        dispose(payload);
    }
}

/// As [`call`], for a line that a peer, or a shortage, can cause without end: of each kind one a second on this thread. What
/// `line` is given is to be at the end of its text.
pub(crate) fn recurring(kind: &'static str, line: impl FnOnce(Suppressed)) {
    let now = CLOCK.get()();
    // At the end of a thread the kinds may have gone before the last line.
    let due = KINDS.try_with(|kinds| due(&mut kinds.borrow_mut(), kind, now)).unwrap_or(Some(Suppressed(0)));
    if let Some(left_out) = due {
        call(|| line(left_out));
    }
}

/// Whether a line is to be logged now, and how many before it were not.
fn due(kinds: &mut Vec<Kind>, name: &'static str, now: Instant) -> Option<Suppressed> {
    let Some(kind) = kinds.iter_mut().find(|kind| kind.name == name) else {
        kinds.push(Kind { name, last: now, left_out: 0 });
        return Some(Suppressed(0));
    };
    // A moment before the last is of another clock: that of a loop which this thread had before.
    if now.checked_duration_since(kind.last).is_some_and(|apart| apart < APART) {
        kind.left_out += 1;
        return None;
    }
    kind.last = now;
    Some(Suppressed(std::mem::take(&mut kind.left_out)))
}

/// How many lines of a kind were left out before this one. Shown only if there were any.
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
    fn of_each_kind_one_line_a_second_is_due_with_the_number_of_the_others() {
        let mut kinds = Vec::new();
        let begin = Instant::now();
        let mut left_out = |name, milliseconds| {
            let at = begin + Duration::from_millis(milliseconds);
            due(&mut kinds, name, at).map(|left_out| left_out.0)
        };
        assert_eq!(left_out("one", 0), Some(0));
        assert_eq!(left_out("other", 1), Some(0));
        (2..999).for_each(|n| assert_eq!(left_out("one", n), None));
        assert_eq!(left_out("other", 1000), None);
        assert_eq!(left_out("one", 1000), Some(997));
        assert_eq!(left_out("one", 1999), None);
        assert_eq!(left_out("other", 1001), Some(1));
        assert_eq!(left_out("one", 90_000), Some(1));
        assert_eq!(left_out("one", 91_000), Some(0));
    }

    #[test]
    fn a_clock_that_begins_anew_does_not_silence_a_kind() {
        let mut kinds = Vec::new();
        let begin = Instant::now();
        assert!(due(&mut kinds, "one", begin + Duration::from_secs(3600)).is_some());
        assert!(due(&mut kinds, "one", begin).is_some());
        assert!(due(&mut kinds, "one", begin).is_none());
    }

    #[test]
    fn a_panic_in_a_logger_ends_there() {
        call(|| panic!("as a logger might"));
        recurring("a kind that panics", |_| panic!("as a logger might"));
    }
}
