//! Posting a task and waiting for its result.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::event_loop::handle::{LoopHandle, PostError};
use crate::event_loop::process_mark::ProcessMark;

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The loop has [ended](LoopHandle::has_ended) before it has run the task, or belongs to the
    /// process that this one was forked from.
    LoopEnded,
    /// The loop's mailbox is full.
    Full,
    /// The task panicked.
    Panicked,
    /// The timeout has elapsed. A task that had not started by then never runs.
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallError::LoopEnded => "the event loop has ended",
            CallError::Full => "the event loop's mailbox is full",
            CallError::Panicked => "the task panicked",
            CallError::TimedOut => "the call to the event loop timed out",
        })
    }
}

impl Error for CallError {}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> io::Error {
        let kind = match error {
            CallError::LoopEnded => io::ErrorKind::BrokenPipe,
            CallError::Full => io::ErrorKind::WouldBlock,
            CallError::Panicked => io::ErrorKind::Other,
            CallError::TimedOut => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, error)
    }
}

/// The progress of a call, shared by caller and task.
enum CallState<R> {
    Waiting,
    Running,
    /// The caller may have given up before it sees the result.
    Done(Contained<R>),
    Failed(CallError),
    /// The caller has given up.
    Abandoned,
}

struct CallSlot<R> {
    state: Mutex<CallState<R>>,
    changed: Condvar,
    /// The process of the caller, which waits for nothing in a forked child. There the lock may be
    /// held for ever.
    process: ProcessMark,
}

/// The task's end of a slot. The caller always gets a result: dropping this without one completes
/// the call with [`CallError::LoopEnded`].
struct Responder<R>(Arc<CallSlot<R>>);

impl<R> Responder<R> {
    /// Marks the task as running. Returns whether the caller is still waiting; from now on it waits
    /// for the result.
    fn begin(&self) -> bool {
        if !self.0.process.is_current() {
            return false;
        }
        let mut state = self.0.state.lock();
        match *state {
            CallState::Waiting => {
                *state = CallState::Running;
                true
            }
            _ => false,
        }
    }

    fn complete(&self, result: CallState<R>) {
        if !self.0.process.is_current() {
            std::mem::forget(Arc::clone(&self.0));
            return;
        }
        let mut state = self.0.state.lock();
        let unused = match *state {
            CallState::Waiting | CallState::Running => {
                *state = result;
                self.0.changed.notify_one();
                None
            }
            // The caller has given up, so the result is dropped, with no lock held.
            CallState::Abandoned | CallState::Done(_) | CallState::Failed(_) => Some(result),
        };
        drop(state);
        drop(unused);
    }
}

impl<R> Drop for Responder<R> {
    fn drop(&mut self) {
        self.complete(CallState::Failed(CallError::LoopEnded));
    }
}

impl LoopHandle {
    /// Runs `task` on the loop and waits for its result.
    ///
    /// From any thread; on the loop's own thread the task runs directly. If the task panics, or the
    /// loop is dropped before it has run the task, the call returns an error. The caller blocks
    /// while the loop is not run, and two loops that call each other at the same time deadlock;
    /// [`call_timeout`](LoopHandle::call_timeout) limits the wait.
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
    /// A [`CallError`] with the reason why there is no result.
    pub fn call<R, F>(&self, task: F) -> Result<R, CallError>
    where
        F: FnOnce(&EventLoop) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.call_until(None, task)
    }

    /// Same as [`call`](LoopHandle::call), but waits at most `timeout`. On the loop's own thread
    /// there is no limit.
    ///
    /// A task that has not started when the timeout elapses never runs. A task that has started
    /// runs to its end, and its result is dropped. With a timeout of zero the call does not wait;
    /// it succeeds only if the task has completed already.
    ///
    /// # Errors
    /// A [`CallError`] with the reason why there is no result.
    pub fn call_timeout<R, F>(&self, timeout: Duration, task: F) -> Result<R, CallError>
    where
        F: FnOnce(&EventLoop) -> R + Send + 'static,
        R: Send + 'static,
    {
        // A deadline beyond the range of the clock never arrives.
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
        let slot = Arc::new(CallSlot {
            state: Mutex::new(CallState::Waiting),
            changed: Condvar::new(),
            process: self.shared.process(),
        });
        let responder = Responder(Arc::clone(&slot));
        let task = Contained::new(task);
        let posted = self.post(deadline, move |event_loop| {
            if !responder.begin() {
                return;
            }
            let task = task.into_inner();
            // The caller receives a panic before the loop counts it.
            match catch_unwind(AssertUnwindSafe(|| task(event_loop))) {
                Ok(result) => responder.complete(CallState::Done(Contained::new(result))),
                Err(payload) => {
                    responder.complete(CallState::Failed(CallError::Panicked));
                    resume_unwind(payload);
                }
            }
        });
        posted.map_err(|error| match error.reason() {
            PostError::LoopEnded => CallError::LoopEnded,
            PostError::Full if self.blocks_when_full() => CallError::TimedOut,
            PostError::Full => CallError::Full,
        })?;
        slot.wait(deadline)
    }
}

impl<R> CallSlot<R> {
    fn wait(&self, deadline: Option<Instant>) -> Result<R, CallError> {
        let mut state = self.state.lock();
        while matches!(*state, CallState::Waiting | CallState::Running) {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        match std::mem::replace(&mut *state, CallState::Abandoned) {
            CallState::Done(result) => Ok(result.into_inner()),
            CallState::Failed(error) => Err(error),
            CallState::Waiting | CallState::Running | CallState::Abandoned => Err(CallError::TimedOut),
        }
    }
}
