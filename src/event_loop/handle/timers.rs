//! Timers from any thread.

use std::time::{Duration, Instant};

use super::{EventLoop, LoopHandle, PostError};
use crate::event_loop::containment::Contained;
use crate::event_loop::shared::{TimerId, TimerName};
use crate::event_loop::tasks::task_queue::Refusal;
use crate::event_loop::timers::remote_timers::Callback;
use crate::event_loop::timers::repeat::Repeat;

impl LoopHandle {
    /// As [`EventLoop::run_at`], from any thread. The id is good at once, also before the loop has seen the timer.
    ///
    /// # Errors
    /// Gives `callback` back if the loop has gone.
    pub fn run_at<F>(&self, deadline: Instant, callback: F) -> Result<TimerId, PostError<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        let deadline = self.shared.clock.moment(deadline);
        self.remote_timer(callback, deadline, |callback| Callback::Once(Contained::new(Box::new(callback))))
    }

    /// As [`EventLoop::run_after`], from any thread. The delay counts from this call.
    ///
    /// # Errors
    /// Gives `callback` back if the loop has gone.
    pub fn run_after<F>(&self, delay: Duration, callback: F) -> Result<TimerId, PostError<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        let deadline = self.shared.clock.after(delay);
        self.remote_timer(callback, deadline, |callback| Callback::Once(Contained::new(Box::new(callback))))
    }

    /// As [`EventLoop::run_every`], from any thread. The first period counts from this call.
    ///
    /// # Errors
    /// Gives `callback` back if the loop has gone.
    ///
    /// # Panics
    /// If the period is zero.
    #[track_caller]
    pub fn run_every<F>(&self, repeat: impl Into<Repeat>, callback: F) -> Result<TimerId, PostError<F>>
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
    ) -> Result<TimerId, PostError<F>> {
        if self.is_inherited() {
            return Err(self.refused(Refusal::Closed, callback));
        }
        let inserted = self.shared.remote_timers.insert(deadline, callback, wrap);
        let key = inserted.map_err(|callback| self.refused(Refusal::Closed, callback))?;
        // If the loop goes before it has armed the timer, the callback is dropped with the loop's other timers.
        self.post_internal(move |event_loop| event_loop.arm_remote_timer(key));
        Ok(self.shared.timer_id(TimerName::Remote(key)))
    }

    /// Cancels a timer, from any thread.
    ///
    /// For a timer made through a handle the answer is exact, wherever this is called: `true` if its callback had not
    /// started and now never will (a repeating one: not again), `false` if there was nothing left to cancel.
    ///
    /// A timer made on the loop itself can only be cancelled by the loop: on the loop's thread the answer is exact too, and
    /// elsewhere the request is queued, and `true` says that the loop is there to carry it out.
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
                        // Only the slot in the loop's queue is left to be given up; a loop that has gone has done so.
                        self.post_internal(move |event_loop| _ = event_loop.disarm(armed));
                    }
                    true
                }
            },
        }
    }

    /// Moves a timer, as [`EventLoop::reset`], from any thread. The delay counts from this call.
    ///
    /// The answer is as good as that of [`cancel`](LoopHandle::cancel). A deadline of a timer made through a handle that is moved back
    /// does not wake the loop.
    pub fn reset(&self, id: TimerId, delay: Duration) -> bool {
        self.move_timer(id, self.shared.clock.after(delay))
    }

    /// Moves a timer to `deadline`, as [`EventLoop::reset_at`], from any thread.
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
