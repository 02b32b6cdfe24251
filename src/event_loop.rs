//! The loop: waits for descriptors, deadlines and tasks, and calls back.
//!
//! Start reading at [`turn`](EventLoop::turn): its six phases are the whole of the reactor, and everything else here serves one
//! of them.
//!
//! Two rules keep it simple. No borrow and no lock is held while somebody else's code runs: what is to be called is looked up,
//! cloned or taken out, the borrow ends, then the call is made. And callbacks never nest: what one causes (a close, a task) is
//! delivered after it has returned.

mod builder;
pub(crate) mod channel_table;
pub(crate) mod containment;
mod counters;
mod embedding;
mod handle;
pub(crate) mod poller;
pub(crate) mod process_mark;
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
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::resume_unwind;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

pub use builder::EventLoopBuilder;
pub use counters::LoopCounters;
pub use handle::call::CallError;
pub use handle::mailbox_limit::MailboxLimit;
pub use handle::{LoopHandle, PostError, PostErrorReason};
pub use shared::TimerId;
pub(crate) use source::{Source, WeakLoop};
pub use timers::repeat::{MissedTickBehavior, Repeat};

use self::channel_table::{ChannelId, ChannelTable};
use self::containment::{Contained, Payload, catch, dispose};
use self::poller::{Poller, Wait};
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
/// One per thread, and bound to it: an `EventLoop` is neither `Send` nor `Sync`. Everything on it acts at once. Other threads
/// speak to it through its [`handle`](EventLoop::handle).
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
///         println!("on the loop's thread, asked from another one");
///         event_loop.run_after(Duration::from_millis(1), |event_loop| event_loop.quit());
///     })
/// });
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
///
/// # One turn
/// 1. The timeout is computed: none if there is work already. The alarm for the next deadline is set, unless it is.
/// 2. The loop waits. An idle loop stays here and makes no system call.
/// 3. Channels that are ready are called back.
/// 4. Timers that are due are called back, in the order of their deadlines.
/// 5. One batch of tasks runs: those queued before this phase began.
/// 6. What was closed in this turn is told so, and given up.
///
/// Then a request to [`quit`](EventLoop::quit) is honoured. Whatever a callback or a task starts anew waits for the next turn, so
/// nothing can keep the rest from being served.
///
/// # Inside another loop
/// A loop can be embedded in another poller or runtime, on one thread with it. Its descriptor ([`AsFd`](std::os::fd::AsFd),
/// [`AsRawFd`](std::os::fd::AsRawFd)) is readable while the loop has something to do, and becomes so for all of it: descriptors that
/// are ready, timers that are due, tasks from other threads, what is asked of the loop between its turns, and what a turn has left. Work
/// that comes after a turn is a new edge, so pollers that go by edges (tokio's `AsyncFd`, mio) are served as those that go by level
/// (poll(2)) are. The outer loop watches the descriptor for reading, calls [`run_ready`](EventLoop::run_ready) each time that it is
/// readable, and needs no timeout of its own. When there is nothing to do, the descriptor is not readable.
///
/// The deadlines of a [virtual clock](EventLoopBuilder::virtual_clock) do not show before the clock has been moved. The examples `in_tokio` and
/// `in_mio` are complete programs.
///
/// # Panics in callbacks
/// A panic is caught at the callback: the connection or channel it belongs to is closed, the task or timer is over, the panic
/// is logged and counted ([`LoopCounters::panics`]), and the loop goes on. With [`EventLoopBuilder::propagate_panics`], `run` ends the turn, so
/// that nothing is lost, and then panics with it.
///
/// The same holds for the destructors of callbacks, handlers, errors and other values that the loop has been given, and for the
/// payload of a panic. A payload whose destructor panics is logged and counted as one panic.
///
/// # Dropping
/// Dropping the loop closes what it watches (each connection's handler gets its `on_close`), and drops the timers and the tasks
/// that have not run ([`LoopCounters::tasks_dropped`]). Posts from then on are refused.
///
/// # Fork
/// A loop belongs to the process that has made it. In a forked child it can be dropped and nothing else; the child may make its
/// own. See the [crate's documentation](crate#fork).
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
    /// How many bytes of their room have been given up since the loop was last idle.
    freed_bytes: Cell<usize>,
    /// How many came due in the last turn.
    timers_fired: Cell<usize>,
    /// Ends a wait when a timer is due; none for a loop with a virtual clock.
    alarm: OnceCell<Rc<Alarm>>,
    /// Tasks from this thread: no lock, and they need not be `Send`.
    local_tasks: RefCell<Batch<Task<EventLoop>>>,
    /// Channels to be closed in phase 6.
    closing: RefCell<Vec<ChannelId>>,
    /// The one buffer that input is read into; lent to a connection while it reads.
    input: Cell<Option<Box<Buffer>>>,
    input_size: usize,
    /// The time of this turn, once somebody has asked for it.
    now: Cell<Option<Instant>>,
    iteration: Cell<u64>,
    running: Cell<bool>,
    /// The loop has not looked at its descriptors since it last ran, while it was announced to sleep: a wake may stand unread.
    wake_unread: Cell<bool>,
    /// The loop itself has written to its counter, to show work between turns, and has not read that.
    self_wake: Cell<bool>,
    /// A request to quit has been taken from the queue, and no `run` has returned for it yet.
    quitting: Cell<bool>,
    /// The loop is being dropped: nothing new is taken on.
    dropping: Cell<bool>,
    propagate_panics: bool,
    drop_tasks_on_quit: bool,
    /// How many channels are the loop's own.
    own_channels: Cell<usize>,
    /// What has been learned of other threads, and what that means for waiting.
    spin: Spin,
    /// The first panic of this turn, to go on with when the turn is over.
    panic: Cell<Option<Contained<Payload>>>,
    /// Storage of the batches of phases 3 and 5, kept for their capacity.
    channel_batch: Cell<Vec<ChannelId>>,
    task_batch: RefCell<Batch<Posted>>,
    local_batch: Cell<Batch<Task<EventLoop>>>,
    slack: RefCell<TaskSlack>,
    /// The room that the queue has been lent for the next batch.
    lent_capacity: Cell<(usize, usize)>,
    /// How many sleeps in a row have begun with much more room than was needed since the first of them.
    sleeps_with_slack: Cell<u32>,
    /// Sources that hold much more room than they need.
    trim_requests: trimming::TrimRequests,
}

thread_local! {
    /// The loop of this thread: it refuses a second one, and lets a handle find the loop when it is already on its thread.
    ///
    /// Without a destructor, so that it is there for as long as the thread is: destructors of other thread-locals may still use the
    /// loop, or make one. The drop of the loop empties it.
    static CURRENT: RefCell<ManuallyDrop<Weak<Inner>>> = const { RefCell::new(ManuallyDrop::new(Weak::new())) };
}

impl EventLoop {
    /// A loop with the usual settings, for this thread.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if this thread has a loop already; else what the kernel says when it
    /// cannot give another descriptor.
    pub fn new() -> io::Result<EventLoop> {
        EventLoop::builder().build()
    }

    /// The settings of a loop.
    pub fn builder() -> EventLoopBuilder {
        EventLoopBuilder::new()
    }

    /// The face of this loop that any thread may use.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle::new(Arc::clone(&self.inner.shared))
    }

    /// Asks the loop to return from [`run`](EventLoop::run) at the end of the turn that has run every task accepted until now.
    pub fn quit(&self) {
        self.inner.shared.quit();
    }

    /// Whether a request to quit stands.
    pub fn is_quitting(&self) -> bool {
        let Inner { quitting, shared, .. } = &*self.inner;
        quitting.get() || (!shared.is_inherited() && shared.tasks.is_quitting())
    }

    /// The time: in a callback that of this turn, else the present.
    ///
    /// The clock is read once a turn at most, when its time is first asked for; if there are timers that is in phase 4 at the latest.
    /// Monotonic; the wall clock plays no part in the loop.
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

    /// How many turns the loop has made.
    pub fn iteration(&self) -> u64 {
        self.inner.iteration.get()
    }

    /// Phases 1 to 6. Answers whether the loop has been asked to quit.
    fn turn(&self, limit: Wait) -> io::Result<bool> {
        let inner = &*self.inner;

        // 1. The timeout, and the alarm for the next deadline.
        let wait = self.allowed_wait(limit)?;

        // 2. The wait. All events are noted before the first callback runs, so that none can reach a channel that is made
        // in this turn and takes over a slot or a descriptor number.
        let waited = self.wait(wait);
        inner.shared.tasks.awake();
        waited?;
        inner.now.set(None);
        {
            let mut channels = inner.channels.borrow_mut();
            inner.poller.for_each_event(|key, ready| channels.add_ready(ChannelId::from_key(key), ready));
        }

        // 3. Channels, the one that wakes the loop among them.
        self.run_channels();
        self.check_process()?;

        // 4. Timers.
        self.run_timers();
        self.check_process()?;

        // 5. One batch of tasks.
        self.run_tasks();
        self.check_process()?;

        // 6. Deferred closes.
        self.run_closes();
        self.check_process()?;

        inner.iteration.set(inner.iteration.get() + 1);
        Ok(inner.quitting.get())
    }

    /// Phase 1: how long the loop may wait. That it ends when a timer is due is seen to here.
    fn allowed_wait(&self, limit: Wait) -> io::Result<Wait> {
        if limit == Wait::No || self.has_work() || !self.arm_alarm()? { Ok(Wait::No) } else { Ok(limit) }
    }

    /// Whether a wait would be wrong, other threads' tasks aside.
    fn has_work(&self) -> bool {
        let inner = &*self.inner;
        inner.quitting.get()
            || inner.channels.borrow().has_active()
            || !inner.local_tasks.borrow().is_empty()
            || !inner.closing.borrow().is_empty()
    }

    fn run_channels(&self) {
        let inner = &*self.inner;
        if !inner.channels.borrow().has_active() {
            return;
        }
        let mut batch = inner.channel_batch.take();
        inner.channels.borrow_mut().take_active(&mut batch);
        for id in batch.drain(..) {
            let started = inner.channels.borrow_mut().start(id);
            let Some((source, ready)) = started else { continue };
            let returned = self.catch("a channel's callback", || source.on_ready(self, ready));
            if self.is_inherited() {
                return;
            }
            if returned.is_none() {
                self.close_after_panic(&source);
            }
            inner.channels.borrow_mut().finish(id);
            if Rc::strong_count(&source) == 1 {
                // The last of a channel that was closed meanwhile.
                self.discard(source);
            }
        }
        inner.channel_batch.set(batch);
    }

    fn run_closes(&self) {
        let inner = &*self.inner;
        if inner.closing.borrow().is_empty() {
            return;
        }
        // What is closed by an `on_close` waits for the next turn.
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
            self.catch("a close callback", || {
                source.on_close(self);
                drop(source);
            });
        }
    }

    /// Whether this is a forked child of the process that has made the loop. A callback may have forked: the child must not go on
    /// with the turn, which is its parent's.
    #[inline]
    fn is_inherited(&self) -> bool {
        self.inner.shared.is_inherited()
    }

    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the process that has made the loop.
    pub(crate) fn check_process(&self) -> io::Result<()> {
        self.inner.shared.process().check()
    }

    /// A call into the source's callback has panicked: the source ends.
    fn close_after_panic(&self, source: &Rc<dyn Source>) {
        self.catch("the end after a panic", || source.on_panic(self));
    }

    /// Calls the user's code. A panic ends there; `None` says that there was one.
    pub(crate) fn catch<R>(&self, what: &'static str, call: impl FnOnce() -> R) -> Option<R> {
        catch(what, call).map_err(|payload| self.take_panic(payload)).ok()
    }

    /// Drops what is, or may hold, the user's: its destructor is the user's code too.
    fn discard<T>(&self, value: T) {
        self.catch("a destructor", || drop(value));
    }

    /// Counts a panic that was caught. The first of a turn is kept if it is to be propagated, any other payload is dropped.
    fn take_panic(&self, payload: Payload) {
        let Inner { shared, panic, propagate_panics, .. } = &*self.inner;
        shared.counters.count_panic();
        let first = panic.take();
        if *propagate_panics && first.is_none() {
            panic.set(Some(Contained::new(payload)));
        } else {
            panic.set(first);
            dispose(payload);
        }
    }

    /// Takes the payload of a panic that a value of the user's has raised in its drop, on this thread.
    fn observe_panic(payload: Payload) {
        match EventLoop::current() {
            Some(event_loop) => event_loop.take_panic(payload),
            None => dispose(payload),
        }
    }

    /// The time of this thread's loop, if there is one.
    fn current_time() -> Instant {
        EventLoop::current().map_or_else(Instant::now, |event_loop| event_loop.now())
    }

    /// The loop of this thread, until it has been dropped.
    fn current() -> Option<EventLoop> {
        CURRENT.with_borrow(|current| current.upgrade()).map(|inner| EventLoop { inner })
    }

    fn set_current(inner: Weak<Inner>) {
        drop(ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(inner))));
    }

    fn propagate_panic(&self) {
        if let Some(payload) = self.inner.panic.take() {
            resume_unwind(payload.into_inner());
        }
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
