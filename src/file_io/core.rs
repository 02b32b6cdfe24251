//! What has been asked for and not been answered; how it goes to the back end and comes back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::backend::Driver;
use super::operation::{Operation, Outcome};
use super::slab::{Key, Table};
use super::trouble::Trouble;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::trimming::slack::{release_capacity, release_if_empty};
use crate::event_loop::{EventLoop, Source};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};

pub(super) type Callback = Contained<Box<dyn FnOnce(&EventLoop, Outcome)>>;

/// After how long what the kernel has refused to take is offered to it again, if nothing comes back from it before
/// that.
const RETRY: Duration = Duration::from_millis(10);

/// The name of an operation of a [`FileIo`](super::FileIo), for [`cancel`](super::FileIo::cancel). One that is kept
/// finds nothing for the next four thousand million operations at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    core: u32,
    key: Key,
}

impl OperationId {
    /// No operation.
    pub(super) const NONE: OperationId = OperationId { core: u32::MAX, key: Key::MAX };
}

/// The source that a loop has for a [`FileIo`](super::FileIo).
///
/// Its descriptor is the counter that the back end signals.
pub(super) struct Core {
    id: ChannelId,
    /// Tells this core's operations from those of others.
    name: u32,
    this: Weak<Core>,
    done: Arc<EventFd>,
    state: RefCell<State>,
    /// A flush is under way.
    will_flush: Cell<bool>,
    /// What is being delivered, kept for its capacity.
    batch: Cell<Vec<(Key, Outcome)>>,
}

struct State {
    driver: Driver,
    callbacks: Table<Callback>,
    /// What the back end has not been given yet, in order.
    waiting: VecDeque<(Key, Operation)>,
    /// What is answered without it.
    refused: Vec<(Key, Outcome)>,
}

impl Core {
    pub(super) fn register(
        event_loop: &EventLoop,
        done: Arc<EventFd>,
        driver: Driver,
    ) -> io::Result<Rc<Core>> {
        let state = State { driver, callbacks: Table::new(), waiting: VecDeque::new(), refused: Vec::new() };
        static NEXT_NAME: AtomicU32 = AtomicU32::new(0);
        let name = NEXT_NAME.fetch_add(1, Relaxed);
        event_loop.register(Interest::READABLE, |id| {
            Rc::new_cyclic(|this| Core {
                id,
                name,
                this: this.clone(),
                done,
                state: RefCell::new(state),
                will_flush: Cell::new(false),
                batch: Cell::default(),
            })
        })
    }

    /// How many operations have not been answered.
    pub(super) fn pending(&self) -> usize {
        self.state.borrow().callbacks.len()
    }

    /// Has `operation` begin at the end of this turn, or answered with what is wrong with it. A core that has been
    /// closed drops it, and `then` with it.
    pub(super) fn start(
        &self,
        event_loop: &EventLoop,
        operation: Result<Operation, Outcome>,
        then: Callback,
    ) -> OperationId {
        if !event_loop.is_registered(self.id) {
            return OperationId::NONE;
        }
        let key = {
            let mut state = self.state.borrow_mut();
            let key = state.callbacks.insert(then);
            match operation {
                Ok(operation) => state.waiting.push_back((key, operation)),
                Err(outcome) => state.refused.push((key, outcome)),
            }
            key
        };
        self.flush_later(event_loop);
        OperationId { core: self.name, key }
    }

    /// Has an operation given up, if that can still be. Answers whether its callback is still to be called.
    pub(super) fn cancel(&self, event_loop: &EventLoop, id: OperationId) -> bool {
        {
            let State { driver, callbacks, waiting, refused } = &mut *self.state.borrow_mut();
            let key = id.key;
            if id.core != self.name || !callbacks.contains(key) {
                return false;
            }
            let is_it =
                |(waiting, operation): &(Key, Operation)| *waiting == key && operation.may_be_cancelled();
            let taken_back = match waiting.iter().position(is_it) {
                Some(at) => waiting.remove(at).map(|(_, operation)| operation),
                None => driver.cancel(key),
            };
            refused.extend(taken_back.map(|operation| (key, operation.cancelled())));
        }
        self.flush_later(event_loop);
        true
    }

    /// Gathers what a turn asks for, to go to the back end at once.
    ///
    /// In phase 5, as an errand: what the callbacks of phases 3 and 4 ask for goes in the same turn, an embedded loop
    /// is woken for it, and what a task asks for goes with what the next turn's callbacks do, before that loop can
    /// sleep.
    fn flush_later(&self, event_loop: &EventLoop) {
        if !self.will_flush.replace(true) {
            let this = Weak::clone(&self.this);
            event_loop.queue_internal(move |event_loop| {
                if let Some(this) = this.upgrade() {
                    this.flush(event_loop);
                }
            });
        }
    }

    fn flush(&self, event_loop: &EventLoop) {
        self.will_flush.set(false);
        if !event_loop.is_registered(self.id) {
            return;
        }
        let mut batch = self.batch.take();
        let (submitted, troubles) = {
            let State { driver, waiting, refused, .. } = &mut *self.state.borrow_mut();
            let submitted = driver.submit(waiting, refused);
            batch.append(refused);
            release_if_empty(waiting);
            release_capacity(refused);
            (submitted, driver.troubles())
        };
        if submitted.is_err() {
            self.flush_again(event_loop);
        }
        self.deliver(event_loop, batch);
        troubles.into_iter().chain(submitted.err().map(Trouble::NotTaken)).for_each(Trouble::log);
    }

    /// Tries it again in a while. A submission also makes the kernel say what it has not said.
    fn flush_again(&self, event_loop: &EventLoop) {
        let this = Weak::clone(&self.this);
        event_loop.run_after(RETRY, move |event_loop| {
            if let Some(this) = this.upgrade() {
                this.flush_later(event_loop);
            }
        });
    }

    /// Calls back with each outcome. One whose callback has gone, since the core was closed, is dropped.
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
        if self.state.borrow().callbacks.has_slack() {
            event_loop.request_trim(self.id);
        }
    }

    /// Ends it: nothing is called any longer.
    pub(super) fn close(&self, event_loop: &EventLoop) {
        if !event_loop.is_registered(self.id) {
            return;
        }
        event_loop.remove(self.id);
        self.end();
    }

    /// Ends the back end, and drops what waits, with nothing borrowed: the destructors of callbacks are the user's
    /// code.
    fn end(&self) {
        let (dropped, troubles) = {
            let state = &mut *self.state.borrow_mut();
            state.driver.close();
            let dropped =
                (mem::take(&mut state.waiting), mem::take(&mut state.refused), state.callbacks.drain());
            (dropped, state.driver.troubles())
        };
        drop(dropped);
        troubles.into_iter().for_each(Trouble::log);
    }
}

impl Source for Core {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.done.as_fd())
    }

    /// The counter is read before the outcomes are taken, so one that comes later signals anew.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let read = self.done.read();
        event_loop.clear_ready(self.id, !Readiness::NONE);
        let mut batch = self.batch.take();
        let (taken, some_wait, troubles) = {
            let State { driver, waiting, .. } = &mut *self.state.borrow_mut();
            let taken = driver.take(&mut batch);
            // There is room for them now.
            (taken, !waiting.is_empty() || driver.has_more(), driver.troubles())
        };
        if some_wait {
            self.flush_later(event_loop);
        }
        if taken.is_err() {
            self.flush_again(event_loop);
        }
        self.deliver(event_loop, batch);
        troubles.into_iter().chain(taken.err().map(Trouble::NotTaken)).for_each(Trouble::log);
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

    fn on_panic(&self, event_loop: &EventLoop) {
        // Only by a mistake in this crate: callbacks are caught one by one.
        self.close(event_loop);
    }

    fn on_close(&self, _event_loop: &EventLoop) {
        self.end();
    }
}
