//! Timers created through a handle.
//!
//! Their callbacks are stored in a table that all threads share under a lock. The loop's queue
//! holds only their keys. An id is therefore valid before the loop has inserted its timer. A
//! callback is taken out of the table either by the loop, to call it, or by a thread that cancels
//! it, never by both. The deadline in the table is the valid one.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::callback::{CallMut, CallOnce};
use super::repeat::Schedule;
use crate::event_loop::containment::Contained;
use crate::event_loop::timers::timer_queue::TimerKey;
use crate::event_loop::trimming::slack::Slack;

type Single = Contained<Box<dyn CallOnce + Send>>;
type Repeated = Contained<Box<dyn CallMut + Send>>;

/// A timer's number, stored in two halves, so that a [`TimerId`](crate::event_loop::TimerId) takes
/// 16 bytes instead of 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::event_loop) struct RemoteKey(u32, u32);

impl RemoteKey {
    fn of(number: u64) -> RemoteKey {
        RemoteKey((number >> 32) as u32, number as u32)
    }

    fn number(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.1)
    }
}

pub(in crate::event_loop) enum Callback {
    Once(Single),
    Every(Repeated, Schedule),
    /// The callback of a repeating timer is running. It is put back afterwards if the timer still
    /// exists.
    Running,
}

pub(in crate::event_loop) struct RemoteTimer {
    callback: Callback,
    /// The deadline, in nanoseconds of the loop's clock. The entry in the loop's queue may have an
    /// earlier one.
    deadline: u64,
    queue_key: Option<TimerKey>,
    /// The timer was moved since its callback was last started. The new deadline then replaces the
    /// next one of the schedule.
    moved: bool,
}

impl RemoteTimer {
    /// The key in the loop's queue, once the loop has inserted the timer.
    pub(in crate::event_loop) fn queue_key(&self) -> Option<TimerKey> {
        self.queue_key
    }
}

/// The state of a timer that the loop has taken from its queue.
pub(in crate::event_loop) enum Started {
    /// It has been cancelled.
    Ended,
    /// It is due later, at this time.
    Moved(u64),
    Once(Single),
    Every(Repeated, Schedule),
}

/// The result of moving a timer.
pub(in crate::event_loop) struct Moved {
    pub(in crate::event_loop) queue_key: Option<TimerKey>,
    /// The deadline is earlier than before, so the loop must be notified.
    pub(in crate::event_loop) is_earlier: bool,
}

pub(in crate::event_loop) struct RemoteTimers {
    next: AtomicU64,
    /// `None` once the loop has ended.
    timers: Mutex<Option<Table>>,
}

#[derive(Default)]
struct Table {
    timers: HashMap<u64, RemoteTimer>,
    slack: Slack,
}

impl Table {
    /// Removes a timer. The table releases capacity that has been mostly unused for some time.
    fn remove(&mut self, number: u64) -> Option<RemoteTimer> {
        let removed = self.timers.remove(&number)?;
        let Table { timers, slack } = self;
        if let Some(left) = slack.record::<(u64, RemoteTimer)>(timers.len(), timers.capacity()) {
            timers.shrink_to(left);
        }
        Some(removed)
    }
}

impl RemoteTimers {
    pub(in crate::event_loop) fn new() -> RemoteTimers {
        RemoteTimers { next: AtomicU64::new(0), timers: Mutex::new(Some(Table::default())) }
    }

    /// Adds a timer. Returns the callback as the error if the loop has ended.
    pub(in crate::event_loop) fn insert<F>(
        &self,
        deadline: u64,
        callback: F,
        wrap: impl FnOnce(F) -> Callback,
    ) -> Result<RemoteKey, F> {
        self.with(|timers| {
            let Some(timers) = timers else { return Err(callback) };
            let key = self.next.fetch_add(1, Relaxed);
            timers.timers.insert(
                key,
                RemoteTimer { callback: wrap(callback), deadline, queue_key: None, moved: false },
            );
            Ok(RemoteKey::of(key))
        })
    }

    /// Removes the timer. The caller drops it without holding the lock.
    pub(in crate::event_loop) fn remove(&self, key: RemoteKey) -> Option<RemoteTimer> {
        self.with(|timers| timers?.remove(key.number()))
    }

    /// Rejects all later timers. Returns those that have not fired.
    pub(in crate::event_loop) fn close(&self) -> Option<HashMap<u64, RemoteTimer>> {
        self.timers.lock().take().map(|table| table.timers)
    }

    /// Stores the key of the timer in the loop's queue. `false` if the timer has been cancelled
    /// meanwhile.
    pub(in crate::event_loop) fn set_queue_key(&self, key: RemoteKey, queue_key: TimerKey) -> bool {
        self.with_timer(key, |timer| timer.queue_key = Some(queue_key)).is_some()
    }

    /// Changes the deadline of the timer. `None` if it has ended.
    pub(in crate::event_loop) fn set_deadline(&self, key: RemoteKey, deadline: u64) -> Option<Moved> {
        self.with_timer(key, |timer| {
            let is_earlier = deadline < mem::replace(&mut timer.deadline, deadline);
            timer.moved = true;
            Moved { queue_key: timer.queue_key, is_earlier }
        })
    }

    /// Returns the key of the timer in the loop's queue, and its deadline.
    pub(in crate::event_loop) fn queue_entry(&self, key: RemoteKey) -> Option<(Option<TimerKey>, u64)> {
        self.with_timer(key, |timer| (timer.queue_key, timer.deadline))
    }

    /// Returns the callback to run for a timer whose entry in the loop's queue had this `deadline`.
    /// A repeating timer stays in the table while its callback runs; a one-shot timer is removed.
    pub(in crate::event_loop) fn start(&self, key: RemoteKey, deadline: u64) -> Started {
        self.with(|timers| {
            let Some(timers) = timers else { return Started::Ended };
            let Some(timer) = timers.timers.get_mut(&key.number()) else { return Started::Ended };
            if timer.deadline > deadline {
                return Started::Moved(timer.deadline);
            }
            timer.moved = false;
            match mem::replace(&mut timer.callback, Callback::Running) {
                Callback::Every(callback, schedule) => Started::Every(callback, schedule),
                Callback::Once(callback) => {
                    timers.remove(key.number());
                    Started::Once(callback)
                }
                Callback::Running => Started::Ended,
            }
        })
    }

    /// Puts the callback of a repeating timer back. Returns the next deadline: `next`, unless the
    /// timer was moved while the callback ran.
    ///
    /// # Errors
    /// Returns the callback if the timer was cancelled while it ran.
    pub(in crate::event_loop) fn finish(
        &self,
        key: RemoteKey,
        callback: Repeated,
        schedule: Schedule,
        next: u64,
    ) -> Result<u64, Repeated> {
        self.with(|timers| match timers.and_then(|timers| timers.timers.get_mut(&key.number())) {
            None => Err(callback),
            Some(timer) => {
                timer.callback = Callback::Every(callback, schedule);
                if !mem::replace(&mut timer.moved, false) {
                    timer.deadline = next;
                }
                Ok(timer.deadline)
            }
        })
    }

    fn with<R>(&self, f: impl FnOnce(Option<&mut Table>) -> R) -> R {
        f(self.timers.lock().as_mut())
    }

    fn with_timer<R>(&self, key: RemoteKey, f: impl FnOnce(&mut RemoteTimer) -> R) -> Option<R> {
        self.with(|timers| timers?.timers.get_mut(&key.number()).map(f))
    }
}
