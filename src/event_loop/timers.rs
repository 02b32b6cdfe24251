//! The loop's timers: phase 4, and the calls that make, move and cancel them.

pub(in crate::event_loop) mod alarm;
pub(crate) mod clock;
pub(in crate::event_loop) mod remote_timers;
pub(in crate::event_loop) mod repeat;
pub(crate) mod timer_queue;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use self::clock::nanos;
use self::remote_timers::{RemoteKey, Started};
use self::repeat::{Repeat, Schedule};
use self::timer_queue::{Due, TimerKey};
use super::EventLoop;
use super::shared::{TimerId, TimerName};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::tasks::task::Task;

/// Deadlines that follow a turn more closely than this, in nanoseconds, are met by the next turn together. It is what the kernel
/// allows itself with every other timeout of a thread (prctl(2), PR_SET_TIMERSLACK), and turns a million timers a second into 20,000
/// waits instead of a wait for each.
const GATHERED: u64 = 50_000;

/// The same if the last turn has met so [many](FLOOD): then most of what a timer costs is the wait that it shares with others. Of a
/// million a second each costs a quarter less, and comes 65 us late instead of 34.
const GATHERED_IN_FLOOD: u64 = 100_000;
const FLOOD: usize = 32;

/// What the timer queue carries: what is to be done when the timer has come due. One word more than what it captures, so that a timer
/// fills a cache line.
pub(super) type TimerTask = Task<Firing>;

const _: () = assert!(size_of::<Option<TimerTask>>() == 5 * size_of::<usize>());

/// What a timer is called with: its loop, and which one of the loop's it is.
pub(super) struct Firing {
    event_loop: EventLoop,
    /// The time of the turn.
    now: u64,
    timer: Cell<(TimerKey, u64)>,
}

type Callback = dyn FnMut(&EventLoop);

/// A callback that repeats.
struct Every {
    schedule: Schedule,
    callback: Contained<Box<Callback>>,
}

impl EventLoop {
    /// Calls `callback` once at `deadline`, or in the next turn if that has passed. An instant too far off for the clock, by
    /// centuries, never comes.
    ///
    /// Timers with one deadline fire in the order made, and so do those whose deadlines have passed when they are made. A
    /// deadline is never met early, and on an idle loop some tens of microseconds late. No system call, and no heap block if the
    /// callback captures four words at most: the loop sets one alarm for the nearest of its deadlines before it waits.
    pub fn run_at(&self, deadline: Instant, callback: impl FnOnce(&EventLoop) + 'static) -> TimerId {
        let deadline = self.inner.shared.clock.moment(deadline);
        self.name_timer(self.arm(deadline, move |firing| callback(&firing.event_loop)))
    }

    /// Calls `callback` once, when `delay` has passed from now.
    ///
    /// The delay counts from this call and not from the beginning of the turn, so that a slow callback before it does
    /// not shorten it. A delay too long for the clock never ends.
    pub fn run_after(&self, delay: Duration, callback: impl FnOnce(&EventLoop) + 'static) -> TimerId {
        let deadline = self.inner.shared.clock.after(delay);
        self.name_timer(self.arm(deadline, move |firing| callback(&firing.event_loop)))
    }

    /// Calls `callback` again and again: every so often, first when one period has passed. The id stays the same throughout.
    ///
    /// A [`Duration`] repeats at a fixed rate and skips what it has missed; a [`Repeat`] says otherwise.
    ///
    /// # Panics
    /// If the period is zero, which would never let the loop rest.
    #[track_caller]
    pub fn run_every(
        &self,
        repeat: impl Into<Repeat>,
        callback: impl FnMut(&EventLoop) + 'static,
    ) -> TimerId {
        let (first, schedule) = self.inner.shared.schedule(repeat.into());
        let every = Every { schedule, callback: Contained::new(Box::new(callback) as Box<Callback>) };
        self.name_timer(self.arm_repeating(first, move |firing| firing.run_every(every)))
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

    /// Moves a timer: it fires when `delay` has passed from now, wherever it stood. Answers whether there was one to move, as
    /// [`cancel`](EventLoop::cancel) does.
    ///
    /// Among timers of one deadline it counts as made now. A repeating timer goes on from there, also one that is moved by its own
    /// callback; a timer that fires once has ended when its callback starts.
    ///
    /// Moving a deadline back, as an idle timeout does whenever something happens, is a note in the timer and nothing else. What it costs
    /// is the look at the clock, which [`reset_at`](EventLoop::reset_at) with a delay from [`now`](EventLoop::now) does without.
    pub fn reset(&self, id: TimerId, delay: Duration) -> bool {
        self.move_timer(id, self.inner.shared.clock.after(delay))
    }

    /// Moves a timer to `deadline`, else as [`reset`](EventLoop::reset).
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
                if let Some(armed) = moved.as_ref().and_then(|moved| moved.armed) {
                    self.rearm(armed, deadline);
                }
                moved.is_some()
            }
        }
    }

    /// When the next timer is due, which for one that never comes is past the end of the clock. This looks through the timers of about a millisecond, or, if the next is more than two seconds
    /// off, of about two seconds.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.inner.timers.borrow_mut().next_deadline();
        next.map(|deadline| self.inner.shared.clock.instant(deadline))
    }

    /// Part of phase 1: sets the alarm, unless it will go off in time as it is. Answers whether the loop may wait for it.
    pub(super) fn await_timers(&self) -> io::Result<bool> {
        let inner = &*self.inner;
        if inner.timers.borrow().is_empty() {
            return Ok(true);
        }
        let next = inner.timers.borrow_mut().next_wake();
        match (next, inner.alarm.get()) {
            (None, _) => Ok(true),
            (Some(deadline), Some(alarm)) => {
                // The time of the last turn will do, and saves a look at the clock: what has come since then goes off at once.
                let now = inner.shared.clock.moment(self.now());
                if deadline <= now {
                    return Ok(false);
                }
                let gathered = match inner.timers_met.get() {
                    // A loop that polls busily spends its processor on being exact.
                    _ if inner.patience.is_eager() => 0,
                    0..FLOOD => GATHERED,
                    FLOOD.. => GATHERED_IN_FLOOD,
                };
                alarm.set(deadline.max(now.saturating_add(gathered)), &inner.shared.clock)?;
                Ok(true)
            }
            // Whoever moves the clock has the loop make a turn.
            (Some(deadline), None) => Ok(deadline > self.moment()),
        }
    }

    /// Phase 4.
    pub(super) fn run_timers(&self) {
        let inner = &*self.inner;
        inner.timers_met.set(0);
        if inner.timers.borrow().is_empty() {
            return;
        }
        let now = inner.shared.clock.moment(self.now());
        let given_up = inner.timers.borrow_mut().begin_phase(now);
        // The allocator returns it when the loop is idle: that takes tens of milliseconds.
        inner.given_up.set(inner.given_up.get() + given_up);
        let mut firing = None;
        let mut met = 0;
        loop {
            let due = inner.timers.borrow_mut().pop_due();
            let Some(Due { key, deadline, payload }) = due else { break };
            met += 1;
            let timer = (key, deadline);
            let firing = firing.get_or_insert_with(|| Firing {
                event_loop: EventLoop { inner: Rc::clone(&self.inner) },
                now,
                timer: Cell::new(timer),
            });
            firing.timer.set(timer);
            self.catch("a timer's callback", || payload.call(firing));
            if self.is_inherited() {
                return;
            }
        }
        inner.timers_met.set(met);
        if inner.timers.borrow().needs_room_for(met) {
            inner.sleeps_with_slack.set(0);
        }
    }

    fn arm(&self, deadline: u64, task: impl FnOnce(&Firing) + 'static) -> TimerKey {
        let key = self.inner.timers.borrow_mut().insert(deadline, Task::new(task));
        self.show_deadline(deadline);
        key
    }

    fn arm_repeating(&self, deadline: u64, task: impl FnOnce(&Firing) + 'static) -> TimerKey {
        let key = self.inner.timers.borrow_mut().insert_repeating(deadline, Task::new(task));
        self.show_deadline(deadline);
        key
    }

    /// Gives a timer another deadline, and answers whether it was there.
    pub(super) fn rearm(&self, key: TimerKey, deadline: u64) -> bool {
        let moved = self.inner.timers.borrow_mut().reset(key, deadline);
        if moved {
            self.show_deadline(deadline);
        }
        moved
    }

    /// Takes a timer out of the queue, and answers whether it was there.
    pub(super) fn disarm(&self, key: TimerKey) -> bool {
        // Dropped when the borrow has ended: a destructor may call the loop.
        let cancelled = self.inner.timers.borrow_mut().cancel(key);
        cancelled.is_some()
    }

    /// Puts a timer that was made through a handle into the queue, unless it has been cancelled. It may have been moved meanwhile,
    /// by a thread whose errand has overtaken the one that this is called by.
    pub(super) fn arm_remote_timer(&self, key: RemoteKey) {
        let Some((_, deadline)) = self.inner.shared.remote_timers.place(key) else { return };
        let armed = self.arm_repeating(deadline, move |firing| firing.run_remote(key));
        if !self.inner.shared.remote_timers.set_armed(key, armed) {
            self.disarm(armed);
        }
    }

    /// Carries out what another thread has asked for: the deadline is the one that stands in the table by now.
    pub(super) fn move_remote_timer(&self, key: RemoteKey) {
        if let Some((Some(armed), deadline)) = self.inner.shared.remote_timers.place(key) {
            self.rearm(armed, deadline);
        }
    }

    /// Calls [`Source::on_deadline`](super::Source::on_deadline) at `deadline`, unless it is [cancelled](EventLoop::cancel_deadline).
    pub(crate) fn set_deadline(&self, id: ChannelId, deadline: Instant) -> TimerKey {
        self.arm(self.inner.shared.clock.moment(deadline), move |firing| firing.event_loop.run_deadline(id))
    }

    pub(crate) fn cancel_deadline(&self, key: TimerKey) {
        self.disarm(key);
    }

    fn run_deadline(&self, id: ChannelId) {
        let source = self.inner.channels.borrow().get(id).cloned();
        if let Some(source) = source {
            if self.catch("a deadline's callback", || source.on_deadline(self)).is_none() {
                self.end_after_panic(&source);
            }
        }
    }

    /// The present, as the timer queue counts it.
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
        if event_loop.catch("a timer's callback", || (every.callback)(event_loop)).is_some() {
            let next = every.schedule.next(self.deadline(), self.now, || event_loop.moment());
            self.go_on(next, move |firing| firing.run_every(every));
        } else {
            drop(every);
            self.end();
        }
    }

    /// Calls the callback of a timer that a handle made, unless the timer has been cancelled or moved.
    fn run_remote(&self, key: RemoteKey) {
        match self.next_of_remote(key) {
            Some(next) => self.go_on(next, move |firing| firing.run_remote(key)),
            None => self.end(),
        }
    }

    /// The same; answers when it is due next.
    fn next_of_remote(&self, key: RemoteKey) -> Option<u64> {
        let event_loop = &self.event_loop;
        let timers = &event_loop.inner.shared.remote_timers;
        match timers.start(key, self.deadline()) {
            Started::Ended => None,
            Started::Moved(deadline) => Some(deadline),
            Started::Once(callback) => {
                event_loop.catch("a timer's callback", || callback.into_inner()(event_loop));
                None
            }
            Started::Every(mut callback, schedule) => {
                let returned = event_loop.catch("a timer's callback", || callback(event_loop));
                if returned.is_none() {
                    timers.remove(key);
                }
                let next = schedule.next(self.deadline(), self.now, || event_loop.moment());
                // A callback that was cancelled meanwhile is dropped here.
                timers.finish(key, callback, schedule, next).ok()
            }
        }
    }

    fn deadline(&self) -> u64 {
        self.timer.get().1
    }

    /// Puts the timer back into the queue.
    fn go_on(&self, deadline: u64, task: impl FnOnce(&Firing) + 'static) {
        let (key, _) = self.timer.get();
        // One that was cancelled from its own callback is handed back, and dropped when the borrow has ended.
        let cancelled = self.event_loop.inner.timers.borrow_mut().rearm(key, deadline, Task::new(task));
        drop(cancelled);
    }

    /// Gives up its place there.
    fn end(&self) {
        self.event_loop.disarm(self.timer.get().0);
    }
}

impl super::shared::Shared {
    /// The first deadline of a timer that repeats, and how it goes on.
    #[track_caller]
    pub(super) fn schedule(&self, repeat: Repeat) -> (u64, Schedule) {
        let Repeat { period, first, when_late } = repeat;
        assert!(!period.is_zero(), "a timer cannot repeat every zero seconds");
        let first = first.map_or_else(|| self.clock.after(period), |first| self.clock.moment(first));
        (first, Schedule { period: nanos(period), when_late })
    }
}
