//! Tasks from any thread, and the protocol that wakes a sleeping loop for them.
//!
//! There is one consumer (the loop), which takes batches, and any number of producers, which push.
//! [`push`](TaskQueue::push) returns whether this producer must wake the consumer. For each sleep
//! at most one producer must, and none once the consumer is awake. The guarantee, checked with loom
//! in `tests/loom`: a consumer never sleeps while there is a task or a request to quit, and every
//! take that frees capacity wakes the producers that wait for it.
//!
//! The proof in one paragraph. The consumer announces its sleep inside the mutex, and only if the
//! inbox is empty. So a push either precedes the announcement, and is found, or follows it, and
//! sees the announcement. The producer that clears the announcement (a swap, so it is one producer
//! only) writes the eventfd. The consumer clears it when it wakes, without the mutex: a producer
//! that was faster costs one spurious wake-up and nothing else.
//!
//! The module depends neither on the type of a task nor on how a wake-up is done. It is generic
//! over its primitives, so the same lines run on the real ones and on those of the model checker.

use std::time::Instant;

/// The synchronisation primitives of a [`TaskQueue`].
pub(crate) trait Primitives {
    /// Mutual exclusion around a `T`.
    type Mutex<T>: Mutex<T>;
    /// One shared boolean.
    type Flag: Flag;
}

/// A mutex that lends its content for the length of a call, with a condition variable.
pub(crate) trait Mutex<T> {
    /// A mutex around `value`.
    fn new(value: T) -> Self;
    /// Calls `f` with the locked content.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
    /// Calls `f` with the locked content until it returns a value, and waits for
    /// [`notify_all`](Mutex::notify_all) in between. `None` if it has not returned one by the
    /// deadline.
    fn wait_with<R>(&self, deadline: Option<Instant>, f: impl FnMut(&mut T) -> Option<R>) -> Option<R>;
    /// Wakes every thread in [`wait_with`](Mutex::wait_with), which then calls its `f` again.
    fn notify_all(&self);
}

/// An atomic boolean. Every operation may be relaxed: the queue's mutex orders them.
pub(crate) trait Flag {
    /// A flag that holds `value`.
    fn new(value: bool) -> Self;
    /// Reads the flag.
    fn load(&self) -> bool;
    /// Sets the flag.
    fn store(&self, value: bool);
    /// Sets the flag and returns its previous value.
    fn swap(&self, value: bool) -> bool;
}

/// What a producer must do after a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a wake-up that is not made leaves the consumer asleep"]
pub(crate) enum Wake {
    /// The consumer sleeps and no other producer wakes it: wake it.
    Needed,
    /// The consumer is awake, or another producer is waking it.
    NotNeeded,
}

/// Why a task is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is closed.
    Closed,
    /// The queue holds as many tasks as its capacity.
    Full,
}

/// A batch queue with one consumer that may sleep.
#[derive(Debug)]
pub(crate) struct TaskQueue<T, P: Primitives> {
    inbox: P::Mutex<Inbox<T>>,
    /// Set by the consumer inside the mutex before it sleeps, cleared by the thread that ends the
    /// sleep. Every producer reads it for every task, so it has a cache line that is written for
    /// nothing else.
    asleep: CachePadded<P::Flag>,
    /// Set, inside the mutex, by the push into an empty inbox, and cleared by the take. It saves
    /// the consumer the mutex if there is work. A push that the consumer does not see here is found
    /// under the mutex before the sleep.
    pending: CachePadded<P::Flag>,
    /// The maximum number of pending tasks.
    capacity: usize,
}

/// A value with cache lines of its own: two, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct CachePadded<T>(T);

#[derive(Debug)]
struct Inbox<T> {
    batch: Batch<T>,
    /// When the last tasks of the batch were pushed, if that is recorded. Empty otherwise.
    times: Vec<Instant>,
    /// The number of tasks pushed so far.
    accepted: u64,
    quit: bool,
    closed: bool,
    /// Whether the time of each push is recorded.
    is_timed: bool,
}

/// The tasks pushed since the last take.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    /// Tasks of users, in the order pushed.
    pub(crate) tasks: Vec<T>,
    /// Tasks of the crate itself, in the order pushed. They are short, and the capacity does not
    /// limit them.
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

    /// The capacities for tasks and for internal tasks.
    pub(crate) fn capacities(&self) -> (usize, usize) {
        (self.tasks.capacity(), self.internal.capacity())
    }

    /// The numbers of tasks and of internal tasks.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.tasks.len(), self.internal.len())
    }
}

impl<T, P: Primitives> TaskQueue<T, P> {
    /// An empty queue for `capacity` tasks whose consumer is asleep: the first push requires a
    /// wake-up.
    pub(crate) fn new(capacity: usize) -> Self {
        let inbox = Inbox {
            batch: Batch::default(),
            times: Vec::new(),
            accepted: 0,
            quit: false,
            closed: false,
            is_timed: false,
        };
        TaskQueue {
            inbox: P::Mutex::new(inbox),
            asleep: CachePadded(P::Flag::new(true)),
            pending: CachePadded(P::Flag::new(false)),
            capacity,
        }
    }

    /// Adds a task behind those pushed before it.
    ///
    /// `into_task` runs under the lock and must only convert the type. It exists so that a refused
    /// task can be returned with its original type.
    ///
    /// # Errors
    /// Returns `task` if the queue is closed or full.
    #[inline]
    pub(crate) fn push<B>(&self, task: B, into_task: impl FnOnce(B) -> T) -> Result<Wake, (Refusal, B)> {
        self.inbox.with(|inbox| match inbox.refusal(self.capacity) {
            Some(refusal) => Err((refusal, task)),
            None => {
                self.mark_pending(inbox);
                inbox.batch.tasks.push(into_task(task));
                inbox.accept();
                Ok(())
            }
        })?;
        Ok(self.end_sleep())
    }

    /// Same as [`push`](TaskQueue::push), but waits while the queue is full, until the deadline.
    /// Not for the consumer's thread, which would deadlock.
    ///
    /// # Errors
    /// Returns `task` if the queue is closed, or still full at the deadline.
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
                inbox.batch.tasks.extend(to_push.take().map(|(task, into_task)| into_task(task)));
                inbox.accept();
                Some(Refusal::Full) // ignored, since the task has been accepted
            }
        });
        match to_push {
            Some((task, _)) => Err((refusal.unwrap_or(Refusal::Full), task)),
            None => Ok(self.end_sleep()),
        }
    }

    /// Adds an internal task, which the capacity does not limit.
    ///
    /// # Errors
    /// Returns `task` if the queue is closed.
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

    /// Requests that the consumer stop. The request is pending until the consumer
    /// [takes](TaskQueue::take) it.
    pub(crate) fn quit(&self) -> Wake {
        self.inbox.with(|inbox| {
            self.pending.0.store(true);
            inbox.quit = true;
        });
        self.end_sleep()
    }

    /// Clears an announced sleep; at most one caller does so for each sleep.
    #[inline]
    pub(crate) fn end_sleep(&self) -> Wake {
        // The load keeps the cache line shared while the consumer is awake, which is the case that
        // must be cheap.
        if self.asleep.0.load() && self.asleep.0.swap(false) { Wake::Needed } else { Wake::NotNeeded }
    }

    /// For the consumer: announces that it will sleep, unless there is work.
    #[must_use = "the consumer must not sleep unless this returns true"]
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

    /// For the consumer: whether it sees work. A concurrent push may become visible a little later.
    pub(crate) fn has_work(&self) -> bool {
        self.pending.0.load()
    }

    /// Called before a task is added to the inbox.
    #[inline]
    fn mark_pending(&self, inbox: &Inbox<T>) {
        if inbox.batch.is_empty() {
            self.pending.0.store(true);
        }
    }

    /// For the consumer: it is awake, and producers need not wake it.
    pub(crate) fn awake(&self) {
        // Written only if needed: after a turn without a sleep the cache line stays with the
        // producers. Only the consumer sets the flag.
        if self.asleep.0.load() {
            self.asleep.0.store(false);
        }
    }

    /// For the consumer: swaps all queued tasks into `batch`, which must be empty and lends its
    /// capacity.
    ///
    /// Returns whether there has been a request to quit since the last take. Tasks and request are
    /// taken under one lock. On `true`, every task accepted before that request is in this batch or
    /// was in an earlier one. A later request is left for a later take, and so are the tasks
    /// accepted before it.
    #[inline]
    pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {
        self.take_with(batch, |_| ())
    }

    #[inline]
    fn take_with(&self, batch: &mut Batch<T>, take_more: impl FnOnce(&mut Inbox<T>)) -> bool {
        debug_assert!(batch.is_empty());
        let quit = self.inbox.with(|inbox| {
            std::mem::swap(&mut inbox.batch, batch);
            take_more(inbox);
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

    /// For the consumer: same as [`take`](TaskQueue::take). Also swaps the recorded times of the
    /// batch's last tasks into `times`, which must be empty.
    pub(crate) fn take_timed(&self, batch: &mut Batch<T>, times: &mut Vec<Instant>) -> bool {
        debug_assert!(times.is_empty());
        self.take_with(batch, |inbox| std::mem::swap(&mut inbox.times, times))
    }

    /// For the consumer: takes the storage of an empty inbox, to be dropped.
    pub(crate) fn take_storage(&self) -> Batch<T> {
        self.inbox.with(|inbox| {
            if inbox.batch.is_empty() { std::mem::take(&mut inbox.batch) } else { Batch::default() }
        })
    }

    /// Records the time of each push from now on.
    pub(crate) fn record_times(&self) {
        self.inbox.with(|inbox| inbox.is_timed = true);
    }

    /// The number of tasks accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.inbox.with(|inbox| inbox.accepted)
    }

    /// Whether a request to quit is pending.
    pub(crate) fn is_quitting(&self) -> bool {
        self.inbox.with(|inbox| inbox.quit)
    }

    /// Refuses every later push and those that are waiting, and returns the tasks that had been
    /// accepted and not yet taken.
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

    /// Counts a task that has been added to the batch.
    #[inline]
    fn accept(&mut self) {
        self.accepted += 1;
        if self.is_timed {
            self.times.push(Instant::now());
        }
    }

    fn is_idle(&self) -> bool {
        self.batch.is_empty() && !self.quit
    }
}
