//! Timers made through a handle.
//!
//! Their callbacks wait in a table that every thread can reach, and the loop's queue holds only their keys. So the id is good
//! before the loop has heard of the timer, and a cancel from anywhere is exact: whoever takes the callback out of the
//! table, the loop to call it or a thread to cancel it, has it alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::EventLoop;
use crate::timer_queue::TimerKey;

type Single = Box<dyn FnOnce(&EventLoop) + Send>;
type Repeated = Box<dyn FnMut(&EventLoop) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RemoteKey(u64);

pub(super) enum Callback {
    Once(Single),
    Every(Repeated),
    /// A repeating timer's callback is being called, and comes back if the timer is still here then.
    Running,
}

pub(super) struct RemoteTimer {
    callback: Callback,
    armed: Option<TimerKey>,
}

impl RemoteTimer {
    /// The place in the loop's queue, once the loop has given it one.
    pub(super) fn armed(&self) -> Option<TimerKey> {
        self.armed
    }
}

pub(super) struct RemoteTimers {
    next: AtomicU64,
    /// `None` once the loop has gone.
    timers: Mutex<Option<HashMap<u64, RemoteTimer>>>,
}

impl RemoteTimers {
    pub(super) fn new() -> RemoteTimers {
        RemoteTimers { next: AtomicU64::new(0), timers: Mutex::new(Some(HashMap::new())) }
    }

    pub(super) fn insert_once<F>(&self, callback: Box<F>) -> Result<RemoteKey, Box<F>>
    where
        F: FnOnce(&EventLoop) + Send + 'static,
    {
        self.insert(callback, |callback| Callback::Once(callback))
    }

    pub(super) fn insert_every<F>(&self, callback: Box<F>) -> Result<RemoteKey, Box<F>>
    where
        F: FnMut(&EventLoop) + Send + 'static,
    {
        self.insert(callback, |callback| Callback::Every(callback))
    }

    fn insert<F>(
        &self,
        callback: Box<F>,
        wrap: impl FnOnce(Box<F>) -> Callback,
    ) -> Result<RemoteKey, Box<F>> {
        let mut timers = self.timers.lock();
        let Some(timers) = timers.as_mut() else { return Err(callback) };
        let key = self.next.fetch_add(1, Relaxed);
        timers.insert(key, RemoteTimer { callback: wrap(callback), armed: None });
        Ok(RemoteKey(key))
    }

    /// Takes the timer out. It is the caller's to drop, with no lock held.
    pub(super) fn remove(&self, key: RemoteKey) -> Option<RemoteTimer> {
        self.timers.lock().as_mut()?.remove(&key.0)
    }

    /// Refuses every later timer, and hands out those that have not fired.
    pub(super) fn close(&self) -> Option<HashMap<u64, RemoteTimer>> {
        self.timers.lock().take()
    }

    /// Notes where the loop has put the timer. `false` if it has been cancelled meanwhile.
    pub(super) fn set_armed(&self, key: RemoteKey, armed: TimerKey) -> bool {
        let mut timers = self.timers.lock();
        match timers.as_mut().and_then(|timers| timers.get_mut(&key.0)) {
            None => false,
            Some(timer) => {
                timer.armed = Some(armed);
                true
            }
        }
    }

    /// The callback, to be called: a repeating timer stays in the table meanwhile, another one is over.
    pub(super) fn start(&self, key: RemoteKey) -> Option<Callback> {
        let mut timers = self.timers.lock();
        let timers = timers.as_mut()?;
        let callback = std::mem::replace(&mut timers.get_mut(&key.0)?.callback, Callback::Running);
        if let Callback::Once(_) = callback {
            timers.remove(&key.0);
        }
        Some(callback)
    }

    /// Puts a repeating timer's callback back, or hands it out if the timer was cancelled while it ran.
    pub(super) fn finish(&self, key: RemoteKey, callback: Repeated) -> Option<Repeated> {
        let mut timers = self.timers.lock();
        match timers.as_mut().and_then(|timers| timers.get_mut(&key.0)) {
            None => Some(callback),
            Some(timer) => {
                timer.callback = Callback::Every(callback);
                None
            }
        }
    }
}
