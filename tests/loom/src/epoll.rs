//! A model of the poll that the loop sleeps in, with an eventfd and a socket in it.
//!
//! loom knows no kernel, so what the protocol needs of one is rebuilt from loom's own primitives:
//!
//! - A write adds one to the counter and ends a poll that waits. Writes coalesce; a drain sets the
//!   counter to zero.
//! - A poll finds the eventfd readable while its counter is not zero. The library's poll is
//!   edge-triggered and would tell once for each write; as every turn that is told drains, nothing
//!   is left unread, and the two are the same.
//! - A poll that may wait does so until something is readable, for ever if need be: no time-out
//!   rescues a lost wake, and loom reports a deadlock. A poll that may not wait looks and returns.
//! - The socket is whatever else ends a wait: traffic, a due timer, an error of the poll. To the
//!   protocol it is just a consumer that is awake without having been woken.
//!
//! The model must not be kinder than the kernel. The counter and the socket are relaxed atomics,
//! and only a poll that may wait takes the lock that makes its last look and its falling asleep one
//! step, which epoll_wait(2) does promise. A poll that may not wait can thus miss a write that has
//! just been made, and orders nothing between the threads. (They are never merely stored to, for
//! the reason given at `on_loom!`.)

use std::sync::atomic::AtomicUsize as Unseen;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use loom::sync::{Condvar, Mutex};

/// The poll and what it watches.
#[derive(Debug)]
pub struct Epoll {
    counter: AtomicUsize,
    socket: AtomicBool,
    falling_asleep: Mutex<()>,
    readable: Condvar,
    /// std's, so that loom does not see it: counting must not order anything.
    writes: Unseen,
}

/// What a poll found readable.
#[derive(Clone, Copy, Debug)]
pub struct Events {
    /// The eventfd.
    pub woken: bool,
    /// The socket.
    pub socket: bool,
}

impl Default for Epoll {
    fn default() -> Self {
        Epoll {
            counter: AtomicUsize::new(0),
            socket: AtomicBool::new(false),
            falling_asleep: Mutex::new(()),
            readable: Condvar::new(),
            writes: Unseen::new(0),
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

    /// How many writes there were.
    pub fn writes(&self) -> usize {
        self.writes.load(Relaxed)
    }

    /// Makes the socket readable.
    pub fn fill_socket(&self) {
        self.socket.swap(true, Relaxed);
        self.end_wait();
    }

    fn end_wait(&self) {
        // A poll between its last look and its sleep holds the lock. Once that is free, the poll
        // either will see what has become readable or sleeps already and is notified.
        drop(self.falling_asleep.lock().unwrap());
        self.readable.notify_one();
    }

    /// Looks what is readable; if it `may_wait`, waits until something is.
    pub fn poll(&self, may_wait: bool) -> Events {
        if !may_wait {
            return self.look();
        }
        let mut awake = self.falling_asleep.lock().unwrap();
        loop {
            let events = self.look();
            if events.woken || events.socket {
                return events;
            }
            awake = self.readable.wait(awake).unwrap();
        }
    }

    fn look(&self) -> Events {
        Events { woken: self.counter.load(Relaxed) != 0, socket: self.socket.load(Relaxed) }
    }

    /// Reads the eventfd, which sets its counter to zero.
    pub fn drain(&self) {
        self.counter.swap(0, Relaxed);
    }

    /// Reads the socket until there is no more.
    pub fn read_socket(&self) {
        self.socket.swap(false, Relaxed);
    }
}
