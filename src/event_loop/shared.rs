//! What a loop and its handles have in common.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::EventLoop;
use super::counters::{AtomicCounters, LoopCounters};
use crate::event_loop::containment::logger;
use crate::event_loop::handle::mailbox_limit::MailboxLimit;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::tasks::sync::ParkingLot;
use crate::event_loop::tasks::task::SendTask;
use crate::event_loop::tasks::task_queue::{TaskQueue, Wake};
use crate::event_loop::timers::clock::Clock;
use crate::event_loop::timers::remote_timers::{RemoteKey, RemoteTimers};
use crate::event_loop::timers::timer_queue::TimerKey;
use crate::eventfd::EventFd;

/// A task or an errand from another thread.
pub(super) type Posted = SendTask<EventLoop>;

/// The shared part of a loop. The handles keep it, and so the eventfd, for as long as they live: a wake that
/// comes when the loop has gone is written to a counter that nobody reads, and to nothing else.
pub(super) struct Shared {
    /// Tells this loop's timers from those of others.
    id: u32,
    pub(super) tasks: TaskQueue<Posted, ParkingLot>,
    pub(super) mailbox: MailboxLimit,
    pub(super) wakeup: EventFd,
    pub(super) remote_timers: RemoteTimers,
    pub(super) clock: Clock,
    pub(super) counters: AtomicCounters,
    /// The process that has made the loop. In a forked child the loop is a copy: the locks may be held by threads that are not there,
    /// and the descriptors are the parent's as well.
    process: ProcessMark,
    /// The loop has gone, or is being dropped: nothing that is posted will run.
    pub(super) terminated: AtomicBool,
}

impl Shared {
    pub(super) fn new(mailbox: MailboxLimit, clock: Clock) -> io::Result<Shared> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        Ok(Shared {
            id: NEXT_ID.fetch_add(1, Relaxed),
            tasks: TaskQueue::new(mailbox.capacity()),
            mailbox,
            // Blocking, so that a loop without descriptors can sleep in the read. Any other read follows the poller's word that there is
            // something, and the loop is the only reader; a write would block at 2^64 - 2 unread wakes, and there is one a sleep.
            wakeup: EventFd::builder().blocking().build()?,
            remote_timers: RemoteTimers::new(),
            clock,
            counters: AtomicCounters::default(),
            process: ProcessMark::current(),
            terminated: AtomicBool::new(false),
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// The process that the loop belongs to.
    #[inline]
    pub(super) fn process(&self) -> ProcessMark {
        self.process
    }

    /// Whether this is a forked child of the process that has made the loop.
    #[inline]
    pub(super) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    pub(super) fn wake(&self, wake: Wake) {
        if wake == Wake::Needed && !self.is_inherited() {
            self.counters.count_wake();
            // The counter is ours alone and cannot be full, so there is no need to ask for room, as a signal would.
            if let Err(error) = self.wakeup.write(1) {
                // So this is a kernel that has lost the object.
                logger::recurring("waking a loop", |left_out| {
                    log::error!("cannot wake the loop: {error}{left_out}");
                });
            }
        }
    }

    /// What a virtual clock tells that it has been moved: the loop makes a turn, and looks at its timers.
    pub(super) fn listener(self: &Arc<Shared>) -> Box<dyn Fn() -> bool + Send> {
        let shared = Arc::downgrade(self);
        Box::new(move || {
            let Some(shared) = shared.upgrade().filter(|shared| !shared.is_inherited()) else { return false };
            // Word that is left, and not a bare wake: a loop that is about to sleep looks for the one and not for the other.
            match shared.tasks.push_internal(SendTask::new(|_: &EventLoop| {})) {
                Ok(wake) => {
                    shared.wake(wake);
                    true
                }
                Err(_) => false,
            }
        })
    }

    /// Without effect on an inherited loop.
    pub(super) fn quit(&self) {
        if self.is_inherited() {
            return;
        }
        self.wake(self.tasks.quit());
    }

    pub(super) fn counters(&self) -> LoopCounters {
        let accepted = if self.is_inherited() { 0 } else { self.tasks.accepted() };
        self.counters.read(accepted)
    }

    pub(super) fn timer_id(&self, name: TimerName) -> TimerId {
        TimerId { owner: self.id, name }
    }

    /// What the id names, unless that is a timer of another loop, or of an inherited one.
    pub(super) fn resolve(&self, id: TimerId) -> Option<TimerName> {
        (id.owner == self.id && !self.is_inherited()).then_some(id.name)
    }
}

/// The name of a timer, good for [`cancel`](EventLoop::cancel) and [`reset`](EventLoop::reset) on any face of the loop it belongs to.
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
