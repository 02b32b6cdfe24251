//! Panics of user code on a loop: each is caught, logged and counted, and may be propagated.

use std::panic::resume_unwind;
use std::rc::Rc;

use super::channel_table::ChannelId;
use super::containment::{Contained, Payload, catch, catch_in, dispose};
use super::source::{Description, Source};
use super::{EventLoop, Inner};
use crate::event_loop::observation::pulse::Activity;

impl EventLoop {
    /// Closes a source whose callback has panicked.
    pub(super) fn close_after_panic(&self, id: ChannelId, source: &Rc<dyn Source>) {
        self.catch_in("the close after a panic", &**source, || source.on_panic(self, id));
    }

    /// Calls user code and catches its panic. `None` if it panicked.
    #[inline]
    pub(crate) fn catch<R>(&self, what: &'static str, call: impl FnOnce() -> R) -> Option<R> {
        if self.is_watched() {
            return self.publishing(|| Activity::of(what), || self.catch_unwatched(what, call));
        }
        self.catch_unwatched(what, call)
    }

    /// Same as [`catch`](EventLoop::catch), for a closure of the type `name`.
    #[inline]
    pub(crate) fn catch_named<R>(
        &self,
        what: &'static str,
        name: &'static str,
        call: impl FnOnce() -> R,
    ) -> Option<R> {
        if self.is_watched() {
            return self.publishing(|| Activity::named(what, name), || self.catch_unwatched(what, call));
        }
        self.catch_unwatched(what, call)
    }

    /// Same as [`catch`](EventLoop::catch), without publishing the call to a watchdog.
    #[inline]
    pub(super) fn catch_unwatched<R>(&self, what: &'static str, call: impl FnOnce() -> R) -> Option<R> {
        catch(what, call).map_err(|payload| self.take_panic(payload)).ok()
    }

    /// Same as [`catch`](EventLoop::catch), for a call of the source. The log names the source.
    #[inline]
    pub(crate) fn catch_in<R>(
        &self,
        what: &'static str,
        source: &dyn Source,
        call: impl FnOnce() -> R,
    ) -> Option<R> {
        if self.is_watched() {
            let describe = || Activity::of_source(what, source.describe());
            return self.publishing(describe, || self.catch_in_unwatched(what, source, call));
        }
        self.catch_in_unwatched(what, source, call)
    }

    /// Same as [`catch_in`](EventLoop::catch_in), for a part of a source.
    pub(crate) fn catch_described<R>(
        &self,
        what: &'static str,
        describe: impl Fn() -> Description,
        call: impl FnOnce() -> R,
    ) -> Option<R> {
        let catch = || catch_in(what, &describe, call).map_err(|payload| self.take_panic(payload)).ok();
        if self.is_watched() {
            return self.publishing(|| Activity::of_source(what, describe()), catch);
        }
        catch()
    }

    /// Same as [`catch_in`](EventLoop::catch_in), without publishing the call to a watchdog.
    #[inline]
    pub(super) fn catch_in_unwatched<R>(
        &self,
        what: &'static str,
        source: &dyn Source,
        call: impl FnOnce() -> R,
    ) -> Option<R> {
        catch_in(what, || source.describe(), call).map_err(|payload| self.take_panic(payload)).ok()
    }

    /// Same as [`catch_in`](EventLoop::catch_in), on a loop that only an inspector observes.
    #[inline]
    pub(super) fn catch_in_inspected<R>(
        &self,
        what: &'static str,
        source: &dyn Source,
        call: impl FnOnce() -> R,
    ) -> Option<R> {
        let call = || self.catch_in_unwatched(what, source, call);
        #[cfg(feature = "inspector")]
        return self.numbering(|| Activity::of_source(what, source.describe()), call);
        #[cfg(not(feature = "inspector"))]
        call()
    }

    /// Drops a value that is, or may contain, a value of the user: its destructor is user code too.
    pub(super) fn discard<T>(&self, value: T) {
        self.catch("a destructor", || drop(value));
    }

    /// Counts a caught panic. The first of a turn is kept if panics are to be propagated; any other
    /// payload is dropped.
    fn take_panic(&self, payload: Payload) {
        self.inner.shared.counters.count_panic();
        self.keep_panic(payload);
    }

    /// Same as [`take_panic`](EventLoop::take_panic), for a panic that has been counted.
    pub(super) fn keep_panic(&self, payload: Payload) {
        let Inner { panic, propagate_panics, .. } = &*self.inner;
        let first = panic.take();
        if *propagate_panics && first.is_none() {
            panic.set(Some(Contained::new(payload)));
        } else {
            panic.set(first);
            dispose(payload);
        }
    }

    /// Takes the payload of a panic raised by the destructor of a user value on this thread.
    pub(super) fn observe_panic(payload: Payload) {
        match EventLoop::current() {
            Some(event_loop) => event_loop.take_panic(payload),
            None => dispose(payload),
        }
    }

    /// Counts a caught panic, whose payload goes to a join handle.
    pub(super) fn count_panic_here() {
        if let Some(event_loop) = EventLoop::current() {
            event_loop.inner.shared.counters.count_panic();
        }
    }

    /// Resumes the first panic of the turn, if panics are to be propagated.
    pub(super) fn propagate_panic(&self) {
        if let Some(payload) = self.inner.panic.take() {
            resume_unwind(payload.into_inner());
        }
    }
}
