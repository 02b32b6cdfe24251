//! Assigns the requests of all connections to the workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reveille::LoopHandle;
use reveille::net::{ConnectionId, ReplySlot};
use reveille::task::{JobError, Workers};

use super::fair_queue::{FairQueue, Limits};
use super::request::{Error, Request};

/// The requests that wait, and the workers. The loops of the server share it.
pub(crate) struct Schedule {
    workers: Workers,
    queue: Mutex<FairQueue<ConnectionId, Job>>,
    pub(crate) totals: Totals,
}

pub(crate) struct Job {
    pub(crate) request: Request,
    /// The place of the reply. Its owner has to reply, so a request has exactly one reply.
    pub(crate) slot: ReplySlot,
    pub(crate) event_loop: LoopHandle,
}

#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) connections: AtomicU64,
    pub(crate) computed: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) cancelled: AtomicU64,
}

impl Schedule {
    pub(crate) fn new(workers: Workers, limits: Limits) -> Arc<Schedule> {
        let queue = Mutex::new(FairQueue::new(limits));
        Arc::new(Schedule { workers, queue, totals: Totals::default() })
    }

    /// Adds a request of a connection. It gets a reply, unless the connection closes before.
    pub(crate) fn add(self: &Arc<Schedule>, connection: ConnectionId, job: Job) {
        let refused = self.queue().add(connection, job).err();
        match refused {
            Some(job) => self.reply(job.slot, Err(Error::Busy)),
            None => self.start_jobs(),
        }
    }

    /// Removes the requests of a closed connection that have not been started.
    pub(crate) fn remove(&self, connection: ConnectionId) {
        let removed = self.queue().remove(connection);
        self.totals.cancelled.fetch_add(removed.len() as u64, Relaxed);
    }

    /// Whether a request of a connection is in work.
    pub(crate) fn has(&self, connection: ConnectionId) -> bool {
        self.queue().has(connection)
    }

    fn start_jobs(self: &Arc<Schedule>) {
        // The lock is not held while a job is submitted.
        let next = || self.queue().start();
        while let Some((connection, Job { request, slot, event_loop })) = next() {
            let this = Arc::clone(self);
            let work = move || request.compute();
            let done = move |_: &_, result: Result<String, JobError>| {
                // Nothing cancels a job of the pool.
                this.reply(slot, result.map_err(|_| Error::Panicked));
                this.queue().end(connection);
                this.start_jobs();
            };
            // The pool has a free thread for each job that may run. The loop of an open connection
            // exists.
            if let Err(refused) = self.workers.submit_to(&event_loop, work, done) {
                log::error!("a job was refused: {}", refused.reason());
                self.queue().end(connection);
            }
        }
    }

    fn reply(&self, slot: ReplySlot, result: Result<String, Error>) {
        let count = match result {
            Ok(_) => &self.totals.computed,
            Err(Error::Panicked) => &self.totals.panicked,
            Err(_) => &self.totals.busy,
        };
        count.fetch_add(1, Relaxed);
        // An error means that the connection has closed.
        let _ = slot.fill(result.unwrap_or_else(Error::reply));
    }

    fn queue(&self) -> MutexGuard<'_, FairQueue<ConnectionId, Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
