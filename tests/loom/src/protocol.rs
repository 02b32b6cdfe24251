//! One face for the correct protocol and its broken copies, and the primitives they run on in a
//! model.

use std::cell::Cell;

/// Models need to tell tasks apart and nothing else.
pub type Task = u8;

/// What a producer is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// To write to the eventfd.
    Needed,
    /// Nothing.
    NotNeeded,
}

/// Why a task is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is closed.
    Closed,
    /// There is no room.
    Full,
}

/// What a take or a close has handed out.
#[derive(Debug, Default)]
pub struct Batch {
    /// What had been pushed, waiting or not.
    pub tasks: Vec<Task>,
    /// What had been pushed as an internal task.
    pub internal: Vec<Task>,
}

/// The capacity of a queue that is never full.
pub const UNBOUNDED: usize = usize::MAX;

/// What the models use of a `TaskQueue`; the documentation of each operation is there.
///
/// Every copy of the protocol is a module with traits and types of its own. This is what they have
/// in common. `waiting` is `len` there. A producer that waits for room has no deadline: loom knows
/// no time, and to the protocol a producer that gives up is one that never came.
#[expect(missing_docs, reason = "documented where they are implemented, in task_queue.rs")]
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

/// A mutex with a condition, on loom's.
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

    /// Calls `f` with the content, locked.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.content.lock().unwrap())
    }

    /// Calls `f` with the content, locked, until it answers, and waits for a notice in between.
    pub fn wait_with<R>(&self, mut f: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let mut content = self.content.lock().unwrap();
        loop {
            let answer = f(&mut content);
            if answer.is_some() {
                return answer;
            }
            WAITS.set(WAITS.get() + 1);
            content = self.changed.wait(content).unwrap();
        }
    }

    /// Has every thread that waits look again.
    pub fn notify_all(&self) {
        self.changed.notify_all();
    }
}

thread_local! {
    /// std's, so that loom does not see it. All threads of a model are the one of the system that
    /// explores it.
    static WAITS: Cell<usize> = const { Cell::new(0) };
}

/// How often a producer has waited for room, in this interleaving.
pub fn waits() -> usize {
    WAITS.get()
}

/// To be called when an interleaving begins.
pub(crate) fn forget_waits() {
    WAITS.set(0);
}

/// Builds the copy of the protocol in the module `$source` on loom's primitives, as a [`Protocol`]
/// called `Queue`.
///
/// The flag is relaxed throughout, as it is in the library: with a stronger ordering the models
/// would be about another program. Its `store` is a swap whose answer is ignored, because loom 0.7
/// lets a store slip in between the two halves of another thread's swap (its issues 254 and 389),
/// and then finds deadlocks that cannot be. That hides nothing: to whoever reads the flag, a
/// relaxed store and a relaxed swap that looks at nothing are the same.
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
                assert!(deadline.is_none(), "loom knows no time");
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
                // See above: a swap, for loom's sake.
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
                self.0.push(task, |task| task).map(in_common).map_err(refused)
            }

            fn push_waiting(&self, task: Task) -> Result<Wake, (Refusal, Task)> {
                self.0.push_waiting(None, task, |task| task).map(in_common).map_err(refused)
            }

            fn push_internal(&self, task: Task) -> Result<Wake, Task> {
                self.0.push_internal(task).map(in_common)
            }

            fn quit(&self) -> Wake {
                in_common(self.0.quit())
            }

            fn end_sleep(&self) -> Wake {
                in_common(self.0.end_sleep())
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
                let left = self.0.close();
                Batch { tasks: left.tasks, internal: left.internal }
            }
        }

        fn in_common(wake: $source::Wake) -> Wake {
            match wake {
                $source::Wake::Needed => Wake::Needed,
                $source::Wake::NotNeeded => Wake::NotNeeded,
            }
        }

        fn refused((refusal, task): ($source::Refusal, Task)) -> (Refusal, Task) {
            let refusal = match refusal {
                $source::Refusal::Closed => Refusal::Closed,
                $source::Refusal::Full => Refusal::Full,
            };
            (refusal, task)
        }
    };
}
