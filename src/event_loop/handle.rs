//! The face of a loop that any thread may use.

pub(in crate::event_loop) mod call;
pub(in crate::event_loop) mod mailbox_limit;
mod timers;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use self::mailbox_limit::MailboxLimit;
use super::EventLoop;
use super::counters::LoopCounters;
use super::shared::Shared;
use crate::event_loop::containment::Contained;
use crate::event_loop::tasks::task::{SendTask, Task};
use crate::event_loop::tasks::task_queue::Refusal;

/// A loop, seen from any thread. Clones speak to the same loop.
///
/// What is asked through a handle happens on the loop's thread. A handle does not keep its loop alive; what is asked of a loop
/// that has gone is refused, and given back.
///
/// The tasks of one thread keep their order among themselves, and so do its timers' making and cancelling; of a task and a timer
/// that one thread asks for one after the other, either may be seen first.
#[derive(Clone)]
pub struct LoopHandle {
    shared: Arc<Shared>,
}

impl LoopHandle {
    pub(super) fn new(shared: Arc<Shared>) -> LoopHandle {
        LoopHandle { shared }
    }

    /// Runs `task` on the loop: at once, before this returns, if this is the loop's thread, else as
    /// [`queue_in_loop`](LoopHandle::queue_in_loop).
    ///
    /// From any thread. On the loop's thread a panic of the task is the caller's.
    ///
    /// # Errors
    /// Gives `task` back if the loop has gone.
    pub fn run_in_loop<F>(&self, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        match self.local_loop() {
            Some(event_loop) => {
                task(&event_loop);
                Ok(())
            }
            None => self.post(None, task),
        }
    }

    /// Queues `task` for the loop, and wakes the loop if it sleeps.
    ///
    /// From any thread. Tasks of one thread run in the order queued, each on the loop's thread, with no lock held. The loop runs
    /// one batch a turn: what a task queues waits for the next one.
    ///
    /// Every task has a known fate. It is run; or it is given back here; or, accepted by a loop that is then dropped without
    /// having run it, it is dropped and counted in [`LoopCounters::tasks_dropped`]. A task accepted before a request to
    /// [`quit`](LoopHandle::quit) is run before the [`EventLoop::run`] that honours the request returns, unless the loop was
    /// [told](super::EventLoopBuilder::drop_tasks_on_quit) to drop it.
    ///
    /// No system call while the loop is awake, and one for each sleep, however many tasks come meanwhile. No heap block for a
    /// task whose captures are up to four words.
    ///
    /// # Errors
    /// Gives `task` back if the loop has gone, or is being dropped; and if its [`MailboxLimit`](super::MailboxLimit) is full and does not
    /// have its callers wait, or this is the loop's own thread.
    #[inline]
    pub fn queue_in_loop<F>(&self, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        // The thread's own queue, so that tasks posted here and through the loop itself keep their order.
        match self.local_loop() {
            Some(event_loop) => self.queue_here(&event_loop, task),
            None => self.post(None, task),
        }
    }

    fn queue_here<F>(&self, event_loop: &EventLoop, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        if event_loop.inner.dropping.get() {
            return Err(self.refused(Refusal::Closed, task));
        }
        if event_loop.inner.local_tasks.borrow().tasks.len() >= self.shared.mailbox.capacity() {
            return Err(self.refused(Refusal::Full, task));
        }
        event_loop.queue_in_loop(task);
        Ok(())
    }

    /// Whether a full mailbox has posters wait, so that one which is refused has waited in vain.
    pub(super) fn blocks_when_full(&self) -> bool {
        matches!(self.shared.mailbox, MailboxLimit::Block(_))
    }

    /// For other threads than the loop's. Waits for room at most until the deadline, if at all.
    #[inline]
    pub(super) fn post<F>(&self, deadline: Option<Instant>, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        if self.is_inherited() {
            return Err(self.refused(Refusal::Closed, task));
        }
        let tasks = &self.shared.tasks;
        let pushed = match self.shared.mailbox {
            MailboxLimit::Block(_) => tasks.push_waiting(deadline, task, SendTask::new),
            MailboxLimit::Unbounded | MailboxLimit::Reject(_) => tasks.push(task, SendTask::new),
        };
        match pushed {
            Ok(wake) => {
                self.shared.wake(wake);
                Ok(())
            }
            Err((refusal, task)) => Err(self.refused(refusal, task)),
        }
    }

    #[cold]
    fn refused<F>(&self, refusal: Refusal, task: F) -> PostError<F> {
        self.shared.counters.count_refused();
        let reason = match refusal {
            Refusal::Closed => PostErrorReason::LoopGone,
            Refusal::Full => PostErrorReason::Full,
        };
        PostError { task, reason }
    }

    /// Has `errand` run as a task is, without counting it as one, and whatever waits. Answers whether the loop is there.
    pub(crate) fn post_internal(&self, task: impl FnOnce(&EventLoop) + Send + 'static) -> bool {
        match self.local_loop() {
            Some(event_loop) if event_loop.inner.dropping.get() => false,
            Some(event_loop) => {
                event_loop.queue_local(|batch| batch.internal.push(Task::new(task)));
                true
            }
            None => self.push_internal(task),
        }
    }

    /// As [`post_internal`](LoopHandle::post_internal), but on the loop's own thread `errand` runs before this returns, also while the loop is
    /// being dropped. It must not call the user's code.
    pub(crate) fn run_internal(&self, task: impl FnOnce(&EventLoop) + Send + 'static) -> bool {
        match self.local_loop() {
            Some(event_loop) => {
                task(&event_loop);
                true
            }
            None => self.push_internal(task),
        }
    }

    fn push_internal(&self, task: impl FnOnce(&EventLoop) + Send + 'static) -> bool {
        if self.is_inherited() {
            return false;
        }
        let pushed = self.shared.tasks.push_internal(SendTask::new(task));
        pushed.map(|wake| self.shared.wake(wake)).is_ok()
    }

    /// Asks the loop to return from [`EventLoop::run`], as [`EventLoop::quit`]. From any thread; without effect on a loop that
    /// has gone.
    pub fn quit(&self) {
        self.shared.quit();
    }

    /// Whether the loop has ended: it was dropped, as it is when the thread of a [`LoopThread`](crate::LoopThread) ends, or is being dropped.
    /// It runs nothing any more, and refuses posts. From any thread; no lock and no system call.
    ///
    /// A loop that has not ended may do so at any moment, so a post may be refused all the same.
    pub fn is_terminated(&self) -> bool {
        self.shared.terminated.load(Relaxed)
    }

    /// Whether the caller is on the loop's thread, and the loop still there.
    pub fn is_in_loop_thread(&self) -> bool {
        self.local_loop().is_some()
    }

    /// What the loop has counted so far; also after the loop has gone.
    pub fn counters(&self) -> LoopCounters {
        self.shared.counters()
    }

    /// Whether this is a forked child of the process that has made the loop. What the loop shares with other threads must not be
    /// touched there: one of them may have been in the middle of a change, and holds the lock for ever.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if this is such a child.
    pub(crate) fn check_process(&self) -> io::Result<()> {
        self.shared.process().check()
    }

    /// The loop itself, if this is its thread.
    pub(super) fn local_loop(&self) -> Option<EventLoop> {
        EventLoop::current()
            .filter(|current| Arc::ptr_eq(&current.inner.shared, &self.shared) && !self.is_inherited())
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").field("loop", &self.shared.id()).finish_non_exhaustive()
    }
}

/// A task that was refused, and why.
///
/// ```
/// use reveille::EventLoop;
///
/// # fn main() -> std::io::Result<()> {
/// let handle = EventLoop::new()?.handle(); // the loop is dropped at once
/// let refused = handle.queue_in_loop(|_| println!("never on the loop")).unwrap_err();
/// let task = refused.into_task(); // to be run elsewhere, or dropped knowingly
/// # drop(task);
/// # Ok(())
/// # }
/// ```
pub struct PostError<F> {
    task: F,
    reason: PostErrorReason,
}

/// Why a task was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostErrorReason {
    /// The loop has gone, or is being dropped, or belongs to the process that this one was forked from.
    LoopGone,
    /// As many tasks wait as the loop's [`MailboxLimit`](super::MailboxLimit) allows.
    Full,
}

impl<F> PostError<F> {
    /// The task, as it was handed in.
    pub fn into_task(self) -> F {
        self.task
    }

    /// Why it was refused.
    pub fn reason(&self) -> PostErrorReason {
        self.reason
    }
}

impl<F> fmt::Debug for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<F> fmt::Display for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            PostErrorReason::LoopGone => "the event loop has gone",
            PostErrorReason::Full => "the event loop's mailbox is full",
        })
    }
}

impl<F> Error for PostError<F> {}

impl<F> From<PostError<F>> for io::Error {
    /// Drops the task.
    fn from(error: PostError<F>) -> io::Error {
        let kind = match error.reason {
            PostErrorReason::LoopGone => io::ErrorKind::BrokenPipe,
            PostErrorReason::Full => io::ErrorKind::WouldBlock,
        };
        let message = error.to_string();
        drop(Contained::new(error.task));
        io::Error::new(kind, message)
    }
}
