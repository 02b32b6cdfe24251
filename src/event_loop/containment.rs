//! Where a panic of the user's code ends.
//!
//! Callbacks, and the destructors of what they capture, are code that this crate does not know. Each call of it goes through
//! [`catch`], and each value that may run it when it is dropped lies in a [`Contained`], from the call that hands it over to the
//! call that hands it back. So such a value may be dropped at any place, be it an early return, the drop of a collection, or the
//! unwinding of another panic: a destructor that panics costs no other value its drop, and does not abort the process.
//!
//! The loop of a thread is told through its [`observer`](set_observer), so that it can count.

#![allow(unsafe_code, reason = "a value is dropped in place, inside a catch")]

pub(crate) mod logger;

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::mem::{self, ManuallyDrop};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic carries. The user may have made it, so it belongs into a [`Contained`], or to [`dispose`].
pub(crate) type Payload = Box<dyn Any + Send>;

/// Takes the payload of a panic in a destructor.
pub(crate) type Observer = fn(Payload);

thread_local! {
    /// Without a destructor, so that it can be read for as long as the thread runs.
    static OBSERVER: Cell<Option<Observer>> = const { Cell::new(None) };
}

/// Has `observer` called with the payload of each panic that a [`Contained`] catches on this thread.
pub(crate) fn set_observer(observer: Observer) {
    OBSERVER.set(Some(observer));
}

/// Calls the user's code. A panic ends here and is logged, of each `what` once a second at most.
///
/// # Errors
/// The payload of the panic.
pub(crate) fn catch<R>(what: &'static str, call: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(call)).inspect_err(|payload| log_panic(what, payload))
}

/// Calls a destructor of the user's. A panic ends here, is logged, and handed to the thread's observer.
pub(crate) fn catch_drop(call: impl FnOnce()) {
    if let Err(payload) = catch("a destructor", call) {
        match OBSERVER.get() {
            Some(observer) => observer(payload),
            None => dispose(payload),
        }
    }
}

/// Drops a payload. One whose destructor panics is gone by then, and what it has panicked with is forgotten, as that may well
/// panic again.
pub(crate) fn dispose(payload: Payload) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // These two have no destructor of the user's.
        if message(&second).is_none() {
            mem::forget(second);
        }
    }
}

#[cold]
fn log_panic(what: &'static str, payload: &Payload) {
    let message = message(payload).unwrap_or("no message");
    logger::recurring(what, |left_out| log::error!("{what} panicked: {message}{left_out}"));
}

/// What `panic!` was called with, if that is a text.
fn message(payload: &Payload) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// A value whose destructor is, or may run, the user's code. A panic in it ends here.
pub(crate) struct Contained<T>(ManuallyDrop<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Contained<T> {
        Contained(ManuallyDrop::new(value))
    }

    /// The value, for whoever drops it under a catch of their own.
    pub(crate) fn into_inner(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped and not used again, so the value leaves here once.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        if mem::needs_drop::<T>() {
            // SAFETY: the value is there, as only `into_inner` takes it, which forgets this; and it is not used again.
            catch_drop(|| unsafe { ManuallyDrop::drop(&mut self.0) });
        }
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Contained<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Contained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
