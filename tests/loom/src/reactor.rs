//! The loop around the protocol, and what other threads do to it.

use std::mem;
use std::sync::Arc;

use loom::thread::{self, JoinHandle};

use crate::epoll::Epoll;
use crate::protocol::{Protocol, Task, Wake};

/// What the loop and the threads that post to it share.
///
/// The `Arc` around it is std's, which orders nothing in loom's eyes.
#[derive(Debug)]
pub struct Shared<Q> {
    /// The protocol under test.
    pub queue: Q,
    /// What the loop sleeps in.
    pub epoll: Epoll,
}

impl<Q: Protocol> Shared<Q> {
    /// Hands a task over, and wakes the loop if asked to. A refused task comes back.
    pub fn post(&self, task: Task) -> Result<Wake, Task> {
        let wake = self.queue.push(task)?;
        self.pass_on(wake);
        Ok(wake)
    }

    /// Asks the loop to stop.
    pub fn quit(&self) -> Wake {
        let wake = self.queue.quit();
        self.pass_on(wake);
        wake
    }

    fn pass_on(&self, wake: Wake) {
        if wake == Wake::Needed {
            self.epoll.write();
        }
    }
}

/// The consumer: takes its turns on the model's main thread, as the library's loop does, and notes what it did.
#[derive(Debug)]
pub struct Reactor<Q> {
    shared: Arc<Shared<Q>>,
    batch: Vec<Task>,
    local: Vec<Task>,
    /// The tasks it has run, in order.
    pub ran: Vec<Task>,
    /// How many turns announced a sleep.
    pub sleeps: usize,
    /// How many turns found the eventfd readable.
    pub woken: usize,
    /// How many turns found the socket readable.
    pub sockets: usize,
}

impl<Q: Protocol> Reactor<Q> {
    /// A loop that has yet to take its first turn.
    pub fn new() -> Self {
        Reactor {
            shared: Arc::new(Shared { queue: Q::new(), epoll: Epoll::default() }),
            batch: Vec::new(),
            local: Vec::new(),
            ran: Vec::new(),
            sleeps: 0,
            woken: 0,
            sockets: 0,
        }
    }

    /// What other threads have of it.
    pub fn shared(&self) -> &Shared<Q> {
        &self.shared
    }

    /// Starts a thread that does something to it.
    pub fn spawn<R: 'static>(&self, f: impl FnOnce(&Shared<Q>) -> R + 'static) -> JoinHandle<R> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || f(&shared))
    }

    /// One turn of a loop that runs by itself. Answers whether to stop.
    ///
    /// `run` is what running a task does.
    pub fn turn(&mut self, run: impl FnMut(&Arc<Shared<Q>>, Task)) -> bool {
        let may_sleep = self.local.is_empty() && self.shared.queue.may_sleep();
        self.sleeps += usize::from(may_sleep);
        self.poll_and_run(may_sleep, run)
    }

    /// Turns until one says to stop.
    pub fn run(&mut self) {
        while !self.turn(|_, _| ()) {}
        self.leave();
    }

    /// Turns until `count` tasks have been run. A loop that has lost a wake sleeps for ever instead.
    pub fn run_until_ran(&mut self, count: usize) {
        while self.ran.len() < count {
            self.turn(|_, _| ());
        }
    }

    /// One turn of a loop that lives inside another one, which waits in its stead.
    pub fn run_once(&mut self) {
        self.poll_and_run(false, |_, _| ());
        self.leave();
    }

    /// Queues a task on the loop's own thread, between the turns of an embedded loop.
    pub fn queue_in_loop(&mut self, task: Task) {
        self.local.push(task);
        self.shared.pass_on(self.shared.queue.end_sleep());
    }

    /// The poll and what follows it in a turn, in the library's order.
    fn poll_and_run(&mut self, may_sleep: bool, mut run: impl FnMut(&Arc<Shared<Q>>, Task)) -> bool {
        let Shared { queue, epoll } = &*self.shared;
        let events = epoll.poll(may_sleep);
        queue.awake();
        if events.woken {
            epoll.drain();
            self.woken += 1;
        }
        if events.socket {
            epoll.read_socket();
            self.sockets += 1;
        }
        let quit = queue.take(&mut self.batch);
        for task in self.batch.drain(..).chain(mem::take(&mut self.local)) {
            self.ran.push(task);
            run(&self.shared, task);
        }
        quit
    }

    /// Leaves the loop, between its turns, such that its descriptor shows whether there is work: either producers
    /// will write, or it has.
    fn leave(&self) {
        if !self.local.is_empty() || !self.shared.queue.may_sleep() {
            self.shared.epoll.write();
        }
    }
}

impl<Q: Protocol> Default for Reactor<Q> {
    fn default() -> Self {
        Self::new()
    }
}
