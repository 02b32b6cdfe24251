//! Tasks from any thread, and the protocol that wakes a sleeping loop for them.
//!
//! One consumer (the loop) takes batches; any number of producers push. A producer learns from [`push`](TaskQueue::push)
//! whether it is the one that must wake the consumer: at most one is told so for each sleep, and none once the consumer has
//! said that it is awake. The promise, checked with loom in `tests/loom`: a consumer never sleeps over a task or a request to
//! quit, and a producer that waits for room is woken by every take that makes some.
//!
//! The argument in one paragraph. The consumer announces its sleep inside the mutex, and only if it finds nothing there. A push
//! is therefore either before that, and is found, or after it, and then sees the announcement. Whoever takes the announcement
//! back (a swap, so one producer only) writes the eventfd. The consumer itself takes it back when it wakes, without the mutex:
//! a producer that got there first costs one spurious wake-up and nothing else.
//!
//! The module knows neither what a task is nor how a wake is done, and is generic over its primitives, so that the same
//! lines run on the real ones and on the model checker's.

use std::time::Instant;

/// The synchronisation that a [`TaskQueue`] is built from.
pub(crate) trait Primitives {
    /// Mutual exclusion around a `T`.
    type Mutex<T>: Mutex<T>;
    /// One shared boolean.
    type Flag: Flag;
}

/// A mutex that lends its content for the length of a call, with a condition that threads can wait for.
pub(crate) trait Mutex<T> {
    /// A mutex around `value`.
    fn new(value: T) -> Self;
    /// Calls `f` with the content, locked.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
    /// Calls `f` with the content, locked, until it answers, and waits for [`notify_all`](Mutex::notify_all) in between.
    /// `None` if it has not answered by the deadline.
    fn wait_with<R>(&self, deadline: Option<Instant>, f: impl FnMut(&mut T) -> Option<R>) -> Option<R>;
    /// Has every thread in [`wait_with`](Mutex::wait_with) look again.
    fn notify_all(&self);
}

/// An atomic boolean. Every operation may be relaxed: what orders them is the queue's mutex.
pub(crate) trait Flag {
    /// A flag that holds `value`.
    fn new(value: bool) -> Self;
    /// Reads the flag.
    fn load(&self) -> bool;
    /// Sets the flag.
    fn store(&self, value: bool);
    /// Sets the flag and tells what it was.
    fn swap(&self, value: bool) -> bool;
}

/// What a producer is asked to do after it has handed something over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a wake that is not passed on leaves the consumer asleep"]
pub(crate) enum Wake {
    /// The consumer sleeps and nobody else has been asked to wake it: wake it.
    Needed,
    /// The consumer is awake, or somebody else is waking it.
    NotNeeded,
}

/// Why a task is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is closed.
    Closed,
    /// As many tasks wait as may.
    Full,
}

/// A batch queue with one consumer that may sleep.
#[derive(Debug)]
pub(crate) struct TaskQueue<T, P: Primitives> {
    inbox: P::Mutex<Inbox<T>>,
    /// Set by the consumer inside the mutex when it is about to sleep, cleared by whoever ends the sleep. Every producer reads it
    /// for every task, so it has a cache line where nothing else is written.
    asleep: CachePadded<P::Flag>,
    /// Set, inside the mutex, by whoever puts something into an empty inbox, and cleared by the take. It saves the consumer the
    /// mutex when there is something anyway: what it does not see here it sees there, before it sleeps.
    pending: CachePadded<P::Flag>,
    /// How many tasks may wait at a time.
    capacity: usize,
}

/// A value with cache lines of its own: two, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct CachePadded<T>(T);

#[derive(Debug)]
struct Inbox<T> {
    batch: Batch<T>,
    /// How many tasks have been pushed.
    accepted: u64,
    quit: bool,
    closed: bool,
}

/// What has been pushed since the last take.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    /// Tasks of users, in the order pushed.
    pub(crate) tasks: Vec<T>,
    /// Tasks of the crate itself, in the order pushed. They are short, and there is always room for them.
    pub(crate) internal: Vec<T>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { tasks: Vec::new(), internal: Vec::new() }
    }
}

impl<T> Batch<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len() + self.internal.len()
    }

    /// For how many tasks there is room, and for how many errands.
    pub(crate) fn capacities(&self) -> (usize, usize) {
        (self.tasks.capacity(), self.internal.capacity())
    }

    /// How many tasks there are, and how many errands.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.tasks.len(), self.internal.len())
    }
}

impl<T, P: Primitives> TaskQueue<T, P> {
    /// An empty queue for `capacity` tasks whose consumer is asleep: the first push asks for a wake.
    pub(crate) fn new(capacity: usize) -> Self {
        let inbox = Inbox { batch: Batch::default(), accepted: 0, quit: false, closed: false };
        TaskQueue {
            inbox: P::Mutex::new(inbox),
            asleep: CachePadded(P::Flag::new(true)),
            pending: CachePadded(P::Flag::new(false)),
            capacity,
        }
    }

    /// Adds a task, in order behind those pushed before it.
    ///
    /// `into_task` runs under the lock and must only change the type; it is there so that a refused task can be given back
    /// as what it was.
    ///
    /// # Errors
    /// Gives `task` back once the queue is closed, or while it is full.
    #[inline]
    pub(crate) fn push<B>(&self, task: B, into_task: impl FnOnce(B) -> T) -> Result<Wake, (Refusal, B)> {
        self.inbox.with(|inbox| match inbox.refusal(self.capacity) {
            Some(refusal) => Err((refusal, task)),
            None => {
                self.mark_pending(inbox);
                inbox.batch.tasks.push(into_task(task));
                inbox.accepted += 1;
                Ok(())
            }
        })?;
        Ok(self.end_sleep())
    }

    /// As [`push`](TaskQueue::push), but waits while the queue is full, until the deadline. Not for the consumer's thread, which
    /// would wait for itself.
    ///
    /// # Errors
    /// Gives `task` back once the queue is closed, or if there was no room in time.
    pub(crate) fn push_waiting<B>(
        &self,
        deadline: Option<Instant>,
        task: B,
        into_task: impl FnOnce(B) -> T,
    ) -> Result<Wake, (Refusal, B)> {
        let mut to_push = Some((task, into_task));
        let refusal = self.inbox.wait_with(deadline, |inbox| match inbox.refusal(self.capacity) {
            Some(Refusal::Full) => None,
            Some(Refusal::Closed) => Some(Refusal::Closed),
            None => {
                self.mark_pending(inbox);
                inbox.accepted += 1;
                inbox.batch.tasks.extend(to_push.take().map(|(task, into_task)| into_task(task)));
                Some(Refusal::Full) // of no account, since there is nothing left to refuse
            }
        });
        match to_push {
            Some((task, _)) => Err((refusal.unwrap_or(Refusal::Full), task)),
            None => Ok(self.end_sleep()),
        }
    }

    /// Adds an errand. There is always room for it.
    ///
    /// # Errors
    /// Gives `errand` back once the queue is closed.
    pub(crate) fn push_internal(&self, task: T) -> Result<Wake, T> {
        self.inbox.with(|inbox| {
            if inbox.closed {
                return Err(task);
            }
            self.mark_pending(inbox);
            inbox.batch.internal.push(task);
            Ok(())
        })?;
        Ok(self.end_sleep())
    }

    /// Asks the consumer to stop. Stays asked until the consumer [takes](TaskQueue::take) the request.
    pub(crate) fn quit(&self) -> Wake {
        self.inbox.with(|inbox| {
            self.pending.0.store(true);
            inbox.quit = true;
        });
        self.end_sleep()
    }

    /// Takes back an announced sleep; at most one caller does so for each sleep.
    #[inline]
    pub(crate) fn end_sleep(&self) -> Wake {
        // The load keeps the cache line shared while the consumer is awake, which is the case that must be cheap.
        if self.asleep.0.load() && self.asleep.0.swap(false) { Wake::Needed } else { Wake::NotNeeded }
    }

    /// For the consumer: announces that it will sleep, unless there is something to do.
    #[must_use = "the consumer must not sleep unless this says so"]
    pub(crate) fn may_sleep(&self) -> bool {
        if self.pending.0.load() {
            return false;
        }
        self.inbox.with(|inbox| {
            let idle = inbox.is_idle();
            if idle {
                self.asleep.0.store(true);
            }
            idle
        })
    }

    /// For the consumer: whether it sees something to do. What another thread has just put there it may see a little later.
    pub(crate) fn has_work(&self) -> bool {
        self.pending.0.load()
    }

    /// Before something is put into the inbox.
    #[inline]
    fn mark_pending(&self, inbox: &Inbox<T>) {
        if inbox.batch.is_empty() {
            self.pending.0.store(true);
        }
    }

    /// For the consumer: it is awake, and producers need not wake it.
    pub(crate) fn awake(&self) {
        // Not written without need: a turn that did not sleep leaves the line with the producers. Only the consumer sets it.
        if self.asleep.0.load() {
            self.asleep.0.store(false);
        }
    }

    /// For the consumer: swaps everything that is queued into `batch`, which must be empty and lends its capacity.
    ///
    /// Answers whether it has been asked to quit since the last take. Tasks and request are taken under one lock: if the
    /// answer is yes, every task accepted before that request is in this batch or was in an earlier one. A request that
    /// comes later stands for a later take, and the tasks accepted before it too.
    pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {
        debug_assert!(batch.is_empty());
        let quit = self.inbox.with(|inbox| {
            std::mem::swap(&mut inbox.batch, batch);
            if inbox.quit || !batch.is_empty() {
                self.pending.0.store(false);
            }
            std::mem::take(&mut inbox.quit)
        });
        if batch.tasks.len() >= self.capacity {
            self.inbox.notify_all();
        }
        quit
    }

    /// For the consumer: takes the room of an empty inbox out, to be dropped.
    pub(crate) fn take_storage(&self) -> Batch<T> {
        self.inbox.with(|inbox| {
            if inbox.batch.is_empty() { std::mem::take(&mut inbox.batch) } else { Batch::default() }
        })
    }

    /// How many tasks have been accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.inbox.with(|inbox| inbox.accepted)
    }

    /// Whether a request to quit waits to be taken.
    pub(crate) fn is_quitting(&self) -> bool {
        self.inbox.with(|inbox| inbox.quit)
    }

    /// Refuses every later push, also those that wait for room, and hands out what had been accepted and not yet taken.
    pub(crate) fn close(&self) -> Batch<T> {
        let left = self.inbox.with(|inbox| {
            inbox.closed = true;
            std::mem::take(&mut inbox.batch)
        });
        self.inbox.notify_all();
        left
    }
}

impl<T> Inbox<T> {
    #[inline]
    fn refusal(&self, capacity: usize) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if self.batch.tasks.len() >= capacity {
            Some(Refusal::Full)
        } else {
            None
        }
    }

    fn is_idle(&self) -> bool {
        self.batch.is_empty() && !self.quit
    }
}
