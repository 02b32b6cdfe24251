//! The primitives that the [`TaskQueue`](crate::task_queue) runs on outside the model checker: parking_lot's mutex, std's atomics.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::task_queue::{Flag, Mutex, Primitives};

#[derive(Debug)]
pub(crate) struct ParkingLot;

impl Primitives for ParkingLot {
    type Mutex<T> = parking_lot::Mutex<T>;
    type Flag = AtomicBool;
}

impl<T> Mutex<T> for parking_lot::Mutex<T> {
    fn new(value: T) -> Self {
        parking_lot::Mutex::new(value)
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.lock())
    }
}

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        AtomicBool::new(value)
    }

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
