//! The callback that a loop is running, for a watchdog on another thread.
//!
//! The loop numbers its callbacks. A watchdog reads only this number, until the number has stayed
//! the same for so long that the callback is to be reported. Only then it takes the lock of the
//! description. The loop holds that lock while it stores the description, never while user code
//! runs.

use std::fmt;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use parking_lot::Mutex;

use crate::event_loop::source::Description;

/// The number of a loop that has ended.
const ENDED: u64 = u64::MAX;

/// The current callback of a loop.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Changes when a callback begins and when it ends. Odd while one runs.
    beat: AtomicU64,
    activity: Mutex<Option<Activity>>,
}

impl Pulse {
    /// The loop calls a callback; an outermost one if `is_outermost`. Returns what was published
    /// before.
    pub(super) fn begin(&self, activity: Activity, is_outermost: bool) -> Option<Activity> {
        let before = self.activity.lock().replace(activity);
        if is_outermost {
            self.advance();
        }
        before
    }

    /// A callback inside another one has returned.
    pub(super) fn resume(&self, outer: Option<Activity>) {
        let inner = std::mem::replace(&mut *self.activity.lock(), outer);
        drop(inner);
    }

    /// The outermost callback has returned.
    pub(super) fn end(&self) {
        self.advance();
    }

    /// Only the loop changes the number. The release precedes the next description, so a reader of
    /// that description sees that this callback has ended.
    fn advance(&self) {
        self.beat.store(self.beat.load(Relaxed) + 1, Release);
    }

    /// The loop has been dropped.
    pub(in crate::event_loop) fn end_loop(&self) {
        self.beat.store(ENDED, Release);
    }

    /// The number of the callback that runs, or of the time between two callbacks.
    pub(crate) fn beat(&self) -> u64 {
        self.beat.load(Acquire)
    }

    pub(crate) fn is_callback(beat: u64) -> bool {
        beat % 2 == 1 && beat != ENDED
    }

    pub(crate) fn is_ended(beat: u64) -> bool {
        beat == ENDED
    }

    /// Describes the callback with this number, if it still runs.
    pub(crate) fn describe(&self, beat: u64) -> Option<String> {
        let activity = self.activity.lock();
        if self.beat() == beat { activity.as_ref().map(Activity::to_string) } else { None }
    }
}

/// A call of user code.
#[derive(Debug)]
pub(in crate::event_loop) struct Activity {
    what: &'static str,
    source: Option<Description>,
    /// The type of the closure, if there is no source.
    name: Option<&'static str>,
}

impl Activity {
    /// A call that belongs to no source.
    pub(in crate::event_loop) fn of(what: &'static str) -> Activity {
        Activity { what, source: None, name: None }
    }

    /// A call of a closure with this type.
    pub(in crate::event_loop) fn named(what: &'static str, name: &'static str) -> Activity {
        Activity { what, source: None, name: Some(name) }
    }

    /// A call of a source's code.
    pub(in crate::event_loop) fn of_source(what: &'static str, source: Description) -> Activity {
        Activity { what, source: Some(source), name: None }
    }
}

impl Activity {
    /// What is called, without the object: the same for all connections with one handler. Then the
    /// object, such as a connection with its peer; empty if there is none.
    #[cfg(feature = "inspector")]
    pub(in crate::event_loop) fn into_texts(self) -> (String, String) {
        let Activity { what, source, name } = self;
        let (kind, object, handler) = match &source {
            Some(source) => (format!(" of {}", source.kind()), source.to_string(), source.handler_type()),
            None => (String::new(), String::new(), None),
        };
        let name = handler.or(name).map_or_else(String::new, |name| format!(" ({name})"));
        (format!("{what}{kind}{name}"), object)
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some(source) = &self.source {
            write!(f, " of {source}")?;
        }
        let handler = self.source.as_ref().and_then(Description::handler_type);
        match handler.or(self.name) {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}
