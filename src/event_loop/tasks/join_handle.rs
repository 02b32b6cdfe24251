//! `JoinHandle`: the result of a spawned future.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::future_cell::{JoinEnd, Joined};

/// A handle to a spawned future. It is a future too, whose output is the result.
///
/// Any executor on any thread can await it. It is `Send` if `T` is, so a result that is not `Send`
/// stays on its loop. Dropping the handle detaches the future, which continues to run; its result
/// is then dropped on the loop. [`abort`](JoinHandle::abort) and
/// [`abort_on_drop`](JoinHandle::abort_on_drop) end the future early.
///
/// In a forked child, the handle of a future that had not ended returns
/// [`LoopEnded`](JoinError::LoopEnded).
///
/// ```
/// use reveille::{EventLoop, task};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.spawn_local(async {
///     let sum = task::spawn_local(async { 2 + 2 });
///     assert_eq!(sum.await.unwrap(), 4);
///     task::with_loop(|event_loop| event_loop.quit());
/// });
/// event_loop.run()
/// # }
/// ```
///
/// ```compile_fail
/// fn must_be_send<T: Send>(_: T) {}
/// # let event_loop = reveille::EventLoop::new().unwrap();
/// must_be_send(event_loop.spawn_local(async { std::rc::Rc::new(1) }));
/// ```
///
/// # Panics
/// A poll after the result has been returned panics.
#[derive(Debug)]
pub struct JoinHandle<T>(JoinEnd<T>);

impl<T> JoinHandle<T> {
    pub(in crate::event_loop) fn new(end: JoinEnd<T>) -> JoinHandle<T> {
        JoinHandle(end)
    }

    /// Requests that the future be dropped before it is polled again. The handle then returns
    /// [`Aborted`](JoinError::Aborted).
    ///
    /// From any thread. The loop drops the future in its phase of tasks, never inside this call. A
    /// future that is being polled ends normally if this poll is its last. A future that has ended
    /// keeps its result.
    pub fn abort(&self) {
        self.0.header().abort();
    }

    /// Whether the future has ended, so that a poll of the handle returns its result.
    pub fn is_finished(&self) -> bool {
        self.0.header().state.is_complete()
    }

    /// Returns a handle whose drop [aborts](JoinHandle::abort) the future.
    pub fn abort_on_drop(self) -> AbortOnDrop<T> {
        AbortOnDrop(self)
    }
}

impl JoinHandle<()> {
    pub(crate) fn abort_handle(&self) -> AbortHandle {
        AbortHandle(Arc::clone(&self.0.cell))
    }
}

/// Aborts a future whose [`JoinHandle`] belongs to other code.
pub(crate) struct AbortHandle(Arc<dyn Joined<()>>);

impl AbortHandle {
    /// Same as [`JoinHandle::abort`].
    pub(crate) fn abort(&self) {
        self.0.header().abort();
    }

    /// Same as [`JoinHandle::is_finished`].
    pub(crate) fn is_finished(&self) -> bool {
        self.0.header().state.is_complete()
    }
}

impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context)
    }
}

/// A [`JoinHandle`] whose drop aborts the future, also while it is awaited.
#[derive(Debug)]
#[must_use = "the future is aborted when this is dropped"]
pub struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    /// Same as [`JoinHandle::abort`].
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Same as [`JoinHandle::is_finished`].
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        // Without effect on a future that has ended.
        self.0.abort();
    }
}

/// Why a spawned future has no result.
#[non_exhaustive]
pub enum JoinError {
    /// It was [aborted](JoinHandle::abort).
    Aborted,
    /// It panicked. The value is the payload of the panic.
    Panicked(Box<dyn Any + Send>),
    /// Its loop has ended, or belongs to the process that this one was forked from.
    LoopEnded,
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinError::Aborted => "Aborted",
            JoinError::Panicked(_) => "Panicked(..)",
            JoinError::LoopEnded => "LoopEnded",
        })
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinError::Aborted => "the future was aborted",
            JoinError::Panicked(_) => "the future panicked",
            JoinError::LoopEnded => "the event loop has ended",
        })
    }
}

impl Error for JoinError {}

/// The error without the payload of a panic, which is not `Sync`.
#[derive(Debug)]
struct FuturePanicked;

impl fmt::Display for FuturePanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the future panicked")
    }
}

impl Error for FuturePanicked {}

impl From<JoinError> for io::Error {
    /// Drops the payload of a panic.
    fn from(error: JoinError) -> io::Error {
        match error {
            JoinError::Aborted => rustix::io::Errno::CANCELED.into(),
            JoinError::Panicked(payload) => {
                crate::event_loop::containment::dispose(payload);
                io::Error::other(FuturePanicked)
            }
            JoinError::LoopEnded => {
                io::Error::new(io::ErrorKind::BrokenPipe, JoinError::LoopEnded.to_string())
            }
        }
    }
}
