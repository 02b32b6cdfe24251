//! A model of the loop around the protocol, and the operations of other threads.

use std::mem;
use std::sync::Arc;

use loom::thread::{self, JoinHandle};

use crate::epoll::{Epoll, Events};
use crate::protocol::{Batch, Protocol, Refusal, Task, UNBOUNDED, Wake};

/// The data that the loop shares with the threads that post to it.
///
/// It is in an `Arc` of std, which loom does not track, so the `Arc` orders nothing.
#[derive(Debug)]
pub struct Shared<Q> {
    /// The protocol under test.
    pub queue: Q,
    /// The poll in which the loop sleeps.
    pub epoll: Epoll,
}

impl<Q: Protocol> Shared<Q> {
    /// Pushes a task, and wakes the loop if necessary. Returns a refused task.
    pub fn post(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
        let wake = self.queue.push(task)?;
        self.write_if_needed(wake);
        Ok(wake)
    }

    /// Same as [`post`](Shared::post), but waits while the queue is full.
    pub fn post_waiting(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
        let wake = self.queue.push_waiting(task)?;
        self.write_if_needed(wake);
        Ok(wake)
    }

    /// Pushes an internal task, and wakes the loop if necessary. Returns a refused task.
    pub fn post_internal(&self, task: Task) -> Result<Wake, Task> {
        let wake = self.queue.push_internal(task)?;
        self.write_if_needed(wake);
        Ok(wake)
    }

    /// Requests that the loop stop, and wakes it if necessary.
    pub fn quit(&self) -> Wake {
        let wake = self.queue.quit();
        self.write_if_needed(wake);
        wake
    }

    fn write_if_needed(&self, wake: Wake) {
        if wake == Wake::Needed {
            self.epoll.write();
        }
    }
}

/// The consumer. It makes turns on the model's main thread in the same way as the library's loop,
/// and records them.
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
    /// A loop before its first turn, whose queue is unbounded.
    pub fn new() -> Self {
        Self::with_capacity(UNBOUNDED)
    }

    /// A loop before its first turn, whose queue holds `capacity` tasks.
    pub fn with_capacity(capacity: usize) -> Self {
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

    /// The part that is shared with other threads.
    pub fn shared(&self) -> &Shared<Q> {
        &self.shared
    }

    /// Starts a thread that calls `f` with the shared part.
    pub fn spawn<R: 'static>(&self, f: impl FnOnce(&Shared<Q>) -> R + 'static) -> JoinHandle<R> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || f(&shared))
    }

    /// Makes one turn of a loop that is not embedded. Returns whether to stop.
    ///
    /// Calls `run` for each task.
    pub fn turn(&mut self, run: impl FnMut(&Arc<Shared<Q>>, Task)) -> bool {
        let may_sleep = self.local.is_empty() && self.shared.queue.may_sleep();
        self.sleeps += usize::from(may_sleep);
        self.poll_and_run(may_sleep, run)
    }

    /// Makes one turn of a loop that polls busily: it checks for work up to `checks` times before
    /// it sleeps. Returns whether to stop.
    pub fn busy_turn(&mut self, checks: usize) -> bool {
        // A check covers the queue and the descriptors. The library checks the queue more often
        // than the descriptors.
        for _ in 0..checks {
            let has_work = self.shared.queue.has_work();
            let events = self.shared.epoll.poll(false);
            if has_work || events.woken || events.socket {
                return self.run_after_poll(events, |_, _| ());
            }
        }
        self.turn(|_, _| ())
    }

    /// Makes turns until the loop must stop.
    pub fn run(&mut self) {
        while !self.turn(|_, _| ()) {}
        self.end_run();
    }

    /// Makes turns until `count` tasks have been run. After a lost wake-up it never returns, which
    /// loom reports as a deadlock.
    pub fn run_until_ran(&mut self, count: usize) {
        while self.ran.len() < count {
            self.turn(|_, _| ());
        }
    }

    /// Makes one turn of a loop that is embedded in another one. It does not wait: the other loop
    /// waits for its descriptor.
    pub fn run_once(&mut self) {
        self.poll_and_run(false, |_, _| ());
        self.end_run();
    }

    /// Queues a task on the loop's own thread, between the turns of an embedded loop.
    pub fn queue_in_loop(&mut self, task: Task) {
        self.local.push(task);
        self.shared.write_if_needed(self.shared.queue.end_sleep());
    }

    /// The steps of a turn, in the library's order.
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
        assert!(self.batch.tasks.len() <= self.capacity, "the batch exceeds the queue's capacity");
        self.internal.append(&mut self.batch.internal);
        for task in self.batch.tasks.drain(..).chain(mem::take(&mut self.local)) {
            self.ran.push(task);
            run(&self.shared, task);
        }
        quit
    }

    /// Ends a run. Until the next one, the descriptor must be readable if there is work. So the
    /// loop announces a sleep, and the next producer writes to the eventfd. If there is work
    /// already, the loop itself writes.
    fn end_run(&self) {
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
