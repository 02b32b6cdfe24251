//! Timers from any thread.

use std::time::{Duration, Instant};

use super::{EventLoop, LoopHandle, PostError};
use crate::event_loop::containment::Contained;
use crate::event_loop::refused::Refused;
use crate::event_loop::shared::{TimerId, TimerName};
use crate::event_loop::tasks::task_queue::Refusal;
use crate::event_loop::timers::remote_timers::Callback;
use crate::event_loop::timers::repeat::Repeat;

impl LoopHandle {
    /// Same as [`EventLoop::run_at`], from any thread. The id is valid at once, even before the
    /// loop has seen the timer.
    ///
    /// # Errors
    /// Returns `callback` if the loop has ended.
    pub fn run_at<F>(&self, deadline: Instant, callback: F) -> Result<TimerId, Refused<F, PostError>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        let deadline = self.shared.clock.moment(deadline);
        self.remote_timer(callback, deadline, |callback| Callback::Once(Contained::new(Box::new(callback))))
    }

    /// Same as [`EventLoop::run_after`], from any thread. The delay counts from this call.
    ///
    /// # Errors
    /// Returns `callback` if the loop has ended.
    pub fn run_after<F>(&self, delay: Duration, callback: F) -> Result<TimerId, Refused<F, PostError>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        let deadline = self.shared.clock.after(delay);
        self.remote_timer(callback, deadline, |callback| Callback::Once(Contained::new(Box::new(callback))))
    }

    /// Same as [`EventLoop::run_every`], from any thread. The first period counts from this call.
    ///
    /// # Errors
    /// Returns `callback` if the loop has ended.
    ///
    /// # Panics
    /// If the period is zero.
    #[track_caller]
    pub fn run_every<F>(
        &self,
        repeat: impl Into<Repeat>,
        callback: F,
    ) -> Result<TimerId, Refused<F, PostError>>
    where
        F: FnMut(&EventLoop) + Send + 'static,
    {
        let (first, schedule) = self.shared.schedule(repeat.into());
        self.remote_timer(callback, first, move |callback| {
            Callback::Every(Contained::new(Box::new(callback)), schedule)
        })
    }

    fn remote_timer<F>(
        &self,
        callback: F,
        deadline: u64,
        wrap: impl FnOnce(F) -> Callback,
    ) -> Result<TimerId, Refused<F, PostError>> {
        if self.is_inherited() {
            return Err(self.refused(Refusal::Closed, callback));
        }
        let inserted = self.shared.remote_timers.insert(deadline, callback, wrap);
        let key = inserted.map_err(|callback| self.refused(Refusal::Closed, callback))?;
        // If the loop is dropped before it has armed the timer, the callback is dropped with the
        // loop's other timers.
        self.post_internal(move |event_loop| event_loop.arm_remote_timer(key));
        Ok(self.shared.timer_id(TimerName::Remote(key)))
    }

    /// Cancels a timer, from any thread.
    ///
    /// For a timer created through a handle the result is exact on every thread: `true` if its
    /// callback had not started and now never will (of a repeating timer: not again), `false` if
    /// there was nothing left to cancel.
    ///
    /// Only the loop can cancel a timer that was created on the loop itself. On the loop's thread
    /// the result is exact too. Elsewhere the request is queued, and `true` means that the loop
    /// exists to perform it.
    pub fn cancel(&self, id: TimerId) -> bool {
        if let Some(event_loop) = self.local_loop() {
            return event_loop.cancel(id);
        }
        match self.shared.resolve(id) {
            None => false,
            Some(TimerName::Local(_)) => self.post_internal(move |event_loop| _ = event_loop.cancel(id)),
            Some(TimerName::Remote(key)) => match self.shared.remote_timers.remove(key) {
                None => false,
                Some(removed) => {
                    if let Some(armed) = removed.queue_key() {
                        // Only the slot in the loop's queue is left to be freed; a loop that has
                        // been dropped has freed it.
                        self.post_internal(move |event_loop| _ = event_loop.disarm(armed));
                    }
                    true
                }
            },
        }
    }

    /// Moves a timer, same as [`EventLoop::reset`], from any thread. The delay counts from this
    /// call.
    ///
    /// The result is as exact as that of [`cancel`](LoopHandle::cancel). Postponing a timer that
    /// was created through a handle does not wake the loop.
    pub fn reset(&self, id: TimerId, delay: Duration) -> bool {
        self.move_timer(id, self.shared.clock.after(delay))
    }

    /// Moves a timer to `deadline`, same as [`EventLoop::reset_at`], from any thread.
    pub fn reset_at(&self, id: TimerId, deadline: Instant) -> bool {
        self.move_timer(id, self.shared.clock.moment(deadline))
    }

    fn move_timer(&self, id: TimerId, deadline: u64) -> bool {
        if let Some(event_loop) = self.local_loop() {
            return event_loop.move_timer(id, deadline);
        }
        match self.shared.resolve(id) {
            None => false,
            Some(TimerName::Local(key)) => {
                self.post_internal(move |event_loop| _ = event_loop.rearm(key, deadline))
            }
            Some(TimerName::Remote(key)) => match self.shared.remote_timers.set_deadline(key, deadline) {
                None => false,
                Some(moved) => {
                    if moved.is_earlier {
                        self.post_internal(move |event_loop| event_loop.move_remote_timer(key));
                    }
                    true
                }
            },
        }
    }
}
