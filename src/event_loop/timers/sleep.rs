//! `Sleep`: a deadline as a future.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::event_loop::EventLoop;
use crate::event_loop::handle::LoopHandle;
use crate::event_loop::shared::{Shared, TimerId};
use crate::event_loop::tasks::executor::current;

/// Waits for a time on the clock of this thread's loop, which may be a
/// [virtual one](crate::time::VirtualClock). The delay counts from this call.
///
/// Dropping the future cancels its timer.
///
/// # Panics
/// If this thread has no loop.
#[track_caller]
pub fn sleep(delay: Duration) -> Sleep {
    let handle = current().handle();
    let deadline = handle.shared.clock.after(delay);
    Sleep { handle, deadline, armed: None }
}

/// Waits until a deadline, as [`sleep`] does. One that has passed does not wait.
///
/// # Panics
/// If this thread has no loop.
#[track_caller]
pub fn sleep_until(deadline: Instant) -> Sleep {
    let handle = current().handle();
    let deadline = handle.shared.clock.moment(deadline);
    Sleep { handle, deadline, armed: None }
}

/// A future that completes at a deadline; see [`sleep`]. It never completes early.
///
/// It belongs to the loop of the thread that created it. Polled on that thread, it uses a timer of
/// the loop, without a lock. Polled on another thread, it uses a timer of the loop's
/// [handle](LoopHandle::run_at).
///
/// # Panics
/// A poll on another thread, or in a forked child, panics if the loop has ended: the deadline could
/// not be noticed.
#[must_use = "a future does nothing until it is polled"]
pub struct Sleep {
    handle: LoopHandle,
    /// In nanoseconds of the loop's clock.
    deadline: u64,
    armed: Option<Armed>,
}

const LOOP_ENDED: &str = "the event loop of this sleep has ended";

/// A timer, and the waker that it wakes.
struct Armed {
    timer: TimerId,
    waker: Waker,
}

impl Sleep {
    /// When it completes.
    pub fn deadline(&self) -> Instant {
        self.handle.shared.clock.instant(self.deadline)
    }

    /// Changes the deadline, also of a sleep that has completed.
    pub fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let deadline = self.handle.shared.clock.moment(deadline);
        self.set_deadline(deadline);
    }

    pub(super) fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
        let shared = &self.handle.shared;
        let instant = shared.clock.instant(deadline);
        // A timer that has fired cannot be moved. The next poll creates another one.
        if self.armed.as_ref().is_some_and(|armed| !self.handle.reset_at(armed.timer, instant)) {
            self.armed = None;
        }
    }

    pub(super) fn moment(&self) -> u64 {
        self.deadline
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The time of the loop's turn, or the present time on another thread.
    pub(super) fn now(&self, event_loop: Option<&EventLoop>) -> u64 {
        let clock = &self.handle.shared.clock;
        clock.moment(event_loop.map_or_else(|| clock.now(), EventLoop::now))
    }

    pub(super) fn event_loop(&self) -> Option<EventLoop> {
        self.handle.local_loop()
    }

    fn arm(&self, event_loop: Option<&EventLoop>, waker: Waker) -> TimerId {
        match event_loop {
            Some(event_loop) => event_loop.run_at_moment(self.deadline, move |_| waker.wake()),
            None => {
                let deadline = self.handle.shared.clock.instant(self.deadline);
                // Also woken if the loop ends: the next poll then panics, instead of never.
                let wake = WakeOnDrop(Some(waker));
                match self.handle.run_at(deadline, move |_| drop(wake)) {
                    Ok(timer) => timer,
                    Err(_) => panic!("{}", LOOP_ENDED),
                }
            }
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let event_loop = self.event_loop();
        if self.now(event_loop.as_ref()) >= self.deadline {
            self.disarm();
            return Poll::Ready(());
        }
        // On another thread: the end of the loop has dropped the timer, which has woken this. In a
        // forked child the timer is the parent's.
        let has_ended = self.handle.has_ended() || self.handle.is_inherited();
        assert!(event_loop.is_some() || !has_ended, "{}", LOOP_ENDED);
        if !self.armed.as_ref().is_some_and(|armed| armed.waker.will_wake(context.waker())) {
            self.disarm();
            let waker = context.waker().clone();
            let timer = self.arm(event_loop.as_ref(), waker.clone());
            self.armed = Some(Armed { timer, waker });
        }
        Poll::Pending
    }
}

impl Sleep {
    fn disarm(&mut self) {
        if let Some(Armed { timer, .. }) = self.armed.take() {
            self.handle.cancel(timer);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline()).finish_non_exhaustive()
    }
}

/// Wakes when it is dropped.
struct WakeOnDrop(Option<Waker>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}
