//! `Threads`: a bounded number of threads that call the system's resolver.
//!
//! Questions wait in FIFO order of their first asker, each once: an asker of a question that is
//! waiting or being looked up shares that lookup. A thread looks up one question after another and
//! ends when none waits. A lookup cannot be interrupted, so a slow lookup occupies its thread until
//! the resolver returns. Nothing joins the threads.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::question::{Found, Question};
use crate::event_loop::LoopHandle;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{catch, dispose};
use crate::event_loop::process_mark::{PerProcess, ProcessMark};
use crate::event_loop::trimming::slack::release_if_empty;

/// The maximum number of threads that the clients without a resolver share.
const MAX_SHARED: usize = 16;

/// The system's resolver, or that of a test.
type Ask = dyn Fn(&Question) -> io::Result<Found> + Send + Sync;

pub(super) struct Threads {
    ask: Box<Ask>,
    max: usize,
    /// The process that has the threads. A forked child has none, and their lock may be held by one
    /// that it does not have.
    process: ProcessMark,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// The questions that wait for a thread. Each is in `askers` as well.
    waiting: VecDeque<Question>,
    /// The askers of each question that waits or is being looked up. Empty if all have cancelled
    /// while it was being looked up.
    askers: BTreeMap<Question, Vec<Asker>>,
    next_ticket: u64,
}

/// The source that gets the response to a question, on its loop.
struct Asker {
    ticket: Ticket,
    handle: LoopHandle,
    id: ChannelId,
}

/// Identifies an asker among those of all loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Threads {
    pub(super) fn new(max: usize) -> Arc<Threads> {
        Threads::with(max, Question::ask)
    }

    pub(super) fn with(
        max: usize,
        ask: impl Fn(&Question) -> io::Result<Found> + Send + Sync + 'static,
    ) -> Arc<Threads> {
        let process = ProcessMark::current();
        Arc::new(Threads { ask: Box::new(ask), max, process, state: Mutex::default() })
    }

    /// The threads that clients without a resolver share, on all loops of the process.
    pub(super) fn of_process() -> Arc<Threads> {
        static SHARED: PerProcess<Arc<Threads>> = PerProcess::new();
        Arc::clone(SHARED.get(|| Threads::new(MAX_SHARED)))
    }

    /// Queues a question, or joins the lookup of the same question. The source with this `id` gets
    /// the response by [`EventLoop::call_source`] in phase 5, as an `Option<io::Result<Found>>`.
    ///
    /// # Errors
    /// The error of starting a thread, if none is running.
    pub(super) fn submit(
        self: &Arc<Self>,
        question: &Question,
        handle: LoopHandle,
        id: ChannelId,
    ) -> io::Result<Ticket> {
        let mut state = self.state.lock();
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        let asker = Asker { ticket, handle, id };
        if let Some(askers) = state.askers.get_mut(question) {
            askers.push(asker);
            return Ok(ticket);
        }
        if state.running < self.max {
            let threads = Arc::clone(self);
            // The lock is held, so the thread sees the question, which is queued below.
            match thread::Builder::new().name("reveille-lookup".to_owned()).spawn(move || threads.work()) {
                Ok(_) => state.running += 1,
                Err(error) if state.running == 0 => return Err(error),
                // The running threads look it up in turn.
                Err(_) => {}
            }
        }
        state.waiting.push_back(question.clone());
        state.askers.insert(question.clone(), vec![asker]);
        Ok(ticket)
    }

    /// Removes an asker. A waiting question without other askers is not looked up.
    pub(super) fn cancel(&self, question: &Question, ticket: Ticket) {
        if !self.process.is_current() {
            return;
        }
        let mut state = self.state.lock();
        let Some(askers) = state.askers.get_mut(question) else { return };
        askers.retain(|asker| asker.ticket != ticket);
        if !askers.is_empty() {
            return;
        }
        // A question that is not waiting is being looked up; its thread removes it afterwards.
        if let Some(at) = state.waiting.iter().position(|waiting| waiting == question) {
            state.waiting.remove(at);
            state.askers.remove(question);
        }
    }

    /// The main function of a thread: looks up questions until none waits.
    fn work(&self) {
        while let Some(question) = self.next() {
            let response = self.look_up(&question);
            let askers = self.state.lock().askers.remove(&question).unwrap_or_default();
            // Without the lock: responding wakes other threads.
            for Asker { handle, id, .. } in askers {
                let mut response = Some(copy(&response));
                handle.post_internal(move |event_loop| _ = event_loop.call_source(id, &mut response));
            }
        }
    }

    fn next(&self) -> Option<Question> {
        let mut state = self.state.lock();
        let question = state.waiting.pop_front();
        release_if_empty(&mut state.waiting);
        if question.is_none() {
            state.running -= 1;
        }
        question
    }

    fn look_up(&self, question: &Question) -> io::Result<Found> {
        catch("a lookup", || (self.ask)(question)).unwrap_or_else(|payload| {
            dispose(payload);
            Err(io::Error::other(format!("the lookup of {question} panicked")))
        })
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.state.lock().running
    }
}

/// A copy of the response, for one of the askers that share a lookup.
fn copy(response: &io::Result<Found>) -> io::Result<Found> {
    match response {
        Ok(found) => Ok(found.clone()),
        Err(error) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
    }
}
