//! Threads that do what is given to them, and signal a counter.
//!
//! A thread is started when there is more to do than threads that rest, up to a limit, and ends when it has rested
//! for a while. None is ever waited for: one that is held up in the kernel, by a pipe in which nothing comes, owns
//! what it works on, and ends when that call does. Nobody is told then.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::event_loop::containment::logger;
use crate::event_loop::trimming::slack::{release_capacity, release_if_empty};
use crate::eventfd::EventFd;
use crate::file_io::operation::{Operation, Outcome};
use crate::file_io::slab::Key;
use crate::file_io::trouble::Trouble;

pub(in crate::file_io) struct Pool {
    shared: Arc<Shared>,
    limit: NonZeroUsize,
    /// How long a thread rests before it ends.
    rest: Duration,
    /// The last that has gone wrong and was not logged.
    trouble: Cell<Option<Trouble>>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do, or nothing any longer.
    changed: Condvar,
    /// Signalled when the first outcome is there after the last have been taken; until the pool is closed, so that no thread that
    /// ends later keeps the descriptor. With a lock of its own: whoever is woken by the signal wants the other.
    done: Mutex<Option<Arc<EventFd>>>,
}

#[derive(Default)]
struct State {
    to_do: VecDeque<(Key, Operation)>,
    done: Vec<(Key, Outcome)>,
    threads: usize,
    resting: usize,
    closed: bool,
}

impl Pool {
    pub(in crate::file_io) fn new(done: Arc<EventFd>, limit: NonZeroUsize, rest: Duration) -> Pool {
        let done = Mutex::new(Some(done));
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), done };
        Pool { shared: Arc::new(shared), limit, rest, trouble: Cell::default() }
    }

    /// Takes all that waits. What cannot be done for want of a thread is refused.
    pub(in crate::file_io) fn submit(
        &self,
        waiting: &mut VecDeque<(Key, Operation)>,
        refused: &mut Vec<(Key, Outcome)>,
    ) {
        let (to_wake, to_start) = {
            let mut state = self.shared.state.lock();
            state.to_do.append(waiting);
            let to_start = state.to_do.len().saturating_sub(state.resting);
            let to_start = to_start.min(self.limit.get() - state.threads);
            state.threads += to_start;
            (state.to_do.len().min(state.resting), to_start)
        };
        for _ in 0..to_wake {
            self.shared.changed.notify_one();
        }
        for started in 0..to_start {
            let (shared, rest) = (Arc::clone(&self.shared), self.rest);
            let thread = thread::Builder::new().name("reveille-file".to_owned());
            if let Err(error) = thread.spawn(move || shared.work(rest)) {
                self.go_without(to_start - started, &error, refused);
                return self.trouble.set(Some(Trouble::NoThread(error)));
            }
        }
    }

    /// `missing` threads could not be started. The others do their work, if there are others.
    fn go_without(&self, missing: usize, error: &io::Error, refused: &mut Vec<(Key, Outcome)>) {
        let mut state = self.shared.state.lock();
        state.threads -= missing;
        if state.threads == 0 {
            let refuse =
                |operation: Operation| operation.refuse(io::Error::new(error.kind(), error.to_string()));
            refused.extend(state.to_do.drain(..).map(|(key, operation)| (key, refuse(operation))));
            release_if_empty(&mut state.to_do);
        }
    }

    /// Takes an operation back, if no thread has begun it.
    pub(in crate::file_io) fn cancel(&self, key: Key) -> Option<Operation> {
        let mut state = self.shared.state.lock();
        let at =
            state.to_do.iter().position(|(to_do, operation)| *to_do == key && operation.may_be_cancelled());
        at.and_then(|at| state.to_do.remove(at)).map(|(_, operation)| operation)
    }

    /// Takes all outcomes that are there.
    pub(in crate::file_io) fn take(&self, outcomes: &mut Vec<(Key, Outcome)>) {
        let done = &mut self.shared.state.lock().done;
        outcomes.append(done);
        release_capacity(done);
    }

    /// Gives up what waits, and has the threads end.
    pub(in crate::file_io) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let given_up = (mem::take(&mut state.to_do), mem::take(&mut state.done));
        drop(state);
        self.shared.changed.notify_all();
        drop(given_up);
        let done = self.shared.done.lock().take();
        drop(done);
    }

    /// What has gone wrong since the last time.
    pub(in crate::file_io) fn trouble(&self) -> Option<Trouble> {
        self.trouble.take()
    }

    #[cfg(test)]
    fn threads(&self) -> usize {
        self.shared.state.lock().threads
    }
}

impl Shared {
    /// A thread's life.
    fn work(&self, rest: Duration) {
        while let Some((key, operation)) = self.next(rest) {
            let performed = operation.perform();
            let mut state = self.state.lock();
            if state.closed {
                drop(state);
                drop(performed);
                continue;
            }
            let outcome = match performed {
                Ok(outcome) => outcome,
                Err(rest) => {
                    state.to_do.push_front((key, rest));
                    continue;
                }
            };
            let is_first = state.done.is_empty();
            state.done.push((key, outcome));
            drop(state);
            // The loop reads the counter before it takes the outcomes. So whoever finds others there may rely on
            // their signal: it has yet to be read, or will be sent.
            if is_first {
                let signalled = self.done.lock().as_ref().map(|done| done.signal());
                if let Some(Err(error)) = signalled {
                    logger::recurring("signalling an outcome", |left_out| {
                        log::error!("cannot signal the outcome of a file operation: {error}{left_out}");
                    });
                }
            }
        }
    }

    /// Waits for something to do; `None` when the thread is to end, and counted as gone.
    fn next(&self, rest: Duration) -> Option<(Key, Operation)> {
        let mut state = self.state.lock();
        loop {
            if let Some(next) = state.to_do.pop_front() {
                return Some(next);
            }
            release_if_empty(&mut state.to_do);
            let mut is_to_end = state.closed;
            if !is_to_end {
                state.resting += 1;
                let rested = self.changed.wait_for(&mut state, rest).timed_out();
                state.resting -= 1;
                is_to_end = rested && state.to_do.is_empty();
            }
            if is_to_end {
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
