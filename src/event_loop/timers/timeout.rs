//! `Timeout`: a future with a time limit.

#![allow(unsafe_code, reason = "a pinned structure lends its pinned part")]

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::sleep::{Sleep, sleep};

/// Awaits `future` for at most `limit`, which counts from this call. The time is that of this
/// thread's loop.
///
/// At the limit it returns [`Elapsed`], and the future is dropped with the `Timeout`. A future that
/// is ready in the poll at the limit is not timed out.
///
/// ```
/// use reveille::{EventLoop, time};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.spawn_local(async {
///     let never = std::future::pending::<()>();
///     assert!(time::timeout(Duration::from_millis(1), never).await.is_err());
/// });
/// event_loop.run_until_idle()
/// # }
/// ```
///
/// # Panics
/// If this thread has no loop.
#[track_caller]
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { sleep: sleep(limit), future }
}

/// The future that [`timeout`] returns.
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct Timeout<F> {
    sleep: Sleep,
    /// Pinned with the structure, which has no destructor and does not move it.
    future: F,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: nothing is moved out of the structure. It is `Unpin` only if `F` is.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: the future is pinned with the structure.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        match future.poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Pin::new(&mut this.sleep).poll(context).map(|()| Err(Elapsed(()))),
        }
    }
}

/// The time limit of a [`timeout`] has elapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has elapsed")
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(error: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}
