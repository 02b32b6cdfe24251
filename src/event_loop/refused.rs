//! [`Refused`]: a value that an operation has not accepted, and the reason.

use std::error::Error;
use std::fmt;
use std::io;

use crate::event_loop::containment::Contained;

/// The error of an operation that has not accepted a value. It contains the value, unchanged.
///
/// Every operation that takes a value, such as a task, a closure or bytes, fails with this type,
/// except the methods of builders, such as
/// [`TcpServerBuilder::listener`](crate::net::TcpServerBuilder::listener).
/// The [`reason`](Refused::reason) is a plain enum of the operation's module, or an [`io::Error`],
/// which [`into_parts`](Refused::into_parts) returns. The conversion into
/// an [`io::Error`] drops the value and keeps the reason.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::task::PostError;
///
/// # fn main() -> std::io::Result<()> {
/// let handle = EventLoop::new()?.handle(); // the loop is dropped at once
/// let refused = handle.queue_in_loop(|_| println!("never on the loop")).unwrap_err();
/// assert_eq!(refused.reason(), PostError::LoopEnded);
/// let task = refused.into_inner(); // to be run elsewhere or dropped
/// # drop(task);
/// # Ok(())
/// # }
/// ```
pub struct Refused<T, E> {
    value: T,
    reason: E,
}

impl<T, E> Refused<T, E> {
    pub(crate) fn new(value: T, reason: E) -> Refused<T, E> {
        Refused { value, reason }
    }

    /// Returns the refused value.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Changes the value, for an operation that has converted it.
    pub(crate) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Refused<U, E> {
        Refused { value: convert(self.value), reason: self.reason }
    }

    /// Returns the refused value, and why it was refused.
    pub fn into_parts(self) -> (T, E) {
        (self.value, self.reason)
    }

    /// Why the value was refused.
    pub fn reason(&self) -> E
    where
        E: Copy,
    {
        self.reason
    }
}

impl<T, E: fmt::Debug> fmt::Debug for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<T, E: fmt::Display> fmt::Display for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T, E: Error> Error for Refused<T, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // `Display` shows the reason, so the source is the next error of the chain.
        self.reason.source()
    }
}

impl<T, E: Into<io::Error>> From<Refused<T, E>> for io::Error {
    /// Drops the value.
    fn from(refused: Refused<T, E>) -> io::Error {
        drop(Contained::new(refused.value));
        refused.reason.into()
    }
}
