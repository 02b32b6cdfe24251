//! The loop's timers: phase 4, and the calls that make and cancel them.

use std::time::{Duration, Instant};

use super::EventLoop;
use super::remote_timers::{Callback, RemoteKey};
use super::shared::{TimerId, TimerName};
use crate::timer_queue::{Due, TimerKey};

/// What the timer queue carries.
pub(super) enum TimerTask {
    Once(Box<dyn FnOnce(&EventLoop)>),
    Every(Duration, Box<dyn FnMut(&EventLoop)>),
    /// Made by a [`LoopHandle`](super::LoopHandle): the callback is kept where other threads can cancel it.
    Remote(Option<Duration>, RemoteKey),
}

impl EventLoop {
    /// Calls `callback` once at `deadline`, or in the next turn if that has passed.
    ///
    /// Timers with one deadline fire in the order made, and so do those whose deadlines have passed when they are made. A
    /// deadline is never met early, and on an idle loop up to a millisecond late.
    pub fn run_at(&self, deadline: Instant, callback: impl FnOnce(&EventLoop) + 'static) -> TimerId {
        self.name_timer(self.arm(deadline, TimerTask::Once(Box::new(callback))))
    }

    /// Calls `callback` once, when `delay` has passed from now.
    ///
    /// The delay counts from this call and not from the beginning of the turn, so that a slow callback before it does
    /// not shorten it. A delay too long for the clock never ends.
    pub fn run_after(&self, delay: Duration, callback: impl FnOnce(&EventLoop) + 'static) -> TimerId {
        self.run_at(deadline_after(delay), callback)
    }

    /// Calls `callback` every `period`, first when one period has passed.
    ///
    /// The deadlines are multiples of the period from this call, so the timer does not drift; those that have passed
    /// by the time a late callback is called are skipped. The id stays the same throughout.
    ///
    /// # Panics
    /// If `period` is zero, which would never let the loop rest.
    #[track_caller]
    pub fn run_every(&self, period: Duration, callback: impl FnMut(&EventLoop) + 'static) -> TimerId {
        assert!(!period.is_zero(), "a timer cannot repeat every zero seconds");
        let task = TimerTask::Every(period, Box::new(callback));
        self.name_timer(self.arm(deadline_after(period), task))
    }

    /// Cancels a timer. Answers whether there was something to cancel: `false` if it has fired, was cancelled before,
    /// or belongs to another loop.
    ///
    /// Takes effect until the callback has started, also for a timer that is due in this very turn. A repeating timer
    /// may cancel itself from its callback. Works for the timers of the loop and of its handles alike.
    pub fn cancel(&self, id: TimerId) -> bool {
        match self.inner.shared.resolve(id) {
            None => false,
            Some(TimerName::Local(key)) => self.disarm(key),
            Some(TimerName::Remote(key)) => {
                let removed = self.inner.shared.remote_timers.remove(key);
                if let Some(armed) = removed.as_ref().and_then(|timer| timer.armed()) {
                    self.disarm(armed);
                }
                removed.is_some()
            }
        }
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.inner.timers.borrow().next_deadline()
    }

    /// Phase 4.
    pub(super) fn run_timers(&self) {
        let inner = &*self.inner;
        if inner.timers.borrow().is_empty() {
            return;
        }
        inner.timers.borrow_mut().begin_phase(inner.now.get());
        loop {
            let due = inner.timers.borrow_mut().pop_due();
            let Some(Due { key, deadline, payload }) = due else { break };
            let next = match payload {
                TimerTask::Once(callback) => {
                    self.catch("a timer's callback", || callback(self));
                    None
                }
                TimerTask::Every(period, mut callback) => {
                    if self.catch("a timer's callback", || callback(self)).is_some() {
                        Some((period, TimerTask::Every(period, callback)))
                    } else {
                        self.discard(callback);
                        None
                    }
                }
                TimerTask::Remote(period, key) => {
                    let goes_on = self.run_remote_timer(key);
                    period.filter(|_| goes_on).map(|period| (period, TimerTask::Remote(Some(period), key)))
                }
            };
            match next {
                None => _ = self.disarm(key),
                Some((period, task)) => {
                    let deadline = next_multiple(deadline, period, inner.now.get());
                    // A timer that was cancelled from its own callback is handed back, and dropped.
                    let cancelled = inner.timers.borrow_mut().rearm(key, deadline, task);
                    self.discard(cancelled);
                }
            }
        }
    }

    pub(super) fn arm(&self, deadline: Instant, task: TimerTask) -> TimerKey {
        let mut timers = self.inner.timers.borrow_mut();
        match task {
            TimerTask::Once(_) | TimerTask::Remote(None, _) => timers.insert(deadline, task),
            TimerTask::Every(..) | TimerTask::Remote(Some(_), _) => timers.insert_repeating(deadline, task),
        }
    }

    /// Takes a timer out of the queue, and answers whether it was there.
    pub(super) fn disarm(&self, key: TimerKey) -> bool {
        // Out of the borrow before it is dropped: a destructor may come back to the loop.
        let cancelled = self.inner.timers.borrow_mut().cancel(key);
        cancelled.is_some()
    }

    /// Puts a timer that was made through a handle into the queue.
    pub(super) fn arm_remote_timer(&self, key: RemoteKey, deadline: Instant, period: Option<Duration>) {
        let armed = self.arm(deadline, TimerTask::Remote(period, key));
        if !self.inner.shared.remote_timers.set_armed(key, armed) {
            self.disarm(armed);
        }
    }

    /// Calls the callback of such a timer. Answers whether the timer goes on.
    fn run_remote_timer(&self, key: RemoteKey) -> bool {
        let timers = &self.inner.shared.remote_timers;
        match timers.start(key) {
            None | Some(Callback::Running) => false,
            Some(Callback::Once(callback)) => {
                self.catch("a timer's callback", || callback(self));
                false
            }
            Some(Callback::Every(mut callback)) => {
                let returned = self.catch("a timer's callback", || callback(self));
                if returned.is_none() {
                    timers.remove(key);
                }
                let over = timers.finish(key, callback);
                let goes_on = over.is_none();
                self.discard(over);
                goes_on
            }
        }
    }

    fn name_timer(&self, key: TimerKey) -> TimerId {
        self.inner.shared.timer_id(TimerName::Local(key))
    }
}

/// A deadline that the clock cannot express lies a century ahead, which is never.
pub(super) fn deadline_after(delay: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(delay).unwrap_or_else(|| now + NEVER)
}

const NANOS: u128 = 1_000_000_000;

/// The first of `deadline` + 1, 2, 3 … periods that lies after `now`.
fn next_multiple(deadline: Instant, period: Duration, now: Instant) -> Instant {
    let late = now.saturating_duration_since(deadline);
    // Less than a period, and so a duration; only the whole lateness might not fit into 64 bits of nanoseconds.
    let into_period = late.as_nanos() % period.as_nanos();
    let into_period = Duration::new((into_period / NANOS) as u64, (into_period % NANOS) as u32);
    now.max(deadline).checked_add(period - into_period).unwrap_or_else(|| deadline_after(period))
}
