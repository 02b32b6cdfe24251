//! The spawned futures of this thread's loop that are to be polled, in the order of their wake-ups.
//!
//! A waker can be used on any thread, and must find the loop's queue without a lock on the loop's
//! own thread. So the queue is a thread-local, and a waker compares its loop with that of the
//! thread. The queue holds keys, so a wake-up changes no reference count.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem::ManuallyDrop;

use super::future_table::FutureKey;
use crate::event_loop::trimming::slack::{Slack, is_large, retained};

/// The identity of a loop: the address of its shared state, or 0 for no loop. A caller
/// that compares it holds a reference to that state, so the address is not reused.
pub(in crate::event_loop) type LoopAddress = usize;

struct Ready {
    home: Cell<LoopAddress>,
    /// The loop polls futures, and takes new ones from the queue before it returns.
    is_polling: Cell<bool>,
    queue: RefCell<ManuallyDrop<VecDeque<FutureKey>>>,
    /// Each turn reads it twice; it is cheaper than a borrow of the queue.
    is_empty: Cell<bool>,
    /// The largest length in the present phase.
    needed: Cell<usize>,
    slack: RefCell<Slack>,
}

thread_local! {
    /// It has no destructor, so wakers can be used as long as the thread runs. The drop of the loop
    /// frees the storage.
    static READY: Ready = const {
        Ready {
            home: Cell::new(0),
            is_polling: Cell::new(false),
            queue: RefCell::new(ManuallyDrop::new(VecDeque::new())),
            is_empty: Cell::new(true),
            needed: Cell::new(0),
            slack: RefCell::new(Slack::new()),
        }
    };
}

/// What the caller of [`push`] must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The loop takes the key in its present turn, or knows already that it has work.
    Noted,
    /// The loop may be between two turns and must be informed of the work.
    First,
}

/// Sets the loop of this thread, and drops all keys.
pub(in crate::event_loop) fn set_home(home: LoopAddress) {
    READY.with(|ready| {
        ready.home.set(home);
        ready.is_polling.set(false);
        ready.is_empty.set(true);
        drop(ManuallyDrop::into_inner(ready.queue.replace(ManuallyDrop::new(VecDeque::new()))));
    });
}

/// Whether this thread is the one of the loop.
#[inline]
pub(super) fn is_home(home: LoopAddress) -> bool {
    READY.with(|ready| ready.home.get() == home)
}

/// Calls `f` with `home` as the loop of this thread, which may be another one: a forked child can
/// have a loop of its own beside the inherited one. The caller must be on the thread of `home`.
pub(super) fn at_home<R>(home: LoopAddress, f: impl FnOnce() -> R) -> R {
    let present = READY.with(|ready| ready.home.replace(home));
    let returned = f();
    READY.with(|ready| ready.home.set(present));
    returned
}

/// Adds a future of this thread's loop.
#[inline]
pub(super) fn push(key: FutureKey) -> Pushed {
    READY.with(|ready| {
        let queue = &mut *ready.queue.borrow_mut();
        queue.push_back(key);
        ready.is_empty.set(false);
        let is_first = queue.len() == 1 && !ready.is_polling.get();
        if is_first { Pushed::First } else { Pushed::Noted }
    })
}

/// Takes the next future.
#[inline]
pub(super) fn pop() -> Option<FutureKey> {
    READY.with(|ready| {
        let mut queue = ready.queue.borrow_mut();
        let key = queue.pop_front();
        ready.is_empty.set(queue.is_empty());
        key
    })
}

#[inline]
pub(in crate::event_loop) fn is_empty() -> bool {
    READY.with(|ready| ready.is_empty.get())
}

pub(super) fn begin_phase() {
    READY.with(|ready| {
        ready.is_polling.set(true);
        ready.needed.set(ready.queue.borrow().len());
    });
}

/// Releases capacity that has not been needed for some time.
pub(super) fn end_phase() {
    READY.with(|ready| {
        ready.is_polling.set(false);
        let queue = &mut *ready.queue.borrow_mut();
        let needed = ready.needed.get().max(queue.len());
        if let Some(left) = ready.slack.borrow_mut().record::<FutureKey>(needed, queue.capacity()) {
            queue.shrink_to(left);
        }
    });
}

/// Whether the queue holds much more memory than it always keeps.
pub(in crate::event_loop) fn has_slack() -> bool {
    READY.with(|ready| is_large::<FutureKey>(ready.queue.borrow().capacity()))
}

/// Releases the capacity that the keys do not need.
pub(in crate::event_loop) fn trim() {
    READY.with(|ready| {
        let queue = &mut *ready.queue.borrow_mut();
        let left = retained::<FutureKey>(queue.len());
        queue.shrink_to(left);
    });
}
