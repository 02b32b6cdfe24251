//! How the result of a job reaches its callback on the loop.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::error::JobError;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{Description, EventLoop, LoopHandle, Source};
use crate::readiness::{Interest, Readiness};

/// A source without a descriptor. It owns a callback that need not be `Send`, while its job is on
/// another thread. The loop drops it at the latest when the loop itself is dropped.
pub(super) struct Delivery<R, D> {
    id: ChannelId,
    /// `None` until the job has been accepted.
    done: Cell<Option<Contained<D>>>,
    result: PhantomData<fn(R)>,
}

/// The address of a [`Delivery`] on its loop.
pub(super) struct Address<R> {
    id: ChannelId,
    result: PhantomData<fn(R)>,
}

impl<R, D> Delivery<R, D>
where
    R: Send + 'static,
    D: FnOnce(&EventLoop, Result<R, JobError>) + 'static,
{
    /// # Errors
    /// If the loop is being dropped, or is inherited.
    pub(super) fn register(event_loop: &EventLoop) -> io::Result<Rc<Delivery<R, D>>> {
        let make = |id| Rc::new(Delivery { id, done: Cell::new(None), result: PhantomData });
        event_loop.register(Interest::EMPTY, make)
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    pub(super) fn address(&self) -> Address<R> {
        Address { id: self.id, result: PhantomData }
    }

    pub(super) fn set_callback(&self, done: D) {
        self.done.set(Some(Contained::new(done)));
    }

    pub(super) fn remove(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

impl<R: Send + 'static> Address<R> {
    /// Posts the result to the loop. If the loop has ended, the result is dropped here.
    pub(super) fn deliver(self, handle: &LoopHandle, result: Result<R, JobError>) {
        let mut result = Contained::new(Some(result));
        handle.post_internal(move |event_loop| _ = event_loop.call_source(self.id, &mut *result));
    }
}

/// Posts a callback and its argument to the loop. If the loop has ended, both are dropped
/// here.
pub(super) fn deliver_with<R, D>(handle: &LoopHandle, result: Result<R, JobError>, done: Contained<D>)
where
    R: Send + 'static,
    D: FnOnce(&EventLoop, Result<R, JobError>) + Send + 'static,
{
    let result = Contained::new(result);
    handle.post_internal(move |event_loop| call(event_loop, done, result));
}

fn call<R, D>(event_loop: &EventLoop, done: Contained<D>, result: Contained<Result<R, JobError>>)
where
    D: FnOnce(&EventLoop, Result<R, JobError>),
{
    event_loop.catch("the callback of a job", || done.into_inner()(event_loop, result.into_inner()));
}

impl<R, D> Source for Delivery<R, D>
where
    R: 'static,
    D: FnOnce(&EventLoop, Result<R, JobError>) + 'static,
{
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn describe(&self) -> Description {
        Description::of("a job")
    }

    fn on_ready(&self, _event_loop: &EventLoop, _ready: Readiness) {}

    fn on_call(&self, event_loop: &EventLoop, result: &mut dyn Any) {
        let result = result.downcast_mut::<Option<Result<R, JobError>>>().and_then(Option::take);
        event_loop.remove(self.id);
        if let (Some(result), Some(done)) = (result.map(Contained::new), self.done.take()) {
            call(event_loop, done, result);
        }
    }
}

impl<R> fmt::Debug for Address<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
