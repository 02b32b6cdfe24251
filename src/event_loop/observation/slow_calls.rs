//! The callbacks of a loop that take long, for an inspector on another thread.
//!
//! The loop numbers its callbacks, which costs it a few instructions for each. The inspector looks
//! at the number from time to time, and marks the callback that runs. When a marked callback has
//! returned, the loop describes it. So few callbacks are described, unlike those of a
//! [`Pulse`](super::pulse::Pulse), which are described before they run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

/// The number of descriptions that are kept until the inspector takes them.
const MAX_ENDED: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct SlowCalls {
    /// Changes when an outermost callback begins and when it ends. Odd while one runs. Only the
    /// loop's thread changes it.
    beat: AtomicU64,
    /// The callback to be described. Zero at first, which is the number of no callback.
    marked: AtomicU64,
    ended: Mutex<Vec<EndedCall>>,
}

/// A marked callback that has returned.
#[derive(Clone, Debug)]
pub(crate) struct EndedCall {
    pub(crate) beat: u64,
    /// What was called, without the object: the same for all connections with one handler.
    pub(crate) name: String,
    /// The object, such as a connection with its peer.
    pub(crate) object: String,
    pub(crate) at: Instant,
}

impl SlowCalls {
    /// The loop calls a callback. Returns its number, or `None` if it is inside another one.
    #[inline]
    pub(super) fn begin(&self) -> Option<u64> {
        let beat = self.beat.load(Relaxed);
        if beat % 2 == 1 {
            return None;
        }
        self.beat.store(beat + 1, Relaxed);
        Some(beat + 1)
    }

    /// The callback has returned. Returns whether it is to be [recorded](SlowCalls::record).
    #[inline]
    pub(super) fn end(&self, beat: u64) -> bool {
        self.beat.store(beat + 1, Relaxed);
        self.marked.load(Relaxed) == beat
    }

    #[cold]
    pub(super) fn record(&self, ended: EndedCall) {
        let mut all = self.ended.lock();
        if all.len() < MAX_ENDED {
            all.push(ended);
        }
    }

    /// The number of the callback that runs; `None` between two callbacks.
    pub(crate) fn running(&self) -> Option<u64> {
        Some(self.beat.load(Relaxed)).filter(|beat| beat % 2 == 1)
    }

    /// Makes the loop describe this callback when it returns.
    pub(crate) fn mark(&self, beat: u64) {
        self.marked.store(beat, Relaxed);
    }

    pub(crate) fn take_ended(&self) -> Vec<EndedCall> {
        std::mem::take(&mut *self.ended.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_callback_is_recorded() {
        let calls = SlowCalls::default();
        let first = calls.begin().expect("an outermost callback");
        assert_eq!(calls.running(), Some(first));
        assert!(!calls.end(first));
        let second = calls.begin().expect("an outermost callback");
        calls.mark(first);
        assert!(!calls.end(second), "the mark of an earlier callback");
        let third = calls.begin().expect("an outermost callback");
        calls.mark(third);
        assert_eq!(calls.begin(), None, "a callback inside another one");
        assert!(calls.end(third));
        assert_eq!(calls.running(), None);
    }

    #[test]
    fn a_bounded_number_of_callbacks_is_kept() {
        let calls = SlowCalls::default();
        for beat in 0..2 * MAX_ENDED as u64 {
            let (name, object) = (String::new(), String::new());
            calls.record(EndedCall { beat, name, object, at: Instant::now() });
        }
        assert_eq!(calls.take_ended().len(), MAX_ENDED);
        assert!(calls.take_ended().is_empty());
    }
}
