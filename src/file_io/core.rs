//! Operations in progress: how they are submitted to the backend, and how their outcomes are
//! delivered.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::backend::Backend;
use super::fault::Fault;
use super::operation::{Operation, Outcome};
use super::slab::{Key, Slab};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::trimming::slack::{release_capacity, release_if_empty};
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};

pub(super) type Callback = Contained<Box<dyn FnOnce(&EventLoop, Outcome)>>;

/// The delay after which operations that the kernel has refused are submitted again, if no
/// completion arrives before that.
const RETRY: Duration = Duration::from_millis(10);

/// Identifies an operation of a [`FileIo`](super::FileIo), for [`cancel`](super::FileIo::cancel).
/// The id of a completed operation is not reused for at least four thousand million operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    core: u32,
    key: Key,
}

impl OperationId {
    /// No operation.
    pub(super) const NONE: OperationId = OperationId { core: u32::MAX, key: Key::MAX };
}

/// The source of a [`FileIo`](super::FileIo) on its loop.
///
/// Its descriptor is the eventfd that the backend signals.
pub(super) struct FileIoCore {
    id: ChannelId,
    /// Distinguishes the operations of this instance from those of others.
    instance: u32,
    this: Weak<FileIoCore>,
    done: Arc<EventFd>,
    state: RefCell<State>,
    /// A flush is queued.
    flush_queued: Cell<bool>,
    excluded_from_idle: Cell<bool>,
    /// The outcomes being delivered; kept for its capacity.
    batch: Cell<Vec<(Key, Outcome)>>,
}

struct State {
    backend: Backend,
    callbacks: Slab<Callback>,
    /// Operations that the backend has not accepted yet, in order.
    waiting: VecDeque<(Key, Operation)>,
    /// Outcomes that did not come from the backend.
    refused: Vec<(Key, Outcome)>,
}

impl FileIoCore {
    pub(super) fn register(
        event_loop: &EventLoop,
        done: Arc<EventFd>,
        backend: Backend,
    ) -> io::Result<Registration<FileIoCore>> {
        let state = State { backend, callbacks: Slab::new(), waiting: VecDeque::new(), refused: Vec::new() };
        static NEXT_INSTANCE: AtomicU32 = AtomicU32::new(0);
        let instance = NEXT_INSTANCE.fetch_add(1, Relaxed);
        let core = event_loop.register(Interest::READABLE, |id| {
            Rc::new_cyclic(|this| FileIoCore {
                id,
                instance,
                this: this.clone(),
                done,
                state: RefCell::new(state),
                flush_queued: Cell::new(false),
                excluded_from_idle: Cell::new(false),
                batch: Cell::default(),
            })
        })?;
        core.update_counted(event_loop);
        Ok(Registration::new(event_loop, core.id, &core))
    }

    /// The number of operations whose callback has not been called.
    pub(super) fn pending(&self) -> usize {
        self.state.borrow().callbacks.len()
    }

    pub(super) fn set_excluded(&self, event_loop: &EventLoop, excluded: bool) {
        self.excluded_from_idle.set(excluded);
        self.update_counted(event_loop);
    }

    /// Only pending operations keep a loop running.
    fn update_counted(&self, event_loop: &EventLoop) {
        event_loop.set_counted(self.id, !self.excluded_from_idle.get() && self.pending() > 0);
    }

    /// Starts `operation` at the end of this turn, or delivers the error that it failed with.
    pub(super) fn start(
        &self,
        event_loop: &EventLoop,
        operation: Result<Operation, Outcome>,
        then: Callback,
    ) -> OperationId {
        let key = {
            let mut state = self.state.borrow_mut();
            let key = state.callbacks.insert(then);
            match operation {
                Ok(operation) => state.waiting.push_back((key, operation)),
                Err(outcome) => state.refused.push((key, outcome)),
            }
            key
        };
        self.update_counted(event_loop);
        self.flush_later(event_loop);
        OperationId { core: self.instance, key }
    }

    /// Cancels an operation, if possible. Returns whether its callback will still be called.
    pub(super) fn cancel(&self, event_loop: &EventLoop, id: OperationId) -> bool {
        {
            let State { backend, callbacks, waiting, refused } = &mut *self.state.borrow_mut();
            let key = id.key;
            if id.core != self.instance || !callbacks.contains(key) {
                return false;
            }
            let is_it =
                |(waiting, operation): &(Key, Operation)| *waiting == key && operation.may_be_cancelled();
            let cancelled = match waiting.iter().position(is_it) {
                Some(at) => waiting.remove(at).map(|(_, operation)| operation),
                None => backend.cancel(key),
            };
            refused.extend(cancelled.map(|operation| (key, operation.cancelled())));
        }
        self.flush_later(event_loop);
        true
    }

    /// Queues a flush, which submits all operations of a turn together.
    ///
    /// The flush runs in phase 5 as an internal task. So operations started by callbacks in phases
    /// 3 and 4 are submitted in the same turn, and an embedded loop is woken for them. Operations
    /// started by a task are submitted in the next turn, before the loop can sleep.
    fn flush_later(&self, event_loop: &EventLoop) {
        if !self.flush_queued.replace(true) {
            let this = Weak::clone(&self.this);
            event_loop.queue_internal(move |event_loop| {
                if let Some(this) = this.upgrade() {
                    this.flush(event_loop);
                }
            });
        }
    }

    fn flush(&self, event_loop: &EventLoop) {
        self.flush_queued.set(false);
        if !event_loop.is_registered(self.id) {
            return;
        }
        let mut batch = self.batch.take();
        let (submitted, faults) = {
            let State { backend, waiting, refused, .. } = &mut *self.state.borrow_mut();
            let submitted = backend.submit(waiting, refused);
            batch.append(refused);
            release_if_empty(waiting);
            release_capacity(refused);
            (submitted, backend.faults())
        };
        if submitted.is_err() {
            self.flush_again(event_loop);
        }
        self.deliver(event_loop, batch);
        faults.into_iter().chain(submitted.err().map(Fault::NotAccepted)).for_each(Fault::log);
    }

    /// Retries after a delay. A submission also makes the kernel report outstanding completions.
    fn flush_again(&self, event_loop: &EventLoop) {
        let this = Weak::clone(&self.this);
        event_loop.run_after(RETRY, move |event_loop| {
            if let Some(this) = this.upgrade() {
                this.flush_later(event_loop);
            }
        });
    }

    /// Calls the callback of each outcome. If the callback no longer exists, because the core was
    /// closed, the outcome is dropped.
    fn deliver(&self, event_loop: &EventLoop, mut batch: Vec<(Key, Outcome)>) {
        for (key, outcome) in batch.drain(..) {
            let callback = self.state.borrow_mut().callbacks.remove(key);
            if let Some(callback) = callback {
                event_loop
                    .catch("a file operation's callback", || callback.into_inner()(event_loop, outcome));
            }
        }
        release_capacity(&mut batch);
        self.batch.set(batch);
        self.update_counted(event_loop);
        if self.state.borrow().callbacks.has_slack() {
            event_loop.request_trim(self.id);
        }
    }

    /// Closes the file I/O: no callback is called any more.
    pub(super) fn close(&self, event_loop: &EventLoop) {
        if !event_loop.is_registered(self.id) {
            return;
        }
        event_loop.remove(self.id);
        self.end();
    }

    /// Closes the backend and drops pending operations, with nothing borrowed: the destructors of
    /// callbacks are user code.
    fn end(&self) {
        let (dropped, faults) = {
            let state = &mut *self.state.borrow_mut();
            state.backend.close();
            let dropped =
                (mem::take(&mut state.waiting), mem::take(&mut state.refused), state.callbacks.drain());
            (dropped, state.backend.faults())
        };
        drop(dropped);
        faults.into_iter().for_each(Fault::log);
    }
}

impl Source for FileIoCore {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.done.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("file I/O")
    }

    /// The counter is read before the outcomes are taken, so a later outcome makes it readable
    /// again.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let read = self.done.read();
        event_loop.clear_ready(self.id, !Readiness::NONE);
        let mut batch = self.batch.take();
        let (taken, has_waiting, faults) = {
            let State { backend, waiting, .. } = &mut *self.state.borrow_mut();
            let taken = backend.take(&mut batch);
            // The backend can accept more now.
            (taken, !waiting.is_empty() || backend.has_more(), backend.faults())
        };
        if has_waiting {
            self.flush_later(event_loop);
        }
        if taken.is_err() {
            self.flush_again(event_loop);
        }
        self.deliver(event_loop, batch);
        faults.into_iter().chain(taken.err().map(Fault::NotAccepted)).for_each(Fault::log);
        match read {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                logger::recurring("reading the counter of file operations", |left_out| {
                    log::error!("cannot read the counter of file operations: {error}{left_out}");
                });
            }
            _ => {}
        }
    }

    fn on_trim(&self) -> bool {
        self.state.borrow_mut().callbacks.trim();
        false
    }

    fn on_panic(&self, event_loop: &EventLoop, _id: ChannelId) {
        // Called only after a bug in this crate, since panics of callbacks are caught one by one.
        self.close(event_loop);
    }

    fn on_close(&self, _event_loop: &EventLoop) {
        self.end();
    }
}
