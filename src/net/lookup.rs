//! Looking a name up without keeping the loop waiting.
//!
//! The system's resolver only blocks, so it is asked on a thread of its own, which lasts for the one question. Its answer is left
//! where the loop finds it, and a counter that the loop watches says that it is there. To lose interest is to take the source
//! out of the loop: the resolver cannot be interrupted, but what it answers then is dropped with its thread.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::channel_table::ChannelId;
use crate::event_loop::{EventLoop, Source};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};

type Answer = io::Result<Vec<SocketAddr>>;
type Then = dyn FnOnce(&EventLoop, Answer);

/// What the loop and the thread have in common.
struct Question {
    answer: Mutex<Option<Answer>>,
    answered: EventFd,
}

struct Lookup {
    id: ChannelId,
    question: Arc<Question>,
    then: Cell<Option<Box<Then>>>,
}

/// Begins to look up `host`, and calls `then` in phase 3 with what the resolver has answered; never if the source of the
/// id returned is taken out of the loop before.
///
/// # Errors
/// That there is no descriptor or no thread to be had; `then` is not called.
pub(super) fn look_up(
    event_loop: &EventLoop,
    host: &str,
    port: u16,
    then: impl FnOnce(&EventLoop, Answer) + 'static,
) -> io::Result<ChannelId> {
    let question = Arc::new(Question { answer: Mutex::new(None), answered: EventFd::new(0)? });
    let asked = Arc::clone(&question);
    let lookup = event_loop.register(Interest::READABLE, |id| {
        Rc::new(Lookup { id, question, then: Cell::new(Some(Box::new(then))) })
    })?;
    let host = host.to_owned();
    let resolve = move || {
        let answer = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        *asked.answer.lock() = Some(answer);
        if let Err(error) = asked.answered.signal() {
            log::error!("cannot tell the loop that {host} has been looked up: {error}");
        }
    };
    match thread::Builder::new().name("reveille-lookup".to_owned()).spawn(resolve) {
        Ok(_) => Ok(lookup.id),
        Err(error) => {
            event_loop.remove(lookup.id);
            Err(error)
        }
    }
}

impl Source for Lookup {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.question.answered.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let answer = self.question.answer.lock().take();
        let Some(answer) = answer else {
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
