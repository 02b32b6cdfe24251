//! What a loop and its handles have in common.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::EventLoop;
use super::remote_timers::{RemoteKey, RemoteTimers};
use crate::eventfd::EventFd;
use crate::sync::ParkingLot;
use crate::task_queue::{TaskQueue, Wake};
use crate::timer_queue::TimerKey;

/// What phase 5 calls. Users' tasks are counted; what the crate itself asks of a loop takes the same way, in order with them,
/// and is none of their business.
pub(super) enum Queued<F: ?Sized> {
    Task(Box<F>),
    Errand(Box<F>),
}

pub(super) type Posted = Queued<dyn FnOnce(&EventLoop) + Send>;
pub(super) type Local = Queued<dyn FnOnce(&EventLoop)>;

impl<F: FnOnce(&EventLoop) + ?Sized> Queued<F> {
    pub(super) fn call(self, event_loop: &EventLoop) {
        match self {
            Queued::Task(call) | Queued::Errand(call) => call(event_loop),
        }
    }

    pub(super) fn is_task(&self) -> bool {
        matches!(self, Queued::Task(_))
    }
}

/// The shared part of a loop. The handles keep it, and so the eventfd, for as long as they live: a wake that
/// comes when the loop has gone is written to a counter that nobody reads, and to nothing else.
pub(super) struct Shared {
    /// Tells this loop's timers from those of others.
    id: u32,
    pub(super) tasks: TaskQueue<Posted, ParkingLot>,
    pub(super) wakeup: EventFd,
    pub(super) remote_timers: RemoteTimers,
    tasks_dropped: AtomicU64,
    panics: AtomicU64,
}

impl Shared {
    pub(super) fn new() -> io::Result<Shared> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        Ok(Shared {
            id: NEXT_ID.fetch_add(1, Relaxed),
            tasks: TaskQueue::new(),
            wakeup: EventFd::new(0)?,
            remote_timers: RemoteTimers::new(),
            tasks_dropped: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn wake(&self, wake: Wake) {
        if wake == Wake::Needed {
            if let Err(error) = self.wakeup.signal() {
                // The counter is ours alone and cannot be full, so this is a kernel that has lost the object.
                log::error!("cannot wake the loop: {error}");
            }
        }
    }

    pub(super) fn quit(&self) {
        self.wake(self.tasks.quit());
    }

    pub(super) fn count_dropped(&self, tasks: usize) {
        self.tasks_dropped.fetch_add(tasks as u64, Relaxed);
    }

    pub(super) fn count_panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        Counters { tasks_dropped: self.tasks_dropped.load(Relaxed), panics: self.panics.load(Relaxed) }
    }

    pub(super) fn timer_id(&self, name: TimerName) -> TimerId {
        TimerId { owner: self.id, name }
    }

    /// What the id names, unless that is a timer of another loop.
    pub(super) fn resolve(&self, id: TimerId) -> Option<TimerName> {
        (id.owner == self.id).then_some(id.name)
    }
}

/// The name of a timer, good for [`cancel`](EventLoop::cancel) on any face of the loop it belongs to.
///
/// A name is never given twice, so one that is kept too long finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    owner: u32,
    name: TimerName,
}

/// Where a timer's callback lives: with the loop, or where every thread can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimerName {
    Local(TimerKey),
    Remote(RemoteKey),
}

/// What a loop has counted since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Tasks that were accepted, and then dropped with the loop instead of run.
    pub tasks_dropped: u64,
    /// Panics caught in callbacks and tasks.
    pub panics: u64,
}
