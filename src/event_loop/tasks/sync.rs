//! The primitives of the [`TaskQueue`](crate::event_loop::tasks::task_queue) outside the model
//! checker: parking_lot's mutex and std's atomics.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crate::event_loop::tasks::task_queue::{Flag, Mutex, Primitives};

#[derive(Debug)]
pub(crate) struct ParkingLot;

impl Primitives for ParkingLot {
    type Mutex<T> = Lock<T>;
    type Flag = AtomicBool;
}

/// A mutex and its condition variable. The condition variable is one word, and costs nothing
/// without waiting threads.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    content: parking_lot::Mutex<T>,
    changed: parking_lot::Condvar,
}

impl<T> Mutex<T> for Lock<T> {
    fn new(value: T) -> Self {
        Lock { content: parking_lot::Mutex::new(value), changed: parking_lot::Condvar::new() }
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.content.lock())
    }

    fn wait_with<R>(&self, deadline: Option<Instant>, mut f: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let mut content = self.content.lock();
        loop {
            let result = f(&mut content);
            if result.is_some() {
                return result;
            }
            match deadline {
                None => self.changed.wait(&mut content),
                Some(deadline) => {
                    if self.changed.wait_until(&mut content, deadline).timed_out() {
                        return f(&mut content);
                    }
                }
            }
        }
    }

    fn notify_all(&self) {
        self.changed.notify_all();
    }
}

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        AtomicBool::new(value)
    }

    #[inline]
    fn load(&self) -> bool {
        AtomicBool::load(self, Relaxed)
    }

    fn store(&self, value: bool) {
        AtomicBool::store(self, value, Relaxed);
    }

    fn swap(&self, value: bool) -> bool {
        AtomicBool::swap(self, value, Relaxed)
    }
}
