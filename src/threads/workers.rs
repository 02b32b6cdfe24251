//! A bounded pool of threads for work that would block a loop.

pub(crate) mod builder;
mod delivery;
pub(crate) mod error;
pub(crate) mod job_future;
mod pool;

use std::fmt;
use std::io;
use std::sync::Arc;

use self::builder::WorkersBuilder;
use self::delivery::Delivery;
use self::error::{JobError, WorkersError};
use self::pool::{Start, Threads};
use crate::event_loop::containment::Contained;
use crate::event_loop::idle::SourceId;
use crate::event_loop::tasks::task::SendTask;
use crate::event_loop::{EventLoop, LoopHandle, Refused};

/// A pool of threads that runs closures off the loop and delivers their results on the loop.
///
/// For work that would block a loop: computations, and calls of blocking libraries. For files there
/// is [`FileIo`](crate::fs::FileIo), and for names [`Resolver`](crate::net::Resolver).
///
/// Clones share the pool. All methods can be called from any thread.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::task::Workers;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let workers = Workers::new()?;
/// let work = || (1..=20_u64).product::<u64>(); // on a thread of the pool
/// workers.submit(&event_loop, work, |event_loop, result| {
///     println!("20! = {}", result.expect("neither cancelled nor panicked"));
///     event_loop.quit();
/// })?;
/// event_loop.run()
/// # }
/// ```
///
/// # Order
/// Jobs start in the order in which they were accepted. With more than one thread they may end in
/// another order. The results of one thread are delivered in the order in which its jobs ended, so
/// a pool of one thread preserves the order.
///
/// A job occupies its thread until it returns; it is never interrupted. A long job delays the jobs
/// behind it only while all threads are occupied. Long and short jobs are separated by two pools.
///
/// # Limits
/// The number of threads is fixed. At most [`queue`](WorkersBuilder::queue) jobs wait for a thread,
/// 1024 by default. A job beyond that is refused with [`WorkersError::Full`].
///
/// # Refused jobs
/// [`Refused`] returns the closures, with all that they own. They can be submitted again, or be
/// called. If `done` owns a [`ReplySlot`](crate::net::ReplySlot), the call of it with an error
/// replies for a refused job as for a cancelled one. A slot that is dropped resets its connection.
///
/// ```
/// use reveille::TcpConnection;
/// use reveille::net::SendError;
/// use reveille::task::{JobError, Workers};
///
/// fn reply(conn: &TcpConnection, workers: &Workers, request: Vec<u8>) -> Result<(), SendError> {
///     let slot = conn.reserve_reply()?;
///     let work = move || request.to_ascii_uppercase();
///     let done = move |_: &_, result: Result<Vec<u8>, JobError>| {
///         let reply = result.unwrap_or_else(|_| b"busy".to_vec());
///         let _ = slot.fill(reply); // an error: the connection is closed, or has too much unsent
///     };
///     if let Err(refused) = workers.submit(conn.event_loop(), work, done) {
///         let (_work, done) = refused.into_inner();
///         done(conn.event_loop(), Err(JobError::Cancelled)); // replies "busy"
///     }
///     Ok(())
/// }
/// ```
///
/// # Cost
/// Queueing a job makes a system call only if a thread of the pool sleeps, and the delivery of a
/// result only if the loop sleeps. [`submit`](Workers::submit) allocates one heap block for `done`.
/// The closures of a job need one more block unless they fit into two machine words.
///
/// # Outcomes
/// A refused job has not begun and never runs. An accepted job has one of these outcomes:
///
/// - It runs, and `done` gets its result, or [`JobError::Panicked`]. A panic is logged and does not
///   end the thread. It is not counted by a loop.
/// - It is cancelled before it has begun, and `done` gets [`JobError::Cancelled`].
/// - Its loop is dropped first. The job runs unless it is cancelled. Its result is dropped, and so
///   is `done`: that of [`submit`](Workers::submit) with the loop, that of
///   [`submit_to`](Workers::submit_to) on the thread of the job.
///
/// Results are delivered in phase 5 of a [turn](EventLoop#one-turn), ahead of tasks. The
/// [`MailboxLimit`](crate::task::MailboxLimit) of the loop does not apply to them.
///
/// # Dropping
/// The drop of the last clone closes the pool, waits until all accepted jobs have run, and joins
/// the threads. A loop delivers their results when it runs next.
/// [`cancel_waiting`](Workers::cancel_waiting) reduces the wait to the jobs that have begun. If a
/// job waits for a loop, for example in [`LoopHandle::call`], and that loop is blocked in this
/// drop, the two deadlock.
///
/// The drop by a job of the pool itself does not wait. The threads end when the accepted jobs have
/// run.
///
/// # Fork
/// A forked child has none of the threads. There a job is refused with [`WorkersError::Closed`],
/// and the drop has no effect on the parent.
#[derive(Clone)]
pub struct Workers {
    threads: Arc<Threads>,
}

/// Identifies a job of a [`Workers`], for [`cancel`](Workers::cancel). Ids are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId {
    pool: u32,
    number: u64,
    /// What waits for the result on a loop.
    delivery: Option<SourceId>,
}

impl Workers {
    /// Starts a pool with one thread for each processor that is
    /// [available](std::thread::available_parallelism).
    ///
    /// # Errors
    /// The error of starting a thread.
    pub fn new() -> io::Result<Workers> {
        Workers::builder().build()
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> WorkersBuilder {
        WorkersBuilder::new()
    }

    /// Runs `work` on a thread of the pool. Returns at once.
    ///
    /// # Errors
    /// Returns `work` if the pool is full or closed.
    pub fn execute<F>(&self, work: F) -> Result<JobId, Refused<F, WorkersError>>
    where
        F: FnOnce() + Send + 'static,
    {
        self.push(work, |work| {
            let work = Contained::new(work);
            SendTask::new(move |start: &Start| _ = start.run(work))
        })
    }

    /// Runs `work` on a thread of the pool, and then `done` on the loop with its result. Returns at
    /// once, before `done` is called.
    ///
    /// `done` stays on the loop and need not be `Send`. It is called with nothing borrowed, and may
    /// submit the next job: the thread of its own job counts as free by then.
    ///
    /// # Errors
    /// Returns `work` and `done` if the pool is full or closed, or if the loop has ended.
    pub fn submit<F, R, D>(
        &self,
        event_loop: &EventLoop,
        work: F,
        done: D,
    ) -> Result<JobId, Refused<(F, D), WorkersError>>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
        D: FnOnce(&EventLoop, Result<R, JobError>) + 'static,
    {
        let Ok(delivery) = Delivery::register(event_loop) else {
            return Err(Refused::new((work, done), WorkersError::LoopEnded));
        };
        let (address, handle) = (delivery.address(), event_loop.handle());
        let pushed = self.push(work, |work| {
            let work = Contained::new(work);
            SendTask::new(move |start: &Start| address.deliver(&handle, start.run(work)))
        });
        match pushed {
            Ok(id) => {
                // A result that exists already waits for phase 5.
                delivery.set_callback(done);
                Ok(JobId { delivery: Some(event_loop.source_id(delivery.id())), ..id })
            }
            Err(refused) => {
                delivery.remove(event_loop);
                let reason = refused.reason();
                Err(Refused::new((refused.into_inner(), done), reason))
            }
        }
    }

    /// Same as [`submit`](Workers::submit), for the loop of another thread.
    ///
    /// # Errors
    /// Returns `work` and `done` if the pool is full or closed, or if the loop has ended.
    pub fn submit_to<F, R, D>(
        &self,
        handle: &LoopHandle,
        work: F,
        done: D,
    ) -> Result<JobId, Refused<(F, D), WorkersError>>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
        D: FnOnce(&EventLoop, Result<R, JobError>) + Send + 'static,
    {
        if handle.has_ended() {
            return Err(Refused::new((work, done), WorkersError::LoopEnded));
        }
        self.push((work, done), |(work, done)| {
            let (work, done, handle) = (Contained::new(work), Contained::new(done), handle.clone());
            SendTask::new(move |start: &Start| delivery::deliver_with(&handle, start.run(work), done))
        })
    }

    fn push<T>(
        &self,
        job: T,
        into_task: impl FnOnce(T) -> SendTask<Start>,
    ) -> Result<JobId, Refused<T, WorkersError>> {
        let pool = self.threads.pool();
        match pool.push(job, into_task) {
            Ok(number) => Ok(JobId { pool: pool.instance(), number, delivery: None }),
            Err((reason, job)) => Err(Refused::new(job, reason)),
        }
    }

    /// Cancels a job. Returns `true` if it had not begun: it never runs, and its `done` gets
    /// [`JobError::Cancelled`]. `false` if it has begun or ended, or belongs to another pool.
    ///
    /// `work` is dropped before this returns. `done` is not called before this returns.
    pub fn cancel(&self, id: JobId) -> bool {
        let pool = self.threads.pool();
        id.pool == pool.instance() && pool.cancel(id.number)
    }

    /// Excludes a job of [`submit`](Workers::submit) from what
    /// [`run_until_idle`](EventLoop::run_until_idle) waits for. It runs, and its `done` is called
    /// if it ends while the loop runs. Returns whether its `done` is still to be called on this
    /// loop. Other jobs never count.
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use reveille::task::Workers;
    /// use std::sync::mpsc;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let workers = Workers::new()?;
    /// let (open, gate) = mpsc::channel::<()>();
    /// let job = workers.submit(&event_loop, move || gate.recv(), |_, _| ())?;
    /// assert!(workers.exclude_from_idle(&event_loop, job));
    /// event_loop.run_until_idle()?; // does not wait for the job
    /// drop(open); // the drop of the pool waits for it
    /// # Ok(())
    /// # }
    /// ```
    pub fn exclude_from_idle(&self, event_loop: &EventLoop, id: JobId) -> bool {
        self.set_counted(event_loop, id, false)
    }

    /// Ends the effect of [`exclude_from_idle`](Workers::exclude_from_idle).
    pub fn include_in_idle(&self, event_loop: &EventLoop, id: JobId) -> bool {
        self.set_counted(event_loop, id, true)
    }

    fn set_counted(&self, event_loop: &EventLoop, id: JobId, counted: bool) -> bool {
        id.pool == self.threads.pool().instance()
            && id.delivery.is_some_and(|source| event_loop.set_own_counted(source, counted))
    }

    /// Cancels all jobs that have not begun. Returns their number.
    pub fn cancel_waiting(&self) -> usize {
        self.threads.pool().cancel_waiting()
    }

    /// Closes the pool: later jobs are refused with [`WorkersError::Closed`]. Returns at once. Jobs
    /// accepted before run, and the threads end when none is left.
    pub fn close(&self) {
        self.threads.pool().close();
    }

    /// The number of jobs that have been accepted and have not begun.
    pub fn waiting(&self) -> usize {
        self.threads.pool().waiting()
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}
