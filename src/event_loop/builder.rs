//! The settings of a loop, and its construction.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use super::source::Wakeup;
use super::spin::Spin;
use super::{EventLoop, Inner};
use crate::event_loop::channel_table::ChannelTable;
use crate::event_loop::containment::{logger, set_observer};
use crate::event_loop::handle::mailbox_limit::MailboxLimit;
use crate::event_loop::hooks::Hooks;
use crate::event_loop::observation::TaskTimes;
use crate::event_loop::poller::Poller;
use crate::event_loop::timers::alarm::Alarm;
use crate::event_loop::timers::clock::{Clock, VirtualClock};
use crate::event_loop::timers::timer_queue::TimerQueue;
use crate::readiness::Interest;

/// The maximum number of events of one wait. The loop allocates space for all of them.
const MAX_EVENTS: usize = 65_536;

/// The sizes of the input buffer, which is allocated whole.
const MIN_INPUT: usize = 1024;
const MAX_INPUT: usize = 64 * 1024 * 1024;

/// The settings of an [`EventLoop`], created by [`EventLoop::builder`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let event_loop =
///     reveille::EventLoop::builder().events_per_turn(256).propagate_panics().build()?;
/// # drop(event_loop);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are built into a loop"]
pub struct EventLoopBuilder {
    events_per_turn: usize,
    input_buffer: usize,
    propagate_panics: bool,
    drop_tasks_on_quit: bool,
    busy_poll: Option<Duration>,
    mailbox: MailboxLimit,
    virtual_clock: Option<VirtualClock>,
    name: Option<String>,
    metrics: bool,
}

impl EventLoopBuilder {
    pub(super) fn new() -> EventLoopBuilder {
        EventLoopBuilder {
            events_per_turn: 1024,
            input_buffer: 64 * 1024,
            propagate_panics: false,
            drop_tasks_on_quit: false,
            busy_poll: None,
            mailbox: MailboxLimit::Unbounded,
            virtual_clock: None,
            name: None,
            metrics: false,
        }
    }

    /// The maximum number of events that one wait returns. The remaining ones are returned by the
    /// next wait. Default: 1024. Range: 1 to 65,536; other values count as the nearest of these.
    pub fn events_per_turn(mut self, events: usize) -> EventLoopBuilder {
        self.events_per_turn = events.clamp(1, MAX_EVENTS);
        self
    }

    /// The size in bytes of the input buffer shared by the loop's connections. A connection reads
    /// at most this many bytes before the other connections are served. Default: 64 KiB. Range:
    /// 1 KiB to 64 MiB; other values count as the nearest of these.
    pub fn input_buffer(mut self, bytes: usize) -> EventLoopBuilder {
        self.input_buffer = bytes.clamp(MIN_INPUT, MAX_INPUT);
        self
    }

    /// Makes [`EventLoop::run`] resume a panic of a callback at the end of the turn. Default: the
    /// panic is caught, logged and counted ([details](EventLoop#panics-in-callbacks)).
    pub fn propagate_panics(mut self) -> EventLoopBuilder {
        self.propagate_panics = true;
        self
    }

    /// Drops and counts the tasks that are pending when the loop quits. Default: it runs them.
    pub fn drop_tasks_on_quit(mut self) -> EventLoopBuilder {
        self.drop_tasks_on_quit = true;
        self
    }

    /// How long to spin before a blocking wait. Default: adaptive.
    ///
    /// While the loop spins, a post to it costs no system call and is seen within a microsecond.
    /// Meanwhile the loop keeps a processor busy.
    ///
    /// An adaptive loop spins as long as two wake-ups take, which it measures: 10 to 100 us. It
    /// spins only after tasks from other threads, and keeps spinning while they post again within
    /// that time, as loops that exchange messages do. If the producers share its processor, it
    /// yields that to them instead (sched_yield(2)). While it finds nothing it backs off
    /// exponentially, to one spin in 1024 waits. In a burst of tasks it takes batches at most every
    /// 8 us, which lets the producers proceed.
    ///
    /// [`Duration::ZERO`] never spins, so that the loop uses no more processor time than its work
    /// takes. Any other value spins before every wait, for the lowest latency on a dedicated
    /// processor, and also keeps timers accurate to the microsecond. Neither setting delays
    /// batches.
    pub fn busy_poll(mut self, duration: Duration) -> EventLoopBuilder {
        self.busy_poll = Some(duration);
        self
    }

    /// How many tasks of other threads may be pending. Default: unbounded.
    pub fn mailbox(mut self, mailbox: MailboxLimit) -> EventLoopBuilder {
        self.mailbox = mailbox;
        self
    }

    /// The clock of the loop. Default: the system's monotonic clock, CLOCK_MONOTONIC.
    pub fn virtual_clock(mut self, clock: VirtualClock) -> EventLoopBuilder {
        self.virtual_clock = Some(clock);
        self
    }

    /// The name of the loop, for the reports of a [`Watchdog`](crate::observe::Watchdog). Default:
    /// the name of the thread that creates it, of which the kernel keeps 15 bytes.
    pub fn name(mut self, name: impl Into<String>) -> EventLoopBuilder {
        self.name = Some(name.into());
        self
    }

    /// Measures times and delays from the beginning. Same as
    /// [`LoopHandle::enable_metrics`](crate::LoopHandle::enable_metrics).
    pub fn metrics(mut self) -> EventLoopBuilder {
        self.metrics = true;
        self
    }

    /// Creates the loop, for this thread.
    ///
    /// # Errors
    /// Same as [`EventLoop::new`].
    pub fn build(self) -> io::Result<EventLoop> {
        if EventLoop::current().is_some_and(|current| !current.is_inherited()) {
            let message = "this thread has an event loop already; a thread has at most one";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let clock = self.virtual_clock.map_or_else(Clock::system, Clock::from);
        let name = self.name.unwrap_or_else(thread_name);
        let shared = Arc::new(Shared::new(name, self.mailbox, clock)?);
        if self.metrics {
            shared.enable_metrics();
        }
        let inner = Rc::new(Inner {
            shared: Arc::clone(&shared),
            poller: Poller::new(self.events_per_turn)?,
            channels: RefCell::new(ChannelTable::new()),
            alarm: OnceCell::new(),
            timers: RefCell::new(TimerQueue::new()),
            excluded_timers: RefCell::default(),
            freed_bytes: Cell::new(0),
            timers_fired: Cell::new(0),
            local_tasks: RefCell::default(),
            futures: RefCell::default(),
            after_poll: Default::default(),
            closing: RefCell::default(),
            input: Cell::new(None),
            output: Cell::new(None),
            spare_buffers: RefCell::default(),
            input_size: self.input_buffer,
            now: Cell::new(None),
            iteration: Cell::new(0),
            running: Cell::new(false),
            wake_unread: Cell::new(true),
            self_wake: Cell::new(false),
            quitting: Cell::new(false),
            dropping: Cell::new(false),
            is_delivering: Cell::new(false),
            propagate_panics: self.propagate_panics,
            drop_tasks_on_quit: self.drop_tasks_on_quit,
            spin: Spin::new(self.busy_poll, shared.mailbox.capacity()),
            own_channels: Cell::new(0),
            panic: Cell::new(None),
            channel_batch: RefCell::default(),
            task_batch: RefCell::default(),
            local_batch: RefCell::default(),
            slack: RefCell::default(),
            lent_capacity: Cell::default(),
            sleeps_with_slack: Cell::new(0),
            trim_requests: Default::default(),
            hooks: Hooks::default(),
            phase: Cell::new(None),
            outer_callbacks: RefCell::default(),
            task_times: TaskTimes::default(),
            queues_specially: Cell::new(false),
        });
        let event_loop = EventLoop { inner };
        event_loop.note_metrics();
        // Sets the present as the origin of the timer queue, instead of the clock's origin.
        event_loop.inner.timers.borrow_mut().begin_phase(event_loop.moment());
        match shared.clock.virtual_clock() {
            Some(clock) => clock.listen(shared.listener()),
            None => {
                let timerfd = Alarm::open()?;
                let alarm = event_loop.register(Interest::READABLE, |id| Rc::new(Alarm::new(id, timerfd)))?;
                _ = event_loop.inner.alarm.set(alarm);
            }
        }
        event_loop.register(Interest::READABLE, |id| Rc::new(Wakeup::new(id, shared)))?;
        let own = event_loop.inner.channels.borrow().ids();
        own.iter().for_each(|id| event_loop.set_counted(*id, false));
        event_loop.inner.own_channels.set(own.len());
        EventLoop::set_current(Rc::downgrade(&event_loop.inner));
        set_observer(EventLoop::observe_panic);
        logger::set_clock(EventLoop::current_time);
        Ok(event_loop)
    }
}

/// The name of this thread in the kernel. The standard library's may not be available: a loop can
/// be created while thread-locals are destroyed.
fn thread_name() -> String {
    rustix::thread::name().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}
