//! Timers made through a handle.
//!
//! Their callbacks wait in a table that every thread can reach, and the loop's queue holds only their keys. So the id is good
//! before the loop has heard of the timer, and what is asked of it from anywhere is exact: whoever takes the callback out of the
//! table, the loop to call it or a thread to cancel it, has it alone, and the deadline that counts is the one noted there.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::repeat::Schedule;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::event_loop::timers::timer_queue::TimerKey;
use crate::event_loop::trimming::slack::Slack;

type Single = Contained<Box<dyn FnOnce(&EventLoop) + Send>>;
type Repeated = Contained<Box<dyn FnMut(&EventLoop) + Send>>;

/// The two halves of a number that counts up, which makes a [`TimerId`](crate::event_loop::TimerId) 16 bytes instead of 24.
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
    /// A repeating timer's callback is being called, and comes back if the timer is still here then.
    Running,
}

pub(in crate::event_loop) struct RemoteTimer {
    callback: Callback,
    /// When it is due, in nanoseconds of the loop's clock. The place in the loop's queue may be an earlier one.
    deadline: u64,
    armed: Option<TimerKey>,
    /// Moved by its own callback, which is running: that deadline counts, and not what the schedule says.
    moved: bool,
}

impl RemoteTimer {
    /// The place in the loop's queue, once the loop has given it one.
    pub(in crate::event_loop) fn armed(&self) -> Option<TimerKey> {
        self.armed
    }
}

/// What the loop finds when it has come to a timer in its queue.
pub(in crate::event_loop) enum Started {
    /// It has been cancelled.
    Ended,
    /// It is due later.
    Moved(u64),
    Once(Single),
    Every(Repeated, Schedule),
}

/// A timer that has been given another deadline.
pub(in crate::event_loop) struct Moved {
    pub(in crate::event_loop) armed: Option<TimerKey>,
    /// It is due earlier than it was, so the loop must hear of it.
    pub(in crate::event_loop) closer: bool,
}

pub(in crate::event_loop) struct RemoteTimers {
    next: AtomicU64,
    /// `None` once the loop has gone.
    timers: Mutex<Option<Table>>,
}

#[derive(Default)]
struct Table {
    timers: HashMap<u64, RemoteTimer>,
    slack: Slack,
}

impl Table {
    /// Takes a timer out. The table gives up room in which there have been few timers for some time.
    fn remove(&mut self, number: u64) -> Option<RemoteTimer> {
        let removed = self.timers.remove(&number)?;
        let Table { timers, slack } = self;
        if let Some(left) = slack.note::<(u64, RemoteTimer)>(timers.len(), timers.capacity()) {
            timers.shrink_to(left);
        }
        Some(removed)
    }
}

impl RemoteTimers {
    pub(in crate::event_loop) fn new() -> RemoteTimers {
        RemoteTimers { next: AtomicU64::new(0), timers: Mutex::new(Some(Table::default())) }
    }

    /// Gives the callback back if the loop has gone.
    pub(in crate::event_loop) fn insert<F>(
        &self,
        deadline: u64,
        callback: F,
        wrap: impl FnOnce(F) -> Callback,
    ) -> Result<RemoteKey, F> {
        self.with(|timers| {
            let Some(timers) = timers else { return Err(callback) };
            let key = self.next.fetch_add(1, Relaxed);
            timers
                .timers
                .insert(key, RemoteTimer { callback: wrap(callback), deadline, armed: None, moved: false });
            Ok(RemoteKey::of(key))
        })
    }

    /// Takes the timer out. It is the caller's to drop, with no lock held.
    pub(in crate::event_loop) fn remove(&self, key: RemoteKey) -> Option<RemoteTimer> {
        self.with(|timers| timers?.remove(key.number()))
    }

    /// Refuses every later timer, and hands out those that have not fired.
    pub(in crate::event_loop) fn close(&self) -> Option<HashMap<u64, RemoteTimer>> {
        self.timers.lock().take().map(|table| table.timers)
    }

    /// Notes where the loop has put the timer. `false` if it has been cancelled meanwhile.
    pub(in crate::event_loop) fn set_armed(&self, key: RemoteKey, armed: TimerKey) -> bool {
        self.with_timer(key, |timer| timer.armed = Some(armed)).is_some()
    }

    /// Gives the timer another deadline. `None` if it has ended.
    pub(in crate::event_loop) fn set_deadline(&self, key: RemoteKey, deadline: u64) -> Option<Moved> {
        self.with_timer(key, |timer| {
            let closer = deadline < mem::replace(&mut timer.deadline, deadline);
            timer.moved = true;
            Moved { armed: timer.armed, closer }
        })
    }

    /// Where the timer is in the loop's queue, and when it is due.
    pub(in crate::event_loop) fn place(&self, key: RemoteKey) -> Option<(Option<TimerKey>, u64)> {
        self.with_timer(key, |timer| (timer.armed, timer.deadline))
    }

    /// The callback, to be called, of a timer that was in the loop's queue for `deadline`. A repeating timer stays in the table
    /// meanwhile, another one is over.
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

    /// Puts a repeating timer's callback back and answers when it is due, at `next` unless its own callback has moved it.
    ///
    /// # Errors
    /// Hands the callback out if the timer was cancelled while it ran.
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
