//! Close to the minimum cost of posting: a vector under a mutex, swapped as a whole, and an
//! eventfd.
//!
//! A task is a plain function and the words of its argument, so no closure type is erased and
//! nothing is boxed or dropped. Like any loop, this one polls its descriptors once per batch.
//!
//! Few instructions are not everything, however. With a CPU for each side, producer and loop
//! contend for the mutex about every 20 tasks, and the cost of that depends on how long the loop
//! stays away from it. A loop that does more between two batches can be the faster one.
//!
//! The eventfd is edge-triggered, so it need not be read. It is written when the loop sleeps
//! (`inline`), or for every task, as in muduo (`eventfd-each`).

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::{Poster, tally};
use crate::Result;
use crate::post::tally::Words;

#[derive(Clone, Copy)]
struct Task {
    run: fn(&Words),
    words: Words,
}

#[derive(Default)]
struct Inbox {
    tasks: Vec<Task>,
    /// The loop has found nothing to do and waits for the eventfd.
    asleep: bool,
    stop: bool,
}

/// Aligned to two cache lines, since they are prefetched in pairs, so that lock and vector share
/// one.
#[repr(align(128))]
struct Queue {
    inbox: Mutex<Inbox>,
    eventfd: OwnedFd,
}

impl Queue {
    fn new() -> Result<Queue> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Queue { inbox: Mutex::default(), eventfd })
    }

    /// Returns whether that ended the loop's sleep.
    fn push(&self, task: Task) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.tasks.push(task);
        mem::take(&mut inbox.asleep)
    }

    fn wake(&self) -> bool {
        rustix::io::write(&self.eventfd, &1u64.to_ne_bytes()).is_ok()
    }

    fn stop(&self) {
        self.inbox.lock().stop = true;
        self.wake();
    }

    fn serve(&self) -> Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poll, &self.eventfd, epoll::EventData::new_u64(0), wanted)?;
        let mut events = Vec::with_capacity(16);
        let mut batch = Vec::new();
        loop {
            let asleep = {
                let mut inbox = self.inbox.lock();
                if inbox.stop {
                    return Ok(());
                }
                mem::swap(&mut inbox.tasks, &mut batch);
                inbox.asleep = batch.is_empty();
                inbox.asleep
            };
            for Task { run, words } in batch.drain(..) {
                run(&words);
            }
            let no_wait = Timespec { tv_sec: 0, tv_nsec: 0 };
            events.clear();
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), (!asleep).then_some(&no_wait))?;
        }
    }
}

/// Wakes the loop only if it sleeps.
#[derive(Clone)]
pub(in crate::post) struct Inline(Arc<Queue>);

impl Poster for Inline {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let queue = Arc::new(Queue::new()?);
        hand_out(Inline(Arc::clone(&queue)));
        queue.serve()
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        !self.0.push(Task { run: tally::run, words }) || self.0.wake()
    }

    fn stop(&self) {
        self.0.stop();
    }
}

/// Wakes the loop for every task.
#[derive(Clone)]
pub(in crate::post) struct EventfdEach(Arc<Queue>);

impl Poster for EventfdEach {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let queue = Arc::new(Queue::new()?);
        hand_out(EventfdEach(Arc::clone(&queue)));
        queue.serve()
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        self.0.push(Task { run: tally::run, words });
        self.0.wake()
    }

    fn stop(&self) {
        self.0.stop();
    }
}
