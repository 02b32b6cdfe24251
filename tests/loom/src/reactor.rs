//! The loop around the protocol, and what other threads do to it.

use std::mem;
use std::sync::Arc;

use loom::thread::{self, JoinHandle};

use crate::epoll::{Epoll, Events};
use crate::protocol::{Batch, Protocol, Refusal, Task, UNBOUNDED, Wake};

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
    pub fn post(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
        let wake = self.queue.push(task)?;
        self.pass_on(wake);
        Ok(wake)
    }

    /// As [`post`](Shared::post), but waits while the queue is full.
    pub fn post_waiting(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
        let wake = self.queue.push_waiting(task)?;
        self.pass_on(wake);
        Ok(wake)
    }

    /// Hands an internal task over, and wakes the loop if asked to. A refused internal task comes
    /// back.
    pub fn post_internal(&self, task: Task) -> Result<Wake, Task> {
        let wake = self.queue.push_internal(task)?;
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

/// The consumer: takes its turns on the model's main thread, as the library's loop does, and notes
/// what it did.
#[derive(Debug)]
pub struct Reactor<Q> {
    shared: Arc<Shared<Q>>,
    capacity: usize,
    batch: Batch,
    local: Vec<Task>,
    /// The tasks it has run, in order.
    pub ran: Vec<Task>,
    /// The internal tasks it has run, in order.
    pub internal: Vec<Task>,
    /// How many turns announced a sleep.
    pub sleeps: usize,
    /// How many turns found the eventfd readable.
    pub woken: usize,
    /// How many turns found the socket readable.
    pub sockets: usize,
}

impl<Q: Protocol> Reactor<Q> {
    /// A loop that has yet to take its first turn, and room for whatever comes.
    pub fn new() -> Self {
        Self::with_room_for(UNBOUNDED)
    }

    /// A loop that has yet to take its first turn, and room for so many tasks.
    pub fn with_room_for(capacity: usize) -> Self {
        Reactor {
            shared: Arc::new(Shared { queue: Q::new(capacity), epoll: Epoll::default() }),
            capacity,
            batch: Batch::default(),
            local: Vec::new(),
            ran: Vec::new(),
            internal: Vec::new(),
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

    /// One turn of a loop that looks for work up to `looks` times before it sleeps. Answers whether
    /// to stop.
    pub fn busy_turn(&mut self, looks: usize) -> bool {
        // A look at the queue and one at the descriptors, as in the library if there it had one of
        // the former for each of the latter.
        for _ in 0..looks {
            let has_work = self.shared.queue.has_work();
            let events = self.shared.epoll.poll(false);
            if has_work || events.woken || events.socket {
                return self.run_after_poll(events, |_, _| ());
            }
        }
        self.turn(|_, _| ())
    }

    /// Turns until one says to stop.
    pub fn run(&mut self) {
        while !self.turn(|_, _| ()) {}
        self.leave();
    }

    /// Turns until `count` tasks have been run. A loop that has lost a wake sleeps for ever
    /// instead.
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
    fn poll_and_run(&mut self, may_sleep: bool, run: impl FnMut(&Arc<Shared<Q>>, Task)) -> bool {
        let events = self.shared.epoll.poll(may_sleep);
        self.run_after_poll(events, run)
    }

    fn run_after_poll(&mut self, events: Events, mut run: impl FnMut(&Arc<Shared<Q>>, Task)) -> bool {
        let Shared { queue, epoll } = &*self.shared;
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
        assert!(self.batch.tasks.len() <= self.capacity, "more tasks waited than may");
        self.internal.append(&mut self.batch.internal);
        for task in self.batch.tasks.drain(..).chain(mem::take(&mut self.local)) {
            self.ran.push(task);
            run(&self.shared, task);
        }
        quit
    }

    /// Leaves the loop, between its turns, such that its descriptor shows whether there is work:
    /// either producers will write, or it has.
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
