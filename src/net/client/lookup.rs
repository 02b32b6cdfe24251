//! `Lookup`: resolves a name without blocking the loop.
//!
//! The system's resolver blocks, so it runs on separate threads (`resolver`). A thread stores its
//! response in the shared [`Request`] and signals an eventfd that the loop watches. Removing the
//! source from the loop cancels the lookup: if it waits for a thread it never runs, and if it is
//! running its response is discarded.

mod resolver;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{Description, EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use resolver::{Request, Resolver};

type Response = io::Result<Vec<SocketAddr>>;
type Then = dyn FnOnce(&EventLoop, Response);

struct Lookup {
    id: ChannelId,
    resolver: &'static Resolver,
    request: Arc<Request>,
    then: Cell<Option<Box<Then>>>,
    /// The process that started the lookup. A forked child does not cancel it: the resolver's
    /// threads exist only in the parent.
    process: ProcessMark,
}

/// Starts a lookup of `host`. `then` is called with the response in phase 3 of a turn. Removing the
/// source with the returned id from the loop cancels that call.
///
/// # Errors
/// No file descriptor or no thread is available. `then` is not called.
pub(in crate::net) fn look_up(
    event_loop: &EventLoop,
    host: &str,
    port: u16,
    then: impl FnOnce(&EventLoop, Response) + 'static,
) -> io::Result<ChannelId> {
    look_up_by(Resolver::of_system(), event_loop, host, port, then)
}

fn look_up_by(
    resolver: &'static Resolver,
    event_loop: &EventLoop,
    host: &str,
    port: u16,
    then: impl FnOnce(&EventLoop, Response) + 'static,
) -> io::Result<ChannelId> {
    let request = Arc::new(Request::new(host, port)?);
    let lookup = event_loop.register(Interest::READABLE, |id| {
        let request = Arc::clone(&request);
        let (then, process) = (Cell::new(Some(Box::new(then) as Box<Then>)), ProcessMark::current());
        Rc::new(Lookup { id, resolver, request, then, process })
    })?;
    match resolver.submit(&request) {
        Ok(()) => Ok(lookup.id),
        Err(error) => {
            event_loop.remove(lookup.id);
            Err(error)
        }
    }
}

impl Source for Lookup {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.request.responded().as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a name lookup")
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let Some(response) = self.request.take_response() else {
            return event_loop.clear_ready(self.id, Readiness::READABLE);
        };
        event_loop.remove(self.id);
        if let Some(then) = self.then.take() {
            then(event_loop, response);
        }
    }

    fn on_panic(&self, _event_loop: &EventLoop, _id: ChannelId) {
        // User code called from here has its own catch.
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.resolver.cancel(&self.request);
        }
    }
}

#[cfg(test)]
mod tests;
