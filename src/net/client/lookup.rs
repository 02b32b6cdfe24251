//! Looking a name up without keeping the loop waiting.
//!
//! The system's resolver only blocks, so it runs on threads of its own (`resolver`). Its answer is left where the loop finds it, and
//! a counter that the loop watches reports that it is there. Taking the source out of the loop cancels the lookup: one that waits
//! for a thread does not run, and the answer of one that runs is dropped.

mod resolver;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use resolver::{Question, Resolver};

type Answer = io::Result<Vec<SocketAddr>>;
type Then = dyn FnOnce(&EventLoop, Answer);

struct Lookup {
    id: ChannelId,
    resolver: &'static Resolver,
    question: Arc<Question>,
    then: Cell<Option<Box<Then>>>,
    /// A forked child leaves the resolver's threads to its parent.
    process: ProcessMark,
}

/// Begins to look up `host`, and calls `then` in phase 3 with the answer; never if the source of the returned id is taken out of the
/// loop before.
///
/// # Errors
/// That there is no descriptor or no thread to be had; `then` is not called.
pub(in crate::net) fn look_up(
    event_loop: &EventLoop,
    host: &str,
    port: u16,
    then: impl FnOnce(&EventLoop, Answer) + 'static,
) -> io::Result<ChannelId> {
    look_up_by(Resolver::of_system(), event_loop, host, port, then)
}

fn look_up_by(
    resolver: &'static Resolver,
    event_loop: &EventLoop,
    host: &str,
    port: u16,
    then: impl FnOnce(&EventLoop, Answer) + 'static,
) -> io::Result<ChannelId> {
    let question = Arc::new(Question::new(host, port)?);
    let lookup = event_loop.register(Interest::READABLE, |id| {
        let question = Arc::clone(&question);
        let (then, process) = (Cell::new(Some(Box::new(then) as Box<Then>)), ProcessMark::current());
        Rc::new(Lookup { id, resolver, question, then, process })
    })?;
    match resolver.ask(&question) {
        Ok(()) => Ok(lookup.id),
        Err(error) => {
            event_loop.remove(lookup.id);
            Err(error)
        }
    }
}

impl Source for Lookup {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.question.answered().as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let Some(answer) = self.question.take_answer() else {
            return event_loop.clear_ready(self.id, Readiness::READABLE);
        };
        event_loop.remove(self.id);
        if let Some(then) = self.then.take() {
            then(event_loop, answer);
        }
    }

    fn on_panic(&self, _event_loop: &EventLoop) {
        // The user's code is not called from here without a catch of its own.
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.resolver.cancel(&self.question);
        }
    }
}

#[cfg(test)]
mod tests;
