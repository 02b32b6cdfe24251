//! A model of the epoll instance in which the loop sleeps. It watches an eventfd and a socket.
//!
//! loom does not model a kernel. The parts of epoll(7) that the protocol needs are built from
//! loom's primitives:
//!
//! - A write adds 1 to the counter and wakes a waiting poll. Writes coalesce. A drain sets the
//!   counter to 0.
//! - A poll reports the eventfd as readable while its counter is above 0. The library's poll is
//!   edge-triggered and reports each write once. Every turn with such a report drains the eventfd,
//!   so the model is equivalent.
//! - A poll that may wait returns when something is readable. It has no timeout, so after a lost
//!   wake-up it waits forever, and loom reports a deadlock. A poll that may not wait returns
//!   immediately.
//! - The socket represents everything else that ends a wait: traffic, an expired timer, an error of
//!   the poll. The consumer is then awake although no producer has woken it.
//!
//! The model must not guarantee more than the kernel. The counter and the socket are relaxed
//! atomics. Only a poll that may wait takes the lock, which makes its last check and the start of
//! its sleep one step, as epoll_wait(2) guarantees. So a poll that may not wait can miss a write
//! that has just been made, and orders nothing between the threads. The atomics are changed with
//! swaps and additions instead of stores, for the reason given at `on_loom!`.

use std::sync::atomic::AtomicUsize as StdAtomicUsize;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use loom::sync::{Condvar, Mutex};

/// The poll, the eventfd and the socket.
#[derive(Debug)]
pub struct Epoll {
    counter: AtomicUsize,
    socket: AtomicBool,
    /// A poll that may wait holds it from its last check until its sleep starts.
    sleep_lock: Mutex<()>,
    readable: Condvar,
    /// An atomic of std, which loom does not track: the count must not order anything.
    writes: StdAtomicUsize,
}

/// The descriptors that a poll reports as readable.
#[derive(Clone, Copy, Debug)]
pub struct Events {
    /// The eventfd is readable.
    pub woken: bool,
    /// The socket is readable.
    pub socket: bool,
}

impl Default for Epoll {
    fn default() -> Self {
        Epoll {
            counter: AtomicUsize::new(0),
            socket: AtomicBool::new(false),
            sleep_lock: Mutex::new(()),
            readable: Condvar::new(),
            writes: StdAtomicUsize::new(0),
        }
    }
}

impl Epoll {
    /// Writes 1 to the eventfd.
    pub fn write(&self) {
        self.writes.fetch_add(1, Relaxed);
        self.counter.fetch_add(1, Relaxed);
        self.end_wait();
    }

    /// The number of writes so far.
    pub fn writes(&self) -> usize {
        self.writes.load(Relaxed)
    }

    /// Makes the socket readable.
    pub fn fill_socket(&self) {
        self.socket.swap(true, Relaxed);
        self.end_wait();
    }

    fn end_wait(&self) {
        // A poll holds the lock from its last check until its sleep starts. When the lock is free,
        // the poll either has not made that check yet, or sleeps and is notified.
        drop(self.sleep_lock.lock().unwrap());
        self.readable.notify_one();
    }

    /// Returns which descriptors are readable. If it `may_wait`, waits until one of them is.
    pub fn poll(&self, may_wait: bool) -> Events {
        if !may_wait {
            return self.events();
        }
        let mut guard = self.sleep_lock.lock().unwrap();
        loop {
            let events = self.events();
            if events.woken || events.socket {
                return events;
            }
            guard = self.readable.wait(guard).unwrap();
        }
    }

    fn events(&self) -> Events {
        Events { woken: self.counter.load(Relaxed) != 0, socket: self.socket.load(Relaxed) }
    }

    /// Reads the eventfd, which sets its counter to 0.
    pub fn drain(&self) {
        self.counter.swap(0, Relaxed);
    }

    /// Reads all bytes of the socket.
    pub fn read_socket(&self) {
        self.socket.swap(false, Relaxed);
    }
}
