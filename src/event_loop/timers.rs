//! The loop's timers: phase 4 of a turn, and the calls that create, move and cancel timers.

pub(in crate::event_loop) mod alarm;
mod callback;
pub(crate) mod clock;
pub(crate) mod interval;
pub(in crate::event_loop) mod remote_timers;
pub(in crate::event_loop) mod repeat;
pub(crate) mod sleep;
pub(crate) mod timeout;
pub(crate) mod timer_queue;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use self::callback::CallMut;
use self::clock::nanos;
use self::remote_timers::{RemoteKey, Started};
use self::repeat::{Repeat, Schedule};
use self::timer_queue::{Due, TimerKey};
use super::EventLoop;
use super::shared::{TimerId, TimerName};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::tasks::task::Task;

/// Deadlines within this time after a turn, in nanoseconds, are coalesced into one wake-up. The
/// value is the slack that the kernel allows itself for every other timeout of a thread (prctl(2),
/// PR_SET_TIMERSLACK). It turns a million timers a second into 20,000 waits instead of a wait for
/// each.
const COALESCING: u64 = 50_000;

/// The coalescing time if the last turn fired at least [`BURST`] timers. Most of the cost of a
/// timer is then the wait that it shares with others. At a million timers a second each costs a
/// quarter less, and fires 65 us late instead of 34.
const COALESCING_IN_BURST: u64 = 100_000;
const BURST: usize = 32;

/// The payload of the timer queue: the task to run when the timer is due. It takes one machine word
/// more than its captures, so that a timer fills a cache line.
pub(super) type TimerTask = Task<Firing>;

const _: () = assert!(size_of::<Option<TimerTask>>() == 5 * size_of::<usize>());

/// The argument of a timer task: its loop, and the timer that fires.
pub(super) struct Firing {
    event_loop: EventLoop,
    /// The time of the turn.
    now: u64,
    timer: Cell<(TimerKey, u64)>,
}

/// A repeating callback with its schedule.
struct Every {
    schedule: Schedule,
    callback: Contained<Box<dyn CallMut>>,
}

impl EventLoop {
    /// Calls `callback` once at `deadline`, or in the next turn if the deadline has passed. A
    /// deadline beyond the range of the clock, which is centuries, is never reached.
    ///
    /// Timers with the same deadline fire in the order of creation. The same holds for timers whose
    /// deadlines have passed when they are created. A timer never fires early; on an idle loop it
    /// fires some tens of microseconds late.
    ///
    /// Makes no system call, and no heap allocation if the callback captures at most four machine
    /// words: the loop sets one timerfd for the nearest of its deadlines before it waits.
    pub fn run_at(&self, deadline: Instant, callback: impl FnOnce(&EventLoop) + 'static) -> TimerId {
        self.run_at_moment(self.inner.shared.clock.moment(deadline), callback)
    }

    /// Calls `callback` once, after `delay` from now.
    ///
    /// The delay counts from this call, not from the beginning of the turn, so that a slow callback
    /// before it does not shorten it. With a delay of zero the callback is called in the next phase
    /// of timers, never inside this call. A delay beyond the range of the clock never elapses.
    pub fn run_after(&self, delay: Duration, callback: impl FnOnce(&EventLoop) + 'static) -> TimerId {
        self.run_at_moment(self.inner.shared.clock.after(delay), callback)
    }

    #[inline]
    fn run_at_moment<F: FnOnce(&EventLoop) + 'static>(&self, deadline: u64, callback: F) -> TimerId {
        let task = Task::new_as::<F, _>(move |firing: &Firing| callback(&firing.event_loop));
        self.name_timer(self.arm_task(deadline, task))
    }

    /// Calls `callback` repeatedly, for the first time after one period. The id stays valid for all
    /// calls.
    ///
    /// A [`Duration`] repeats at a fixed rate and skips missed ticks. A [`Repeat`] sets the first
    /// deadline and the behaviour after missed ticks.
    ///
    /// # Panics
    /// If the period is zero: the loop would never be idle.
    #[track_caller]
    pub fn run_every(
        &self,
        repeat: impl Into<Repeat>,
        callback: impl FnMut(&EventLoop) + 'static,
    ) -> TimerId {
        let (first, schedule) = self.inner.shared.schedule(repeat.into());
        let every = Every { schedule, callback: Contained::new(Box::new(callback) as Box<dyn CallMut>) };
        self.name_timer(self.arm_repeating(first, move |firing| firing.run_every(every)))
    }

    /// Cancels a timer. Returns whether the timer was pending: `false` if it has fired, was
    /// cancelled before, or belongs to another loop.
    ///
    /// A timer can be cancelled until its callback has started, even if it is due in the current
    /// turn. A repeating timer may cancel itself from its callback. Accepts the ids of timers
    /// created on the loop and through its handles.
    pub fn cancel(&self, id: TimerId) -> bool {
        match self.inner.shared.resolve(id) {
            None => false,
            Some(TimerName::Local(key)) => self.disarm(key),
            Some(TimerName::Remote(key)) => {
                let removed = self.inner.shared.remote_timers.remove(key);
                if let Some(armed) = removed.as_ref().and_then(|timer| timer.queue_key()) {
                    self.disarm(armed);
                }
                removed.is_some()
            }
        }
    }

    /// Moves a timer: it fires after `delay` from now, and its old deadline is void. Returns
    /// whether there was a timer to move, with the same rules as [`cancel`](EventLoop::cancel).
    ///
    /// Among timers with the same deadline it counts as created now. A repeating timer continues
    /// from the new deadline, even if its own callback moves it. A one-shot timer has ended when
    /// its callback starts.
    ///
    /// Postponing a timer, as an idle timeout does on every activity, only stores the new deadline.
    /// Most of the cost is the reading of the clock. [`reset_at`](EventLoop::reset_at) with a
    /// deadline that counts from [`now`](EventLoop::now) does not read it. A delay of zero is the
    /// same as for [`run_after`](EventLoop::run_after).
    pub fn reset(&self, id: TimerId, delay: Duration) -> bool {
        self.move_timer(id, self.inner.shared.clock.after(delay))
    }

    /// Moves a timer to `deadline`. Otherwise the same as [`reset`](EventLoop::reset).
    pub fn reset_at(&self, id: TimerId, deadline: Instant) -> bool {
        self.move_timer(id, self.inner.shared.clock.moment(deadline))
    }

    pub(super) fn move_timer(&self, id: TimerId, deadline: u64) -> bool {
        let shared = &self.inner.shared;
        match shared.resolve(id) {
            None => false,
            Some(TimerName::Local(key)) => self.rearm(key, deadline),
            Some(TimerName::Remote(key)) => {
                let moved = shared.remote_timers.set_deadline(key, deadline);
                if let Some(armed) = moved.as_ref().and_then(|moved| moved.queue_key) {
                    self.rearm(armed, deadline);
                }
                moved.is_some()
            }
        }
    }

    /// Returns the deadline of a timer. `None` if the timer has ended: it has fired, was cancelled,
    /// or belongs to another loop. In the callback of a repeating timer, it is the deadline that
    /// the callback runs for.
    pub fn deadline(&self, id: TimerId) -> Option<Instant> {
        let shared = &self.inner.shared;
        let deadline = match shared.resolve(id)? {
            TimerName::Local(key) => self.inner.timers.borrow().deadline(key),
            TimerName::Remote(key) => shared.remote_timers.queue_entry(key).map(|(_, deadline)| deadline),
        };
        deadline.map(|deadline| shared.clock.instant(deadline))
    }

    /// Returns the deadline of the next timer. For a timer that is never due this is past the end
    /// of the clock. The call scans the timers of about one millisecond, or of about two seconds if
    /// the next timer is more than two seconds away.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.inner.timers.borrow_mut().next_deadline();
        next.map(|deadline| self.inner.shared.clock.instant(deadline))
    }

    /// Part of phase 1: sets the timerfd unless it expires in time already. Returns whether the
    /// loop may wait for it.
    pub(super) fn arm_alarm(&self) -> io::Result<bool> {
        let inner = &*self.inner;
        if inner.timers.borrow().is_empty() {
            return Ok(true);
        }
        let next = inner.timers.borrow_mut().next_wake();
        match (next, inner.alarm.get()) {
            (None, _) => Ok(true),
            (Some(deadline), Some(alarm)) => {
                // The time of the last turn is accurate enough and saves reading the clock: a timer
                // that became due meanwhile fires at once.
                let now = inner.shared.clock.moment(self.now());
                if deadline <= now {
                    return Ok(false);
                }
                let coalescing = match inner.timers_fired.get() {
                    // A loop that always spins trades processor time for exact timers.
                    _ if inner.spin.is_forced() => 0,
                    0..BURST => COALESCING,
                    BURST.. => COALESCING_IN_BURST,
                };
                alarm.set(deadline.max(now.saturating_add(coalescing)), &inner.shared.clock)?;
                Ok(true)
            }
            // Moving a virtual clock wakes the loop.
            (Some(deadline), None) => Ok(deadline > self.moment()),
        }
    }

    /// Phase 4: fires the timers that are due.
    // A turn without timers should not pay for a call.
    #[inline(always)]
    pub(super) fn run_timers(&self) {
        self.inner.timers_fired.set(0);
        if !self.inner.timers.borrow().is_empty() {
            self.fire_due_timers();
        }
    }

    fn fire_due_timers(&self) {
        let inner = &*self.inner;
        let now = inner.shared.clock.moment(self.now());
        let freed = inner.timers.borrow_mut().begin_phase(now);
        // The memory is returned to the system only when the loop is idle, because that takes tens
        // of milliseconds.
        inner.freed_bytes.set(inner.freed_bytes.get() + freed);
        let metrics = inner.shared.observation.metrics();
        let mut firing = None;
        let mut fired = 0;
        loop {
            let due = inner.timers.borrow_mut().pop_due();
            let Some(Due { key, deadline, payload }) = due else { break };
            fired += 1;
            let timer = (key, deadline);
            let firing = firing.get_or_insert_with(|| Firing {
                event_loop: EventLoop { inner: Rc::clone(&self.inner) },
                now,
                timer: Cell::new(timer),
            });
            firing.timer.set(timer);
            if let Some(metrics) = metrics {
                metrics.record_timer_delay(self.moment().saturating_sub(deadline));
            }
            if self.is_watched() {
                self.catch_named("a timer's callback", payload.name(), || payload.call(firing));
            } else {
                self.catch_unwatched("a timer's callback", || payload.call(firing));
            }
            if self.is_inherited() {
                return;
            }
        }
        inner.timers_fired.set(fired);
        if inner.timers.borrow().needs_nodes_for(fired) {
            inner.sleeps_with_slack.set(0);
        }
    }

    fn arm(&self, deadline: u64, task: impl FnOnce(&Firing) + 'static) -> TimerKey {
        self.arm_task(deadline, Task::new(task))
    }

    #[inline]
    fn arm_task(&self, deadline: u64, task: TimerTask) -> TimerKey {
        let key = self.inner.timers.borrow_mut().insert(deadline, task);
        self.arm_deadline(deadline);
        key
    }

    fn arm_repeating(&self, deadline: u64, task: impl FnOnce(&Firing) + 'static) -> TimerKey {
        let key = self.inner.timers.borrow_mut().insert_repeating(deadline, Task::new(task));
        self.arm_deadline(deadline);
        key
    }

    /// Changes the deadline of a timer. Returns whether the timer exists.
    pub(super) fn rearm(&self, key: TimerKey, deadline: u64) -> bool {
        let moved = self.inner.timers.borrow_mut().reset(key, deadline);
        if moved {
            self.arm_deadline(deadline);
        }
        moved
    }

    /// Removes a timer from the queue. Returns whether the timer existed.
    pub(super) fn disarm(&self, key: TimerKey) -> bool {
        // Dropped after the borrow has ended: a destructor may call the loop.
        let cancelled = self.inner.timers.borrow_mut().cancel(key);
        cancelled.is_some()
    }

    /// Inserts a timer that was created through a handle into the queue, unless it has been
    /// cancelled. If another thread has moved it meanwhile, the internal task of the move may run
    /// before the one that calls this.
    pub(super) fn arm_remote_timer(&self, key: RemoteKey) {
        let Some((_, deadline)) = self.inner.shared.remote_timers.queue_entry(key) else { return };
        let armed = self.arm_repeating(deadline, move |firing| firing.run_remote(key));
        if !self.inner.shared.remote_timers.set_queue_key(key, armed) {
            self.disarm(armed);
        }
    }

    /// Applies a move that another thread has requested. The table has the latest deadline.
    pub(super) fn move_remote_timer(&self, key: RemoteKey) {
        if let Some((Some(armed), deadline)) = self.inner.shared.remote_timers.queue_entry(key) {
            self.rearm(armed, deadline);
        }
    }

    /// Calls [`Source::on_deadline`](super::Source::on_deadline) at `deadline`, unless it is
    /// [cancelled](EventLoop::cancel_deadline).
    pub(crate) fn set_deadline(&self, id: ChannelId, deadline: Instant) -> TimerKey {
        self.arm(self.inner.shared.clock.moment(deadline), move |firing| firing.event_loop.run_deadline(id))
    }

    pub(crate) fn cancel_deadline(&self, key: TimerKey) {
        self.disarm(key);
    }

    fn run_deadline(&self, id: ChannelId) {
        let source = self.inner.channels.borrow().get(id).cloned();
        if let Some(source) = source {
            if self.catch_in("a callback", &*source, || source.on_deadline(self)).is_none() {
                self.close_after_panic(id, &source);
            }
        }
    }

    /// The current time in the unit of the timer queue.
    pub(super) fn moment(&self) -> u64 {
        let clock = &self.inner.shared.clock;
        clock.moment(clock.now())
    }

    fn name_timer(&self, key: TimerKey) -> TimerId {
        self.inner.shared.timer_id(TimerName::Local(key))
    }
}

impl Firing {
    fn run_every(&self, mut every: Every) {
        let event_loop = &self.event_loop;
        let name = every.callback.name();
        let returned = event_loop.catch_named("a timer's callback", name, || every.callback.call(event_loop));
        if returned.is_some() {
            let next = every.schedule.next(self.deadline(), self.now, || event_loop.moment());
            self.repeat(next, move |firing| firing.run_every(every));
        } else {
            drop(every);
            self.end();
        }
    }

    /// Calls the callback of a timer that was created through a handle, unless the timer has been
    /// cancelled or moved.
    fn run_remote(&self, key: RemoteKey) {
        match self.next_of_remote(key) {
            Some(next) => self.repeat(next, move |firing| firing.run_remote(key)),
            None => self.end(),
        }
    }

    /// Does the work of [`run_remote`](Firing::run_remote). Returns the next deadline.
    fn next_of_remote(&self, key: RemoteKey) -> Option<u64> {
        let event_loop = &self.event_loop;
        let timers = &event_loop.inner.shared.remote_timers;
        match timers.start(key, self.deadline()) {
            Started::Ended => None,
            Started::Moved(deadline) => Some(deadline),
            Started::Once(callback) => {
                let name = callback.name();
                event_loop.catch_named("a timer's callback", name, || callback.into_inner().call(event_loop));
                None
            }
            Started::Every(mut callback, schedule) => {
                let name = callback.name();
                let returned =
                    event_loop.catch_named("a timer's callback", name, || callback.call(event_loop));
                if returned.is_none() {
                    timers.remove(key);
                }
                let next = schedule.next(self.deadline(), self.now, || event_loop.moment());
                // If the timer was cancelled meanwhile, its callback is dropped here.
                timers.finish(key, callback, schedule, next).ok()
            }
        }
    }

    fn deadline(&self) -> u64 {
        self.timer.get().1
    }

    /// Puts the timer back into the queue.
    fn repeat(&self, deadline: u64, task: impl FnOnce(&Firing) + 'static) {
        let (key, _) = self.timer.get();
        // If the timer was cancelled by its own callback, the queue returns the task. It is dropped
        // after the borrow has ended.
        let cancelled = self.event_loop.inner.timers.borrow_mut().rearm(key, deadline, Task::new(task));
        drop(cancelled);
    }

    /// Removes the timer from the queue.
    fn end(&self) {
        self.event_loop.disarm(self.timer.get().0);
    }
}

impl super::shared::Shared {
    /// Returns the first deadline of a repeating timer, and its schedule.
    #[track_caller]
    pub(super) fn schedule(&self, repeat: Repeat) -> (u64, Schedule) {
        let Repeat { period, first, when_late } = repeat;
        assert!(!period.is_zero(), "a timer cannot repeat every zero seconds");
        let first = first.map_or_else(|| self.clock.after(period), |first| self.clock.moment(first));
        (first, Schedule { period: nanos(period), when_late })
    }
}
