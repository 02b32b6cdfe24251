//! Posting a task and awaiting its result.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::call::CallError;
use super::{LoopHandle, PostError};
use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::tasks::task::SendTask;

/// What the future and the task share.
struct Slot<R> {
    content: Mutex<Content<R>>,
    /// The process that has queued the task. In a forked child the lock may be held for ever, and
    /// a waker may take such a lock.
    process: ProcessMark,
}

struct Content<R> {
    result: Option<Result<Contained<R>, CallError>>,
    /// Set while the future waits.
    waker: Option<Contained<Waker>>,
}

/// The task's end of a slot. Dropping it without a result completes the call with
/// [`CallError::LoopEnded`].
struct Reply<R>(Arc<Slot<R>>);

impl<R> Reply<R> {
    fn complete(&self, result: Result<Contained<R>, CallError>) {
        if !self.0.process.is_current() {
            // The task has forked, or is dropped by a task that has.
            std::mem::forget(Arc::clone(&self.0));
            return;
        }
        let mut content = self.0.content.lock();
        if content.result.is_some() {
            // The result is dropped with no lock held.
            drop(content);
            return;
        }
        content.result = Some(result);
        let waker = content.waker.take();
        drop(content);
        if let Some(waker) = waker {
            waker.into_inner().wake();
        }
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        self.complete(Err(CallError::LoopEnded));
    }
}

impl LoopHandle {
    /// Queues `task` for the loop, and returns a future of its result. Any executor can await it,
    /// on any thread.
    ///
    /// The task is queued by this call, in order with the other tasks of this thread; on the loop's
    /// own thread it runs before this returns, as with [`call`](LoopHandle::call). It runs even if
    /// the future is dropped, which cancels the wait only. This call never blocks: a full mailbox
    /// is [`CallError::Full`] even if its limit makes other callers wait.
    ///
    /// ```
    /// use reveille::LoopThread;
    ///
    /// async fn turns(thread: &LoopThread) -> std::io::Result<u64> {
    ///     Ok(thread.handle().call_async(|event_loop| event_loop.iteration()).await?)
    /// }
    /// ```
    ///
    /// # Errors
    /// The future returns a [`CallError`] with the reason why there is no result.
    pub fn call_async<R, F>(&self, task: F) -> CallFuture<R>
    where
        F: FnOnce(&EventLoop) -> R + Send + 'static,
        R: Send + 'static,
    {
        if let Some(event_loop) = self.local_loop() {
            let result = event_loop.catch("a called task", || task(&event_loop));
            return CallFuture(State::Ready(result.map(Contained::new).ok_or(CallError::Panicked)));
        }
        if self.is_inherited() {
            return CallFuture(State::Ready(Err(CallError::LoopEnded)));
        }
        let content = Mutex::new(Content { result: None, waker: None });
        let slot = Arc::new(Slot { content, process: self.shared.process() });
        let reply = Reply(Arc::clone(&slot));
        let task = Contained::new(task);
        let pushed = self.push_now(move |event_loop: &EventLoop| {
            let task = task.into_inner();
            match catch_unwind(AssertUnwindSafe(|| task(event_loop))) {
                Ok(result) => reply.complete(Ok(Contained::new(result))),
                Err(payload) => {
                    reply.complete(Err(CallError::Panicked));
                    resume_unwind(payload);
                }
            }
        });
        CallFuture(match pushed {
            Ok(()) => State::Waiting(slot),
            Err(PostError::LoopEnded) => State::Ready(Err(CallError::LoopEnded)),
            Err(PostError::Full) => State::Ready(Err(CallError::Full)),
        })
    }

    /// Pushes a task without waiting, whatever the mailbox does when it is full.
    fn push_now(&self, task: impl FnOnce(&EventLoop) + Send + 'static) -> Result<(), PostError> {
        match self.shared.tasks.push(task, SendTask::new) {
            Ok(wake) => {
                self.shared.wake(wake);
                Ok(())
            }
            Err((refusal, task)) => Err(self.refused(refusal, task).reason()),
        }
    }
}

/// The future of a [`call_async`](LoopHandle::call_async). Dropping it cancels the wait, and not
/// the task. A poll after the result has been returned panics.
#[must_use = "the result is lost if the future is not awaited"]
pub struct CallFuture<R>(State<R>);

enum State<R> {
    Waiting(Arc<Slot<R>>),
    Ready(Result<Contained<R>, CallError>),
    Returned,
}

impl<R> Unpin for CallFuture<R> {}

impl<R> Future for CallFuture<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match std::mem::replace(&mut self.0, State::Returned) {
            State::Ready(result) => result,
            State::Waiting(slot) if slot.process.is_current() => match wait(&slot, context) {
                Some(result) => result,
                None => {
                    self.0 = State::Waiting(slot);
                    return Poll::Pending;
                }
            },
            State::Waiting(slot) => {
                std::mem::forget(slot);
                Err(CallError::LoopEnded)
            }
            State::Returned => panic!("a call was polled after it had returned its result"),
        };
        Poll::Ready(result.map(Contained::into_inner))
    }
}

/// Takes the result, or stores the waker for it.
fn wait<R>(slot: &Slot<R>, context: &Context<'_>) -> Option<Result<Contained<R>, CallError>> {
    // Wakers are user code, so they are cloned and dropped with no lock held.
    let waker = Contained::new(context.waker().clone());
    let mut content = slot.content.lock();
    let result = content.result.take();
    let replaced = if result.is_none() { content.waker.replace(waker) } else { None };
    drop(content);
    drop(replaced);
    result
}

impl<R> Drop for CallFuture<R> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.0, State::Returned) {
            State::Waiting(slot) if slot.process.is_current() => {
                let mut content = slot.content.lock();
                let left = (content.waker.take(), content.result.take());
                drop(content);
                drop(left);
            }
            State::Waiting(slot) => std::mem::forget(slot),
            State::Ready(_) | State::Returned => {}
        }
    }
}

impl<R> fmt::Debug for CallFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}
