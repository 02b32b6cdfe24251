//! A pool of threads that perform operations and signal an eventfd.
//!
//! A thread is started when there are more operations than idle threads, up to a limit. It ends
//! when it has been idle for a while. The pool never joins a thread: one that is blocked in the
//! kernel, by an empty pipe, owns the data of its operation, and ends when that call returns. Its
//! outcome is then dropped.

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
use crate::file_io::fault::Fault;
use crate::file_io::operation::{Operation, Outcome};
use crate::file_io::slab::Key;

pub(in crate::file_io) struct ThreadPool {
    shared: Arc<Shared>,
    limit: NonZeroUsize,
    /// How long a thread stays idle before it ends.
    idle_timeout: Duration,
    /// The last error, if it was not logged.
    fault: Cell<Option<Fault>>,
}

struct Shared {
    state: Mutex<State>,
    /// There is an operation to perform, or the pool was closed.
    changed: Condvar,
    /// Signalled for the first outcome after all outcomes were taken. `None` once the pool is
    /// closed, so that a thread that ends later does not keep the descriptor. It has a lock of its
    /// own, because the loop that is woken by the signal takes the other.
    done: Mutex<Option<Arc<EventFd>>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Key, Operation)>,
    done: Vec<(Key, Outcome)>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl ThreadPool {
    pub(in crate::file_io) fn new(
        done: Arc<EventFd>,
        limit: NonZeroUsize,
        idle_timeout: Duration,
    ) -> ThreadPool {
        let done = Mutex::new(Some(done));
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), done };
        ThreadPool { shared: Arc::new(shared), limit, idle_timeout, fault: Cell::default() }
    }

    /// Takes all waiting operations. Those that cannot be performed for lack of a thread are
    /// refused.
    pub(in crate::file_io) fn submit(
        &self,
        waiting: &mut VecDeque<(Key, Operation)>,
        refused: &mut Vec<(Key, Outcome)>,
    ) {
        let (to_wake, to_start) = {
            let mut state = self.shared.state.lock();
            state.queue.append(waiting);
            let to_start = state.queue.len().saturating_sub(state.idle);
            let to_start = to_start.min(self.limit.get() - state.threads);
            state.threads += to_start;
            (state.queue.len().min(state.idle), to_start)
        };
        for _ in 0..to_wake {
            self.shared.changed.notify_one();
        }
        for started in 0..to_start {
            let (shared, idle_timeout) = (Arc::clone(&self.shared), self.idle_timeout);
            let thread = thread::Builder::new().name("reveille-file".to_owned());
            if let Err(error) = thread.spawn(move || shared.work(idle_timeout)) {
                self.handle_missing(to_start - started, &error, refused);
                return self.fault.set(Some(Fault::NoThread(error)));
            }
        }
    }

    /// Handles that `missing` threads could not be started. If there are other threads, they
    /// perform the operations.
    fn handle_missing(&self, missing: usize, error: &io::Error, refused: &mut Vec<(Key, Outcome)>) {
        let mut state = self.shared.state.lock();
        state.threads -= missing;
        if state.threads == 0 {
            let fail = |operation: Operation| operation.fail(io::Error::new(error.kind(), error.to_string()));
            refused.extend(state.queue.drain(..).map(|(key, operation)| (key, fail(operation))));
            release_if_empty(&mut state.queue);
        }
    }

    /// Takes an operation back, if no thread has begun it.
    pub(in crate::file_io) fn cancel(&self, key: Key) -> Option<Operation> {
        let mut state = self.shared.state.lock();
        let at =
            state.queue.iter().position(|(queued, operation)| *queued == key && operation.may_be_cancelled());
        at.and_then(|at| state.queue.remove(at)).map(|(_, operation)| operation)
    }

    /// Takes all outcomes.
    pub(in crate::file_io) fn take(&self, outcomes: &mut Vec<(Key, Outcome)>) {
        let done = &mut self.shared.state.lock().done;
        outcomes.append(done);
        release_capacity(done);
    }

    /// Drops waiting operations, and makes the threads end.
    pub(in crate::file_io) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let dropped = (mem::take(&mut state.queue), mem::take(&mut state.done));
        drop(state);
        self.shared.changed.notify_all();
        drop(dropped);
        let done = self.shared.done.lock().take();
        drop(done);
    }

    /// The last error since the previous call.
    pub(in crate::file_io) fn fault(&self) -> Option<Fault> {
        self.fault.take()
    }

    #[cfg(test)]
    fn threads(&self) -> usize {
        self.shared.state.lock().threads
    }
}

impl Shared {
    /// The main function of a thread.
    fn work(&self, idle_timeout: Duration) {
        while let Some((key, operation)) = self.next(idle_timeout) {
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
                    state.queue.push_front((key, rest));
                    continue;
                }
            };
            let is_first = state.done.is_empty();
            state.done.push((key, outcome));
            drop(state);
            // The loop reads the counter before it takes the outcomes. So if there are others
            // already, their signal covers this one: it has yet to be read, or will be sent.
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

    /// Waits for an operation. `None` if the thread is to end; it is then no longer counted.
    fn next(&self, idle_timeout: Duration) -> Option<(Key, Operation)> {
        let mut state = self.state.lock();
        loop {
            if let Some(next) = state.queue.pop_front() {
                return Some(next);
            }
            release_if_empty(&mut state.queue);
            let mut is_ending = state.closed;
            if !is_ending {
                state.idle += 1;
                let timed_out = self.changed.wait_for(&mut state, idle_timeout).timed_out();
                state.idle -= 1;
                is_ending = timed_out && state.queue.is_empty();
            }
            if is_ending {
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
