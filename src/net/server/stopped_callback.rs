//! `StoppedCallback`: the callback of a stop, which stays on the loop of the server.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Source};
use crate::net::group::{StopReport, WhenEmpty};
use crate::readiness::{Interest, Readiness};

type Then = dyn FnOnce(&EventLoop, StopReport);

/// A source without a descriptor. It owns a callback that need not be `Send`, while the last
/// connection of the server may end on any thread.
pub(super) struct StoppedCallback {
    id: ChannelId,
    then: Cell<Option<Contained<Box<Then>>>>,
}

impl StoppedCallback {
    /// Returns what is to be called when the server has stopped.
    ///
    /// # Errors
    /// If the loop is being dropped; the callback is dropped.
    pub(super) fn register(
        event_loop: &EventLoop,
        then: impl FnOnce(&EventLoop, StopReport) + 'static,
    ) -> io::Result<WhenEmpty> {
        let then = Contained::new(Box::new(then) as Box<Then>);
        let source = event_loop
            .register(Interest::EMPTY, |id| Rc::new(StoppedCallback { id, then: Cell::new(Some(then)) }))?;
        let id = source.id;
        Ok(Contained::new(Box::new(move |event_loop: &EventLoop, mut report: StopReport| {
            event_loop.call_source(id, &mut report);
        })))
    }
}

impl Source for StoppedCallback {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn on_ready(&self, _event_loop: &EventLoop, _ready: Readiness) {}

    fn on_call(&self, event_loop: &EventLoop, report: &mut dyn Any) {
        let Some(report) = report.downcast_ref::<StopReport>() else { return };
        event_loop.remove(self.id);
        if let Some(then) = self.then.take() {
            then.into_inner()(event_loop, *report);
        }
    }
}
