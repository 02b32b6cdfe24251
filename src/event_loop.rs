//! The event loop: waits for descriptors, deadlines and tasks, and calls back.
//!
//! Start reading at [`turn`](EventLoop::turn). Its six phases are the whole reactor. All other code
//! of this file serves one of these phases.
//!
//! Two rules keep it simple. No borrow and no lock is held while user code runs: the callback is
//! looked up, cloned or taken out, the borrow ends, then the call is made. And callbacks never
//! nest: an event that a callback causes (a close, a task) is delivered after the callback has
//! returned.

mod builder;
pub(crate) mod channel_table;
pub(crate) mod containment;
mod counters;
mod current;
pub(crate) mod deliveries;
mod embedding;
pub(crate) mod handle;
pub(crate) mod hooks;
pub(crate) mod idle;
pub(crate) mod observation;
mod panics;
pub(crate) mod poller;
pub(crate) mod process_mark;
mod refused;
mod registration;
mod run;
mod shared;
mod source;
mod spin;
pub(crate) mod tasks;
mod teardown;
pub(crate) mod timers;
pub(crate) mod trimming;
mod wait;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

pub use builder::EventLoopBuilder;
pub use counters::LoopCounters;
pub use handle::call::CallError;
pub use handle::mailbox_limit::MailboxLimit;
pub use handle::{LoopHandle, PostError};
pub use refused::Refused;
pub(crate) use registration::Registration;
pub use shared::TimerId;
pub(crate) use source::{Description, Source, WeakLoop};
pub use timers::repeat::{MissedTickBehavior, Repeat};

use self::channel_table::{ChannelId, ChannelTable};
use self::containment::{Contained, Payload};
use self::hooks::Hooks;
use self::observation::TaskTimes;
use self::observation::metrics::Phase;
use self::observation::pulse::Activity;
use self::poller::{Poller, Wait};
use self::tasks::after_poll::AfterPoll;
use self::tasks::executor::Futures;
use self::tasks::ready_queue;
use self::tasks::task::Task;
use self::tasks::task_queue::Batch;
use self::timers::timer_queue::TimerQueue;
use crate::buffer::Buffer;
use shared::{Posted, Shared};
use spin::Spin;
use tasks::TaskSlack;
use timers::TimerTask;
use timers::alarm::Alarm;

/// A loop that waits for descriptors, deadlines and tasks, and calls back.
///
/// There is at most one per thread, and it is bound to its thread: an `EventLoop` is neither `Send`
/// nor `Sync`. Calls on it take effect at once. Other threads use its
/// [`handle`](EventLoop::handle).
///
/// ```
/// use reveille::EventLoop;
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let handle = event_loop.handle();
/// std::thread::spawn(move || {
///     handle.queue_in_loop(|event_loop| {
///         println!("on the loop's thread, posted from another one");
///         event_loop.run_after(Duration::from_millis(1), |event_loop| event_loop.quit());
///     })
/// });
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
///
/// # One turn
/// [Hooks](crate::observe::Hook) run before phase 1 and after phase 2. Those before phase 1 run
/// once more before `run` returns.
///
/// 1. Compute the wait timeout (zero if work is pending) and arm the timerfd if the next deadline
///    has changed.
/// 2. Wait. An idle loop stays here and makes no system call.
/// 3. Call the channels that are ready.
/// 4. Call the timers that are due, in the order of their deadlines.
/// 5. Run one batch of tasks: those queued before this phase began.
/// 6. Channels closed during this turn get their `on_close` and are dropped.
///
/// A request to [`quit`](EventLoop::quit) is then honoured. Work that a callback or a task adds
/// waits for the next turn, so no source of work can starve the others.
///
/// # Inside another loop
/// A loop can be embedded in another poller or runtime on the same thread. Its descriptor
/// ([`AsFd`](std::os::fd::AsFd), [`AsRawFd`](std::os::fd::AsRawFd)) is readable while the loop has
/// work of any kind: ready descriptors, due timers, tasks from other threads, calls made on the
/// loop between its turns, and work that a turn has left. Work that arrives after a turn is a new
/// edge, so edge-triggered pollers (tokio's `AsyncFd`, mio) work as well as level-triggered ones
/// (poll(2)). The outer loop watches the descriptor for reading, calls
/// [`run_ready`](EventLoop::run_ready) each time it is readable, and needs no timeout of its own.
/// Without work the descriptor is not readable.
///
/// The deadlines of a [virtual clock](EventLoopBuilder::virtual_clock) make it readable only once
/// the clock has been moved. The examples `in_tokio` and `in_mio` are complete programs.
///
/// # Panics in callbacks
/// A panic is caught at the callback. Its connection or channel is closed, its task or timer ends.
/// The panic is logged and counted ([`LoopCounters::panics`]), and the loop continues. With
/// [`EventLoopBuilder::propagate_panics`], `run` completes the turn, so that no event is lost, and
/// then resumes the panic.
///
/// The same holds for the destructors of callbacks, handlers, errors and other values given to the
/// loop, and for the payload of a panic. A payload whose destructor panics is logged and counted as
/// one panic.
///
/// The log line names the callback and what it belongs to, such as a connection with its peer. Each
/// thread logs at most one such line a second for each kind of callback and owner, with the number
/// of lines suppressed since the last one. The panic hook of the process
/// ([`set_hook`](std::panic::set_hook)) and [`LoopCounters::panics`] report every panic.
///
/// # Dropping
/// Dropping the loop closes its channels (each connection's handler gets its `on_close`) and drops
/// the timers and the tasks that have not run ([`LoopCounters::tasks_dropped`]). Later posts are
/// refused.
///
/// # Fork
/// A loop belongs to the process that created it. A forked child can only drop it, and may create
/// its own. See the [crate's documentation](crate#fork).
///
/// ```compile_fail
/// fn must_be_send<T: Send>(_: T) {}
/// must_be_send(reveille::EventLoop::new().unwrap());
/// ```
pub struct EventLoop {
    inner: Rc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    poller: Poller,
    channels: RefCell<ChannelTable<Rc<dyn Source>>>,
    timers: RefCell<TimerQueue<TimerTask>>,
    /// Timers that do not keep `run_until_idle` running. Some may have ended.
    excluded_timers: RefCell<HashSet<TimerId>>,
    /// Bytes of timer storage released since the loop was last idle.
    freed_bytes: Cell<usize>,
    /// Timers that fired in the last turn.
    timers_fired: Cell<usize>,
    /// Ends a wait when a timer is due. Not set in a loop with a virtual clock.
    alarm: OnceCell<Rc<Alarm>>,
    /// Tasks from this thread. They take no lock and need not be `Send`.
    local_tasks: RefCell<Batch<Task<EventLoop>>>,
    futures: Futures,
    after_poll: AfterPoll,
    /// Channels to be closed in phase 6.
    closing: RefCell<Vec<ChannelId>>,
    /// The one buffer that input is read into. A connection borrows it while it reads.
    input: Cell<Option<Box<Buffer>>>,
    /// Collects the output of a connection while its callback runs. At most about 64 KiB.
    output: Cell<Option<Box<Buffer>>>,
    /// Empty buffers for the filters of connections.
    spare_buffers: RefCell<Vec<Buffer>>,
    input_size: usize,
    /// The time of this turn, once it has been read.
    now: Cell<Option<Instant>>,
    iteration: Cell<u64>,
    running: Cell<bool>,
    /// The loop has announced a sleep to other threads and has not polled since. Their wake-up may
    /// therefore be unread.
    wake_unread: Cell<bool>,
    /// The loop has written to its own counter, to signal work between turns, and has not read it
    /// back.
    self_wake: Cell<bool>,
    /// A request to quit has been taken from the queue, and no `run` has returned for it yet.
    quitting: Cell<bool>,
    /// The loop is being dropped and accepts no new work.
    dropping: Cell<bool>,
    is_delivering: Cell<bool>,
    propagate_panics: bool,
    drop_tasks_on_quit: bool,
    /// How many channels belong to the loop itself.
    own_channels: Cell<usize>,
    /// Decides how long to spin before a wait.
    spin: Spin,
    /// The first panic of this turn, to be resumed at the end of the turn.
    panic: Cell<Option<Contained<Payload>>>,
    /// Storage of the batches of phases 3 and 5, kept for its capacity.
    channel_batch: RefCell<Vec<ChannelId>>,
    task_batch: RefCell<Batch<Posted>>,
    local_batch: RefCell<Batch<Task<EventLoop>>>,
    slack: RefCell<TaskSlack>,
    /// The capacity that the queue has been lent for its next batch.
    lent_capacity: Cell<(usize, usize)>,
    /// The number of consecutive sleeps that have begun with slack: the loop holds much more memory
    /// than it has needed since the first of these sleeps.
    sleeps_with_slack: Cell<u32>,
    /// Sources that hold much more memory than they need.
    trim_requests: trimming::TrimRequests,
    hooks: Hooks,
    /// The phase of the turn and when it began, if the loop is measured.
    phase: Cell<Option<(Phase, Instant)>>,
    /// For each published callback that is running, the one around it.
    outer_callbacks: RefCell<Vec<Option<Activity>>>,
    task_times: TaskTimes,
    /// Whether times of tasks are recorded, or the loop is being dropped.
    queues_specially: Cell<bool>,
}

impl EventLoop {
    /// Creates a loop with the default settings, for this thread.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if this thread has a loop already; otherwise
    /// the error of epoll_create1(2), eventfd(2), timerfd_create(2) or fcntl(2) if there is no
    /// descriptor left.
    pub fn new() -> io::Result<EventLoop> {
        EventLoop::builder().build()
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> EventLoopBuilder {
        EventLoopBuilder::new()
    }

    /// A handle to this loop, for use from any thread.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle::new(Arc::clone(&self.inner.shared))
    }

    /// Requests that [`run`](EventLoop::run) return at the end of the turn that has run every task
    /// accepted so far.
    pub fn quit(&self) {
        self.inner.shared.quit();
    }

    /// Whether a request to quit is pending.
    pub fn is_quitting(&self) -> bool {
        let Inner { quitting, shared, .. } = &*self.inner;
        quitting.get() || (!shared.is_inherited() && shared.tasks.is_quitting())
    }

    /// The time: in a callback the time of this turn, otherwise the current time.
    ///
    /// The clock is read at most once a turn, when its time is first needed. If there are timers
    /// that is phase 4 at the latest. The time is monotonic; the loop never uses the wall clock.
    pub fn now(&self) -> Instant {
        let Inner { now, running, shared, .. } = &*self.inner;
        if let Some(now) = now.get() {
            return now;
        }
        let present = shared.clock.now();
        if running.get() {
            now.set(Some(present));
        }
        present
    }

    /// The number of turns that have completed.
    pub fn iteration(&self) -> u64 {
        self.inner.iteration.get()
    }

    /// Phases 1 to 6. Returns whether a request to quit is pending.
    fn turn(&self, limit: Wait) -> io::Result<bool> {
        let inner = &*self.inner;

        // 1. The timeout, and the alarm for the next deadline. What a hook adds is seen here.
        let limit = if self.is_measured() { self.begin_observed_turn(limit)? } else { limit };
        let wait = self.allowed_wait(limit)?;

        // 2. The wait. All events are recorded before the first callback runs. So none of them can
        //    reach a channel that is created in this turn and reuses a slot or a descriptor number.
        let waited = self.wait(wait);
        inner.shared.tasks.awake();
        waited?;
        inner.now.set(None);
        {
            let mut channels = inner.channels.borrow_mut();
            inner.poller.for_each_event(|key, ready| channels.add_ready(ChannelId::from_key(key), ready));
        }
        // Tested again, because a watchdog may have begun to watch during the wait.
        if self.is_observed() {
            self.run_watched_phases()?
        } else {
            self.run_phases::<false, false>()?
        }

        inner.iteration.set(inner.iteration.get() + 1);
        Ok(inner.quitting.get())
    }

    #[cfg(feature = "inspector")]
    #[cold]
    #[inline(never)]
    fn run_watched_phases(&self) -> io::Result<()> {
        // Otherwise only an inspector observes the loop.
        if self.is_measured() { self.run_observed_phases() } else { self.run_phases::<false, true>() }
    }

    #[cfg(not(feature = "inspector"))]
    #[inline]
    fn run_watched_phases(&self) -> io::Result<()> {
        self.run_observed_phases()
    }

    #[cold]
    fn run_observed_phases(&self) -> io::Result<()> {
        self.run_after_wait()?;
        self.run_phases::<true, true>()?;
        if self.inner.timers_fired.get() > 0 {
            self.inner.hooks.set_due();
        }
        Ok(())
    }

    /// Phases 3 to 6. Compiled several times, so that a loop that is not observed has no test for
    /// it here. `OBSERVED` is whether its phases are, and `NAMED` whether its callbacks are.
    #[inline]
    fn run_phases<const OBSERVED: bool, const NAMED: bool>(&self) -> io::Result<()> {
        // 3. Channels, including the one that wakes the loop.
        self.run_channels::<OBSERVED, NAMED>();
        self.check_process()?;

        // 4. Timers.
        self.enter_phase::<OBSERVED>(Some(Phase::Timers));
        self.run_timers();
        self.check_process()?;

        // 5. One batch of tasks.
        self.enter_phase::<OBSERVED>(Some(Phase::Tasks));
        self.run_tasks::<OBSERVED, NAMED>();
        self.poll_futures();
        self.check_process()?;

        // 6. Deferred closes.
        self.enter_phase::<OBSERVED>(Some(Phase::Closes));
        self.run_closes();
        self.check_process()?;
        self.enter_phase::<OBSERVED>(None);
        Ok(())
    }

    /// Phase 1: how long the loop may wait. It also arms the alarm for the next deadline.
    fn allowed_wait(&self, limit: Wait) -> io::Result<Wait> {
        if limit == Wait::No || self.has_work() || !self.arm_alarm()? { Ok(Wait::No) } else { Ok(limit) }
    }

    /// Whether the loop must not wait, apart from tasks of other threads.
    fn has_work(&self) -> bool {
        let inner = &*self.inner;
        inner.quitting.get()
            || inner.channels.borrow().has_active()
            || !inner.local_tasks.borrow().is_empty()
            || !ready_queue::is_empty()
            || !inner.closing.borrow().is_empty()
    }

    #[inline]
    fn run_channels<const OBSERVED: bool, const NAMED: bool>(&self) {
        let inner = &*self.inner;
        if !inner.channels.borrow().has_active() {
            return;
        }
        let mut batch = inner.channel_batch.take();
        inner.channels.borrow_mut().take_active(&mut batch);
        for id in batch.drain(..) {
            let started = inner.channels.borrow_mut().start(id);
            let Some((source, ready)) = started else { continue };
            let call = || source.on_ready(self, ready);
            let returned = match (OBSERVED, NAMED) {
                (true, _) => self.catch_in("a callback", &*source, call),
                (false, true) => self.catch_in_inspected("a callback", &*source, call),
                (false, false) => self.catch_in_unwatched("a callback", &*source, call),
            };
            if self.is_inherited() {
                return;
            }
            if returned.is_none() {
                self.close_after_panic(id, &source);
            }
            inner.channels.borrow_mut().finish(id);
            if Rc::strong_count(&source) == 1 {
                // The last reference to a source that was closed during its callback.
                self.discard(source);
            }
        }
        inner.channel_batch.replace(batch);
    }

    // A turn without closes should not pay for a call.
    #[inline(always)]
    fn run_closes(&self) {
        if !self.inner.closing.borrow().is_empty() {
            self.close_batch();
        }
    }

    fn close_batch(&self) {
        let inner = &*self.inner;
        // Channels that an `on_close` closes wait for the next turn.
        let mut batch = inner.closing.take();
        for id in batch.drain(..) {
            self.close_now(id);
            if self.is_inherited() {
                return;
            }
        }
        let mut closing = inner.closing.borrow_mut();
        if closing.is_empty() {
            *closing = batch;
        }
    }

    fn close_now(&self, id: ChannelId) {
        if let Some(source) = self.unregister(id) {
            self.catch_in("a close callback", &*source, || source.on_close(self));
            self.discard(source);
        }
    }

    /// Whether this process is a forked child of the loop's process. A callback may fork: the child
    /// must not continue the turn, which belongs to its parent.
    #[inline]
    fn is_inherited(&self) -> bool {
        self.inner.shared.is_inherited()
    }

    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the process that created
    /// the loop.
    pub(crate) fn check_process(&self) -> io::Result<()> {
        self.inner.shared.process().check()
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("iteration", &self.iteration())
            .field("channels", &self.inner.channels.borrow().len())
            .field("timers", &self.inner.timers.borrow().len())
            .finish_non_exhaustive()
    }
}
