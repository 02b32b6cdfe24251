//! Spawning futures from any thread.

use std::time::Instant;

use super::mailbox_limit::MailboxLimit;
use super::{LoopHandle, PostError};
use crate::event_loop::EventLoop;
use crate::event_loop::refused::Refused;
use crate::event_loop::shared::Posted;
use crate::event_loop::tasks::future_cell::{Departing, deferred, sent};
use crate::event_loop::tasks::join_handle::JoinHandle;
use crate::event_loop::tasks::task::SendTask;
use crate::event_loop::tasks::task_queue::Refusal;

impl LoopHandle {
    /// Spawns a future on the loop, same as [`EventLoop::spawn_local`], from any thread.
    ///
    /// The future is sent as a task: the mailbox limit applies, and the task is counted. The loop
    /// polls it, and drops it on its own thread.
    ///
    /// ```
    /// use reveille::{LoopThread, time};
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let thread = LoopThread::spawn("worker")?;
    /// let _joined = thread.handle().spawn(async {
    ///     time::sleep(Duration::from_millis(1)).await; // a timer of the loop that runs the future
    ///     6 * 7
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the future if the loop has ended. Also if its [`MailboxLimit`] is reached, as with
    /// [`queue_in_loop`](LoopHandle::queue_in_loop).
    pub fn spawn<F>(&self, future: F) -> Result<JoinHandle<F::Output>, Refused<F, PostError>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        if let Some(event_loop) = self.local_loop() {
            return self.spawn_here(&event_loop, future, |event_loop, future| event_loop.spawn_local(future));
        }
        let (departing, joined) = sent(&self.shared, future);
        match self.send_future(departing) {
            Ok(()) => Ok(JoinHandle::new(joined)),
            Err(refused) => {
                drop(joined);
                let (departing, reason) = refused.into_parts();
                Err(Refused::new(departing.into_future(), reason))
            }
        }
    }

    /// Spawns the future that `make` returns. `make` is called on the loop, in the first poll, so
    /// the future need not be `Send`.
    ///
    /// ```
    /// use reveille::{LoopThread, task};
    /// use std::rc::Rc;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let thread = LoopThread::spawn("worker")?;
    /// let _joined = thread.handle().spawn_with(|event_loop| {
    ///     let turns = Rc::new(event_loop.iteration());
    ///     async move {
    ///         task::yield_now().await;
    ///         *turns
    ///     }
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns `make` in the same cases as [`spawn`](LoopHandle::spawn).
    pub fn spawn_with<C, F>(&self, make: C) -> Result<JoinHandle<F::Output>, Refused<C, PostError>>
    where
        C: FnOnce(&EventLoop) -> F + Send + 'static,
        F: Future<Output: Send> + 'static,
    {
        if let Some(event_loop) = self.local_loop() {
            return self.spawn_here(&event_loop, make, EventLoop::spawn_deferred);
        }
        let (departing, joined) = deferred(&self.shared, make);
        match self.send_future(departing) {
            Ok(()) => Ok(JoinHandle::new(joined)),
            Err(refused) => {
                drop(joined);
                let (departing, reason) = refused.into_parts();
                Err(Refused::new(departing.into_future().into_closure(), reason))
            }
        }
    }

    fn spawn_here<F, T>(
        &self,
        event_loop: &EventLoop,
        future: F,
        spawn: impl FnOnce(&EventLoop, F) -> JoinHandle<T>,
    ) -> Result<JoinHandle<T>, Refused<F, PostError>> {
        if event_loop.inner.dropping.get() {
            return Err(self.refused(Refusal::Closed, future));
        }
        Ok(spawn(event_loop, future))
    }

    fn send_future<F: Future + 'static, N: 'static>(
        &self,
        departing: Departing<F, N>,
    ) -> Result<(), Refused<Departing<F, N>, PostError>> {
        self.send(None, departing, |departing| {
            let owned = departing.depart();
            SendTask::new(move |event_loop: &EventLoop| event_loop.adopt_future(owned))
        })
    }

    /// For threads other than the loop's. If the mailbox blocks, it waits until the deadline.
    #[inline]
    pub(super) fn send<B>(
        &self,
        deadline: Option<Instant>,
        task: B,
        into_task: impl FnOnce(B) -> Posted,
    ) -> Result<(), Refused<B, PostError>> {
        if self.is_inherited() {
            return Err(self.refused(Refusal::Closed, task));
        }
        let tasks = &self.shared.tasks;
        let pushed = match self.shared.mailbox {
            MailboxLimit::Block(_) => tasks.push_waiting(deadline, task, into_task),
            MailboxLimit::Unbounded | MailboxLimit::Refuse(_) => tasks.push(task, into_task),
        };
        match pushed {
            Ok(wake) => {
                self.shared.wake(wake);
                Ok(())
            }
            Err((refusal, task)) => Err(self.refused(refusal, task)),
        }
    }
}
