//! A lookup on its loop, from its start until its callback is called.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::Core;
use super::question::{Found, Question};
use super::threads::Ticket;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{Description, EventLoop, Source};
use crate::readiness::Readiness;

type Response = io::Result<Found>;

/// What is done with the response. Its drop contains the panics of user code.
pub(super) type Then = Box<dyn FnOnce(&EventLoop, Response)>;

/// A source without a descriptor. Removing it from the loop cancels the lookup.
pub(super) struct Pending {
    id: ChannelId,
    core: Rc<Core>,
    /// What is looked up, and the type of the callback.
    target: String,
    callback: &'static str,
    /// Empty once the lookup has finished.
    slot: Cell<Option<Slot>>,
    /// The query on another thread, if there is one.
    query: Cell<Option<(Question, Ticket)>>,
    /// `None` until the lookup has been accepted.
    then: Cell<Option<Then>>,
}

/// A place among the unfinished lookups of a resolver.
pub(super) struct Slot(Rc<Core>);

impl Slot {
    /// `None` if the resolver is full.
    pub(super) fn take(core: &Rc<Core>) -> Option<Slot> {
        let unfinished = core.unfinished.get();
        (unfinished < core.limit).then(|| {
            core.unfinished.set(unfinished + 1);
            Slot(Rc::clone(core))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.unfinished.set(self.0.unfinished.get() - 1);
    }
}

impl Pending {
    pub(super) fn new(id: ChannelId, slot: Slot, target: String, callback: &'static str) -> Rc<Pending> {
        let core = Rc::clone(&slot.0);
        let (slot, query, then) = (Cell::new(Some(slot)), Cell::new(None), Cell::new(None));
        Rc::new(Pending { id, core, target, callback, slot, query, then })
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    pub(super) fn set_callback(&self, then: Then) {
        self.then.set(Some(then));
    }

    /// Submits the question to the threads.
    pub(super) fn submit(&self, event_loop: &EventLoop, question: Question) {
        match self.core.threads.submit(&question, event_loop.handle(), self.id) {
            Ok(ticket) => self.query.set(Some((question, ticket))),
            Err(error) => self.respond_later(event_loop, Err(error)),
        }
    }

    /// Delivers a response that needs no thread, in phase 5.
    pub(super) fn respond_later(&self, event_loop: &EventLoop, response: Response) {
        let (id, mut response) = (self.id, Some(response));
        event_loop.queue_internal(move |event_loop| _ = event_loop.call_source(id, &mut response));
    }
}

impl Source for Pending {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn describe(&self) -> Description {
        Description::of("a lookup").detail(format_args!("of {:?}", self.target)).handler(self.callback)
    }

    fn on_ready(&self, _event_loop: &EventLoop, _ready: Readiness) {}

    fn on_call(&self, event_loop: &EventLoop, response: &mut dyn Any) {
        let Some(response) = response.downcast_mut::<Option<Response>>().and_then(Option::take) else {
            return;
        };
        if let (Some((question, _)), Ok(found)) = (self.query.take(), &response) {
            self.core.cache.borrow_mut().insert(question, found.clone(), event_loop.now());
        }
        // The callback may start the next lookup.
        self.slot.take();
        let then = self.then.take();
        event_loop.remove(self.id);
        if let Some(then) = then {
            event_loop.catch_in("the callback", self, || then(event_loop, response));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some((question, ticket)) = self.query.take() {
            self.core.threads.cancel(&question, ticket);
        }
    }
}
