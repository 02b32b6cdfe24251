//! Jobs as futures.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Workers;
use super::error::{JobError, WorkersError};
use super::pool::Pool;
use crate::event_loop::Refused;
use crate::event_loop::containment::Contained;
use crate::event_loop::tasks::completion::{Completion, completion};
use crate::event_loop::tasks::executor::current;

impl Workers {
    /// Same as [`submit`](Workers::submit) on this thread's loop, with the result as a future.
    /// Queues the job in this call.
    ///
    /// # Errors
    /// Returns `work` if the pool is full or closed, or if the loop is being dropped.
    ///
    /// # Panics
    /// If this thread has no loop.
    #[track_caller]
    pub fn submit_async<F, R>(&self, work: F) -> Result<JobFuture<R>, Refused<F, WorkersError>>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let (completer, result) = completion();
        match self.submit(&current(), work, |_, result| completer.complete(result)) {
            Ok(id) => Ok(JobFuture { pool: self.threads.share(), number: Some(id.number), result }),
            Err(refused) => {
                let reason = refused.reason();
                Err(Refused::new(refused.into_inner().0, reason))
            }
        }
    }

    /// Waits while the pool is full, queues `work`, and waits for its result.
    ///
    /// Dropping the future cancels the job, unless it has begun. A job that has begun runs, and its
    /// result is dropped on the loop. Several futures that wait for a full pool are served in no
    /// particular order.
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use reveille::task::Workers;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let workers = Workers::new()?;
    /// event_loop.spawn_local(async move {
    ///     let product = workers.run(|| (1..=20_u64).product::<u64>()).await;
    ///     println!("20! = {}", product.expect("no panic"));
    /// });
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// A [`WorkersError`] if the pool is closed or the loop ends, and `work` is dropped. A
    /// [`JobError`] if the job has no result.
    ///
    /// # Panics
    /// A poll panics if its thread has no loop.
    pub async fn run<F, R>(&self, work: F) -> io::Result<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let mut work = work;
        let mut room = Room { pool: self.threads.share(), place: None };
        let job = loop {
            match self.submit_async(work) {
                Ok(job) => break job,
                Err(refused) if refused.reason() == WorkersError::Full => work = refused.into_inner(),
                Err(refused) => return Err(refused.reason().into()),
            }
            poll_fn(|context| room.poll(context)).await;
        };
        drop(room);
        Ok(job.await?)
    }
}

/// The result of a job of [`Workers::submit_async`]. Dropping it cancels the job, unless that has
/// begun. It does not keep the pool open.
///
/// A job whose loop has ended returns [`JobError::LoopEnded`].
#[must_use = "the job is cancelled when this is dropped"]
pub struct JobFuture<R> {
    pool: Arc<Pool>,
    /// `None` once the result has been returned.
    number: Option<u64>,
    result: Completion<Result<R, JobError>>,
}

impl<R> Future for JobFuture<R> {
    type Output = Result<R, JobError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.result).poll(context);
        if polled.is_ready() {
            self.number = None;
        }
        polled.map(|result| result.unwrap_or(Err(JobError::LoopEnded)))
    }
}

impl<R> Drop for JobFuture<R> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.pool.cancel(number);
        }
    }
}

impl<R> fmt::Debug for JobFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobFuture").finish_non_exhaustive()
    }
}

/// A wait for a pool that is full.
struct Room {
    pool: Arc<Pool>,
    place: Option<u64>,
}

impl Room {
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        // Wakers are user code, so they are cloned with no lock held.
        let waker = Contained::new(context.waker().clone());
        if self.pool.wait_for_room(&mut self.place, waker) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.pool.leave(place);
        }
    }
}
