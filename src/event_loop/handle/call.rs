//! Posting a task and waiting for what it returns.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::event_loop::handle::{LoopHandle, PostErrorReason};

/// Why a call gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The loop has gone, or went before it had run the task, or belongs to the process that this one was forked from.
    LoopGone,
    /// The loop's mailbox is full.
    Full,
    /// The task panicked.
    Panicked,
    /// The time was up. A task that had not begun by then never will.
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallError::LoopGone => "the event loop has gone",
            CallError::Full => "the event loop's mailbox is full",
            CallError::Panicked => "the task panicked",
            CallError::TimedOut => "the event loop did not answer in time",
        })
    }
}

impl Error for CallError {}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> io::Error {
        let kind = match error {
            CallError::LoopGone => io::ErrorKind::BrokenPipe,
            CallError::Full => io::ErrorKind::WouldBlock,
            CallError::Panicked => io::ErrorKind::Other,
            CallError::TimedOut => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, error)
    }
}

/// How far a call is. Caller and task share it.
enum Stage<R> {
    Waiting,
    Running,
    /// The caller may be gone before it has seen this.
    Done(Contained<R>),
    Failed(CallError),
    /// The caller has gone.
    Abandoned,
}

struct Slot<R> {
    stage: Mutex<Stage<R>>,
    changed: Condvar,
}

/// The task's end of a slot. However the task ends, the caller is told: if it is dropped without an answer, that is the answer.
struct Answer<R>(Arc<Slot<R>>);

impl<R> Answer<R> {
    /// Whether the caller still waits; from now on it waits to the end.
    fn begin(&self) -> bool {
        let mut stage = self.0.stage.lock();
        match *stage {
            Stage::Waiting => {
                *stage = Stage::Running;
                true
            }
            _ => false,
        }
    }

    fn give(&self, end: Stage<R>) {
        let mut stage = self.0.stage.lock();
        let unwanted = match *stage {
            Stage::Waiting | Stage::Running => {
                *stage = end;
                self.0.changed.notify_one();
                None
            }
            // The caller has gone, so the result is dropped, with no lock held.
            Stage::Abandoned | Stage::Done(_) | Stage::Failed(_) => Some(end),
        };
        drop(stage);
        drop(unwanted);
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        self.give(Stage::Failed(CallError::LoopGone));
    }
}

impl LoopHandle {
    /// Runs `task` on the loop and waits for what it returns.
    ///
    /// From any thread; on the loop's own thread it runs at once. The caller never waits in vain: if the task panics, or the loop
    /// goes before it has run it, that is the answer. But it waits for as long as the loop is not run, and two loops that call
    /// each other at the same time wait for each other: [`call_timeout`](LoopHandle::call_timeout) ends that.
    ///
    /// ```
    /// use reveille::LoopThread;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let thread = LoopThread::spawn("worker")?;
    /// let turns = thread.handle().call(|event_loop| event_loop.iteration())?;
    /// println!("the loop has made {turns} turns");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Says why there is no result.
    pub fn call<R, F>(&self, task: F) -> Result<R, CallError>
    where
        F: FnOnce(&EventLoop) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.call_until(None, task)
    }

    /// As [`call`](LoopHandle::call), for at most so long. On the loop's own thread the task takes the time it takes.
    ///
    /// A task that has not begun when the time is up never will; one that has begun goes on, and its result is dropped.
    ///
    /// # Errors
    /// Says why there is no result.
    pub fn call_timeout<R, F>(&self, timeout: Duration, task: F) -> Result<R, CallError>
    where
        F: FnOnce(&EventLoop) -> R + Send + 'static,
        R: Send + 'static,
    {
        // A deadline that the clock cannot express never comes.
        self.call_until(Instant::now().checked_add(timeout), task)
    }

    fn call_until<R, F>(&self, deadline: Option<Instant>, task: F) -> Result<R, CallError>
    where
        F: FnOnce(&EventLoop) -> R + Send + 'static,
        R: Send + 'static,
    {
        if let Some(event_loop) = self.local_loop() {
            return event_loop.catch("a called task", || task(&event_loop)).ok_or(CallError::Panicked);
        }
        let slot = Arc::new(Slot { stage: Mutex::new(Stage::Waiting), changed: Condvar::new() });
        let answer = Answer(Arc::clone(&slot));
        let task = Contained::new(task);
        let posted = self.post(deadline, move |event_loop| {
            if !answer.begin() {
                return;
            }
            let task = task.into_inner();
            // The caller learns of a panic before the loop counts it.
            match catch_unwind(AssertUnwindSafe(|| task(event_loop))) {
                Ok(result) => answer.give(Stage::Done(Contained::new(result))),
                Err(payload) => {
                    answer.give(Stage::Failed(CallError::Panicked));
                    resume_unwind(payload);
                }
            }
        });
        posted.map_err(|error| match error.reason() {
            PostErrorReason::LoopGone => CallError::LoopGone,
            PostErrorReason::Full if self.blocks_when_full() => CallError::TimedOut,
            PostErrorReason::Full => CallError::Full,
        })?;
        slot.wait(deadline)
    }
}

impl<R> Slot<R> {
    fn wait(&self, deadline: Option<Instant>) -> Result<R, CallError> {
        let mut stage = self.stage.lock();
        while matches!(*stage, Stage::Waiting | Stage::Running) {
            match deadline {
                None => self.changed.wait(&mut stage),
                Some(deadline) => {
                    if self.changed.wait_until(&mut stage, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        match std::mem::replace(&mut *stage, Stage::Abandoned) {
            Stage::Done(result) => Ok(result.into_inner()),
            Stage::Failed(error) => Err(error),
            Stage::Waiting | Stage::Running | Stage::Abandoned => Err(CallError::TimedOut),
        }
    }
}
