//! A queue of jobs in which clients take turns. No I/O, and no threads.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

pub(crate) struct Limits {
    /// How many jobs may wait.
    pub(crate) waiting: usize,
    /// How many jobs may run.
    pub(crate) running: usize,
    /// How many jobs of one client may run.
    pub(crate) running_each: usize,
}

/// Jobs of clients. A client that has several jobs gets as many turns as one with a single job.
pub(crate) struct FairQueue<C, J> {
    limits: Limits,
    clients: HashMap<C, Client<J>>,
    /// The clients that have a job to start and may start one, each once.
    turns: VecDeque<C>,
    waiting: usize,
    running: usize,
}

struct Client<J> {
    waiting: VecDeque<J>,
    running: usize,
}

impl<C: Copy + Eq + Hash, J> FairQueue<C, J> {
    pub(crate) fn new(limits: Limits) -> FairQueue<C, J> {
        FairQueue { limits, clients: HashMap::new(), turns: VecDeque::new(), waiting: 0, running: 0 }
    }

    /// Adds a job. If it would have to wait and too many jobs wait, returns it.
    pub(crate) fn add(&mut self, id: C, job: J) -> Result<(), J> {
        let running = self.clients.get(&id).map_or(0, |client| client.running);
        let may_start = running < self.limits.running_each && self.running < self.limits.running;
        if self.waiting >= self.limits.waiting + usize::from(may_start) {
            return Err(job);
        }
        let client = self.clients.entry(id).or_insert(Client { waiting: VecDeque::new(), running: 0 });
        client.waiting.push_back(job);
        self.waiting += 1;
        if client.waiting.len() == 1 && client.running < self.limits.running_each {
            self.turns.push_back(id);
        }
        Ok(())
    }

    /// Removes the job that may start now, if there is one. [`end`](FairQueue::end) must follow.
    pub(crate) fn start(&mut self) -> Option<(C, J)> {
        if self.running >= self.limits.running {
            return None;
        }
        let id = self.turns.pop_front()?;
        let client = self.clients.get_mut(&id)?;
        let job = client.waiting.pop_front()?;
        self.waiting -= 1;
        self.running += 1;
        client.running += 1;
        if !client.waiting.is_empty() && client.running < self.limits.running_each {
            self.turns.push_back(id);
        }
        Some((id, job))
    }

    /// A job of a client has ended.
    pub(crate) fn end(&mut self, id: C) {
        self.running -= 1;
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.running -= 1;
        if client.running + 1 == self.limits.running_each && !client.waiting.is_empty() {
            self.turns.push_back(id);
        }
        self.forget_if_idle(id);
    }

    /// Removes the jobs of a client that have not been started, and returns them.
    pub(crate) fn remove(&mut self, id: C) -> VecDeque<J> {
        let Some(client) = self.clients.get_mut(&id) else { return VecDeque::new() };
        let removed = std::mem::take(&mut client.waiting);
        self.waiting -= removed.len();
        self.turns.retain(|turn| *turn != id);
        self.forget_if_idle(id);
        removed
    }

    /// Whether a job of a client waits or runs.
    pub(crate) fn has(&self, id: C) -> bool {
        self.clients.contains_key(&id)
    }

    fn forget_if_idle(&mut self, id: C) {
        if self.clients.get(&id).is_some_and(|client| client.running == 0 && client.waiting.is_empty()) {
            self.clients.remove(&id);
        }
    }
}
