//! The user's value of a source, such as a `Channel`.

use std::rc::{Rc, Weak};

use super::EventLoop;
use super::channel_table::ChannelId;
use super::source::WeakLoop;

/// A weak reference to a source that the loop owns. Dropping it removes the source from the loop.
///
/// The loop may have removed the source earlier, or have been dropped. In a forked child the loop
/// counts as dropped.
pub(crate) struct Registration<S> {
    event_loop: WeakLoop,
    /// `None` after `detach`.
    id: Option<ChannelId>,
    source: Weak<S>,
}

impl<S> Registration<S> {
    pub(crate) fn new(event_loop: &EventLoop, id: ChannelId, source: &Rc<S>) -> Registration<S> {
        Registration { event_loop: event_loop.downgrade(), id: Some(id), source: Rc::downgrade(source) }
    }

    /// Calls `f` with the source, unless it has been removed.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&EventLoop, &Rc<S>) -> R) -> Option<R> {
        let (id, source) = (self.id?, self.source.upgrade()?);
        let call = |event_loop: &EventLoop| event_loop.is_registered(id).then(|| f(event_loop, &source));
        self.event_loop.with(call).flatten()
    }

    /// Returns the source while it exists, even in a forked child.
    pub(crate) fn source(&self) -> Option<Rc<S>> {
        self.source.upgrade()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.with(|_, _| ()).is_some()
    }

    /// The source does not keep a loop running that runs until it is idle.
    pub(crate) fn exclude_from_idle(&self) {
        self.with(|event_loop, _| self.id.map(|id| event_loop.set_counted(id, false)));
    }

    /// Ends the effect of [`exclude_from_idle`](Registration::exclude_from_idle).
    pub(crate) fn include_in_idle(&self) {
        self.with(|event_loop, _| self.id.map(|id| event_loop.set_counted(id, true)));
    }

    /// Leaves the source to the loop: dropping this no longer removes it.
    pub(crate) fn detach(mut self) {
        self.id = None;
    }
}

impl<S> Drop for Registration<S> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.event_loop.with(|event_loop| event_loop.remove(id));
        }
    }
}
