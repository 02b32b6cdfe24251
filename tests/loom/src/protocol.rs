//! A common interface of the correct protocol and its broken copies, and the primitives that they
//! run on in a model.

use std::cell::Cell;

/// A number: the models only need to distinguish tasks.
pub type Task = u8;

/// What a producer must do after a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Write to the eventfd.
    Needed,
    /// Nothing.
    NotNeeded,
}

/// Why a task was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is closed.
    Closed,
    /// The queue is at its capacity.
    Full,
}

/// The result of a take or a close.
#[derive(Debug, Default)]
pub struct Batch {
    /// The tasks added by `push` and `push_waiting`.
    pub tasks: Vec<Task>,
    /// The tasks added by `push_internal`.
    pub internal: Vec<Task>,
}

/// The capacity of a queue that is never full.
pub const UNBOUNDED: usize = usize::MAX;

/// The operations of a `TaskQueue` that the models use.
///
/// Every copy of the protocol is a module with its own traits and types. This trait is their common
/// interface. A producer that waits for capacity has no deadline: loom has no clock, and a producer
/// whose wait has timed out has not changed the queue.
#[expect(missing_docs, reason = "documented in task_queue.rs")]
pub trait Protocol: Send + Sync + 'static {
    fn new(capacity: usize) -> Self;
    fn push(&self, task: Task) -> Result<Wake, (Refusal, Task)>;
    fn push_waiting(&self, task: Task) -> Result<Wake, (Refusal, Task)>;
    fn push_internal(&self, task: Task) -> Result<Wake, Task>;
    fn quit(&self) -> Wake;
    fn end_sleep(&self) -> Wake;
    fn may_sleep(&self) -> bool;
    fn has_work(&self) -> bool;
    fn awake(&self);
    fn take(&self, batch: &mut Batch) -> bool;
    fn close(&self) -> Batch;
}

/// A mutex with a condition variable, both of loom.
#[derive(Debug)]
pub struct Lock<T> {
    content: loom::sync::Mutex<T>,
    changed: loom::sync::Condvar,
}

impl<T> Lock<T> {
    /// A mutex around `value`.
    pub fn new(value: T) -> Self {
        Lock { content: loom::sync::Mutex::new(value), changed: loom::sync::Condvar::new() }
    }

    /// Calls `f` with the locked content.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.content.lock().unwrap())
    }

    /// Calls `f` with the locked content until it returns a value, and waits for
    /// [`notify_all`](Lock::notify_all) in between.
    pub fn wait_with<R>(&self, mut f: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let mut content = self.content.lock().unwrap();
        loop {
            let result = f(&mut content);
            if result.is_some() {
                return result;
            }
            WAITS.set(WAITS.get() + 1);
            content = self.changed.wait(content).unwrap();
        }
    }

    /// Wakes every thread in [`wait_with`](Lock::wait_with), which then calls its `f` again.
    pub fn notify_all(&self) {
        self.changed.notify_all();
    }
}

thread_local! {
    /// A cell of std, which loom does not track. All threads of a model run on one thread of the
    /// operating system, so they share this count.
    static WAITS: Cell<usize> = const { Cell::new(0) };
}

/// How often a producer has waited for capacity in this interleaving.
pub fn waits() -> usize {
    WAITS.get()
}

/// Sets the count of [`waits`] to 0. Must be called at the start of each interleaving.
pub(crate) fn reset_waits() {
    WAITS.set(0);
}

/// Builds the copy of the protocol in the module `$source` on loom's primitives. The result is a
/// type `Queue`, which implements [`Protocol`].
///
/// All operations on the flag are relaxed, as in the library: with a stronger ordering the models
/// would check a different program. `store` is a swap whose result is ignored. In loom 0.7 a store
/// can occur between the load and the store of another thread's swap (its issues 254 and 389),
/// which causes deadlocks that cannot occur in reality. The swap hides no bug: for a thread that
/// reads the flag, a relaxed swap with an ignored result is the same as a relaxed store.
macro_rules! on_loom {
    ($source:ident) => {
        use std::mem;
        use std::time::Instant;

        use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};

        use $crate::protocol::{Batch, Lock, Protocol, Refusal, Task, Wake};

        #[derive(Debug)]
        struct Loom;

        impl $source::Primitives for Loom {
            type Mutex<T> = Lock<T>;
            type Flag = AtomicBool;
        }

        impl<T> $source::Mutex<T> for Lock<T> {
            fn new(value: T) -> Self {
                Lock::new(value)
            }

            fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
                Lock::with(self, f)
            }

            fn wait_with<R>(
                &self,
                deadline: Option<Instant>,
                f: impl FnMut(&mut T) -> Option<R>,
            ) -> Option<R> {
                assert!(deadline.is_none(), "loom has no clock");
                Lock::wait_with(self, f)
            }

            fn notify_all(&self) {
                Lock::notify_all(self);
            }
        }

        impl $source::Flag for AtomicBool {
            fn new(value: bool) -> Self {
                AtomicBool::new(value)
            }

            fn load(&self) -> bool {
                AtomicBool::load(self, Relaxed)
            }

            fn store(&self, value: bool) {
                // A swap, for the reason given at `on_loom!`.
                AtomicBool::swap(self, value, Relaxed);
            }

            fn swap(&self, value: bool) -> bool {
                AtomicBool::swap(self, value, Relaxed)
            }
        }

        /// This copy of the protocol, on loom's primitives.
        #[derive(Debug)]
        pub struct Queue($source::TaskQueue<Task, Loom>);

        impl Protocol for Queue {
            fn new(capacity: usize) -> Self {
                Queue($source::TaskQueue::new(capacity))
            }

            fn push(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
                self.0.push(task, |task| task).map(common_wake).map_err(common_refusal)
            }

            fn push_waiting(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
                self.0.push_waiting(None, task, |task| task).map(common_wake).map_err(common_refusal)
            }

            fn push_internal(&self, task: Task) -> Result<Wake, Task> {
                self.0.push_internal(task).map(common_wake)
            }

            fn quit(&self) -> Wake {
                common_wake(self.0.quit())
            }

            fn end_sleep(&self) -> Wake {
                common_wake(self.0.end_sleep())
            }

            fn may_sleep(&self) -> bool {
                self.0.may_sleep()
            }

            fn has_work(&self) -> bool {
                self.0.has_work()
            }

            fn awake(&self) {
                self.0.awake();
            }

            fn take(&self, batch: &mut Batch) -> bool {
                let Batch { tasks, internal } = mem::take(batch);
                let mut taken = $source::Batch { tasks, internal };
                let quit = self.0.take(&mut taken);
                *batch = Batch { tasks: taken.tasks, internal: taken.internal };
                quit
            }

            fn close(&self) -> Batch {
                let remaining = self.0.close();
                Batch { tasks: remaining.tasks, internal: remaining.internal }
            }
        }

        fn common_wake(wake: $source::Wake) -> Wake {
            match wake {
                $source::Wake::Needed => Wake::Needed,
                $source::Wake::NotNeeded => Wake::NotNeeded,
            }
        }

        fn common_refusal((refusal, task): ($source::Refusal, Task)) -> (Refusal, Task) {
            let refusal = match refusal {
                $source::Refusal::Closed => Refusal::Closed,
                $source::Refusal::Full => Refusal::Full,
            };
            (refusal, task)
        }
    };
}
