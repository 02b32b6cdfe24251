//! Catching panics of user code.
//!
//! Callbacks and the destructors of their captures are code that this crate does not control. Each
//! call of user code goes through [`catch`]. Each value whose drop may run user code is stored in a
//! [`Contained`] from the call that takes it to the call that returns it. So such a value may be
//! dropped anywhere: by an early return, by the drop of a collection, or while another panic
//! unwinds. A destructor that panics does not keep other values from being dropped, and does not
//! abort the process.
//!
//! The loop of a thread counts such panics through its [`observer`](set_observer).

#![allow(unsafe_code, reason = "a value is dropped in place, inside a catch")]

pub(crate) mod logger;

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::mem::{self, ManuallyDrop};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::logger::Suppressed;
use super::source::Description;

/// The payload of a panic. It may be a user's value, so it must be stored in a [`Contained`] or
/// passed to [`dispose`].
pub(crate) type Payload = Box<dyn Any + Send>;

/// Takes the payload of a panic in a destructor.
pub(crate) type Observer = fn(Payload);

thread_local! {
    /// It has no destructor, so it can be read as long as the thread runs.
    static OBSERVER: Cell<Option<Observer>> = const { Cell::new(None) };
}

/// Sets the function that is called with the payload of each panic that a [`Contained`] catches on
/// this thread.
pub(crate) fn set_observer(observer: Observer) {
    OBSERVER.set(Some(observer));
}

/// Calls user code. A panic is caught and logged, at most once a second for each `what`.
///
/// # Errors
/// The payload of the panic.
pub(crate) fn catch<R>(what: &'static str, call: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(call)).inspect_err(|payload| log_panic(what, payload))
}

/// Same as [`catch`], for a call of a source's code. A panic is logged at most once a second for
/// each `what` and kind of source. `describe` is called only after a panic.
///
/// # Errors
/// The payload of the panic.
pub(super) fn catch_in<R>(
    what: &'static str,
    describe: impl FnOnce() -> Description,
    call: impl FnOnce() -> R,
) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(call)).inspect_err(|payload| log_panic_in(what, describe, payload))
}

/// Calls a user's destructor. A panic is caught, logged, and passed to the thread's observer.
pub(crate) fn catch_drop(call: impl FnOnce()) {
    if let Err(payload) = catch("a destructor", call) {
        match OBSERVER.get() {
            Some(observer) => observer(payload),
            None => dispose(payload),
        }
    }
}

/// Drops a payload. If its destructor panics, the payload is dropped all the same. The payload of
/// that second panic is leaked, as its destructor may panic again.
pub(crate) fn dispose(payload: Payload) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Text payloads have no destructor of the user.
        if message(&second).is_none() {
            mem::forget(second);
        }
    }
}

#[cold]
fn log_panic(what: &'static str, payload: &Payload) {
    logger::recurring(what, |suppressed| log_line(what, payload, suppressed));
}

#[cold]
fn log_panic_in(what: &'static str, describe: impl FnOnce() -> Description, payload: &Payload) {
    let source = describe();
    logger::recurring_in(what, source.kind(), |suppressed| {
        log_line(format_args!("{what} of {source}"), payload, suppressed);
    });
}

fn log_line(what: impl fmt::Display, payload: &Payload, suppressed: Suppressed) {
    let message = message(payload).unwrap_or("no message");
    log::error!("{what} panicked: {message}{suppressed}");
}

/// The argument of `panic!`, if it is a text.
fn message(payload: &Payload) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// A value whose destructor is, or may run, user code. A panic in it is caught.
pub(crate) struct Contained<T>(ManuallyDrop<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Contained<T> {
        Contained(ManuallyDrop::new(value))
    }

    /// Returns the value, for a caller that drops it inside a catch of its own.
    pub(crate) fn into_inner(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped and not used again, so the value is taken once.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        if mem::needs_drop::<T>() {
            // SAFETY: the value is present, as only `into_inner` takes it, which forgets `self`. It
            // is not used again.
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
