//! The state that a loop shares with its handles.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::EventLoop;
use super::counters::{AtomicCounters, LoopCounters};
use super::spin::WakeTime;
use crate::event_loop::containment::logger;
use crate::event_loop::deliveries::Deliveries;
use crate::event_loop::handle::mailbox_limit::MailboxLimit;
use crate::event_loop::observation::Observation;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::tasks::sync::ParkingLot;
use crate::event_loop::tasks::task::SendTask;
use crate::event_loop::tasks::task_queue::{TaskQueue, Wake};
use crate::event_loop::timers::clock::Clock;
use crate::event_loop::timers::remote_timers::{RemoteKey, RemoteTimers};
use crate::event_loop::timers::timer_queue::TimerKey;
use crate::eventfd::EventFd;

/// A task or an internal task from another thread.
pub(super) type Posted = SendTask<EventLoop>;

/// The shared part of a loop. Handles keep it alive, and with it the eventfd. So a wake-up after
/// the loop was dropped is written to an eventfd without a reader, and never to another file that
/// reuses the descriptor's number.
pub(super) struct Shared {
    /// Distinguishes this loop's timers from those of other loops.
    id: u32,
    name: String,
    pub(super) tasks: TaskQueue<Posted, ParkingLot>,
    pub(super) deliveries: Deliveries,
    pub(super) mailbox: MailboxLimit,
    pub(super) wakeup: EventFd,
    pub(super) wake_time: WakeTime,
    pub(super) remote_timers: RemoteTimers,
    pub(super) clock: Clock,
    pub(super) counters: AtomicCounters,
    pub(super) observation: Observation,
    /// The process that created the loop. In a forked child the loop is a copy: its locks may be
    /// held by threads that do not exist there, and it shares its descriptors with the parent.
    process: ProcessMark,
    /// The loop has been dropped or is being dropped. Posted tasks do not run.
    pub(super) ended: AtomicBool,
}

impl Shared {
    pub(super) fn new(name: String, mailbox: MailboxLimit, clock: Clock) -> io::Result<Shared> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        Ok(Shared {
            id: NEXT_ID.fetch_add(1, Relaxed),
            name,
            tasks: TaskQueue::new(mailbox.capacity()),
            deliveries: Deliveries::default(),
            mailbox,
            // Blocking, so that a loop without sources can sleep in the read. Every other read
            // follows a readiness event and does not block, because the loop is the only reader. A
            // write would block only at 2^64 - 2 unread wake-ups, and each sleep has at most one.
            wakeup: EventFd::builder().blocking().build()?,
            wake_time: WakeTime::new(),
            remote_timers: RemoteTimers::new(),
            clock,
            counters: AtomicCounters::default(),
            observation: Observation::default(),
            process: ProcessMark::current(),
            ended: AtomicBool::new(false),
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Identifies the loop as long as this state exists.
    #[inline]
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Has no effect on an inherited loop.
    pub(super) fn enable_metrics(&self) {
        if !self.is_inherited() && self.observation.enable_metrics() {
            self.tasks.record_times();
        }
    }

    /// The process that the loop belongs to.
    #[inline]
    pub(super) fn process(&self) -> ProcessMark {
        self.process
    }

    /// Whether this is a forked child of the process that created the loop.
    #[inline]
    pub(super) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    pub(super) fn wake(&self, wake: Wake) {
        if wake == Wake::Needed && !self.is_inherited() {
            self.counters.count_wake();
            self.wake_time.set();
            // Only loops write to the counter, so it cannot be full. A plain write is enough;
            // `signal` would poll for writability first.
            if let Err(error) = self.wakeup.write(1) {
                // Not expected: the descriptor is open and the counter is not full.
                logger::recurring("waking a loop", |suppressed| {
                    log::error!("cannot wake the loop: {error}{suppressed}");
                });
            }
        }
    }

    /// The callback of a virtual clock. When the clock moves, the loop makes a turn and checks its
    /// timers.
    pub(super) fn listener(self: &Arc<Shared>) -> Box<dyn Fn() -> bool + Send> {
        let shared = Arc::downgrade(self);
        Box::new(move || {
            let Some(shared) = shared.upgrade().filter(|shared| !shared.is_inherited()) else { return false };
            // An internal task, not a bare wake-up: a loop that is about to sleep checks the queue,
            // not the counter.
            match shared.tasks.push_internal(SendTask::new(|_: &EventLoop| {})) {
                Ok(wake) => {
                    shared.wake(wake);
                    true
                }
                Err(_) => false,
            }
        })
    }

    /// Has no effect on an inherited loop.
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

    /// The name in `id`, unless the timer belongs to another loop or to an inherited one.
    pub(super) fn resolve(&self, id: TimerId) -> Option<TimerName> {
        (id.owner == self.id && !self.is_inherited()).then_some(id.name)
    }
}

/// Identifies a timer, for [`cancel`](EventLoop::cancel) and [`reset`](EventLoop::reset) on the
/// loop or on any of its handles.
///
/// An id is never reused, so the id of an ended timer matches no other timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    owner: u32,
    name: TimerName,
}

/// Where a timer's callback is stored: in the loop, or in a table that all threads share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimerName {
    Local(TimerKey),
    Remote(RemoteKey),
}
