//! One face for the correct protocol and its broken copies, and the primitives they run on in a model.

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

/// What the models use of a `TaskQueue`; the documentation of each operation is there.
///
/// Every copy of the protocol is a module with traits and types of its own. This is what they have in common.
#[expect(missing_docs, reason = "documented where they are implemented, in task_queue.rs")]
pub trait Protocol: Send + Sync + 'static {
    fn new() -> Self;
    fn push(&self, task: Task) -> Result<Wake, Task>;
    fn quit(&self) -> Wake;
    fn end_sleep(&self) -> Wake;
    fn may_sleep(&self) -> bool;
    fn awake(&self);
    fn take(&self, batch: &mut Vec<Task>) -> bool;
    fn close(&self) -> Vec<Task>;
}

/// Builds the copy of the protocol in the module `$source` on loom's primitives, as a [`Protocol`] called `Queue`.
///
/// The flag is relaxed throughout, as it is in the library: with a stronger ordering the models would be about another
/// program. Its `store` is a swap whose answer is ignored, because loom 0.7 lets a store slip in between the two
/// halves of another thread's swap (its issues 254 and 389), and then finds deadlocks that cannot be. That hides
/// nothing: to whoever reads the flag, a relaxed store and a relaxed swap that looks at nothing are the same.
macro_rules! on_loom {
    ($source:ident) => {
        use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};

        use $crate::protocol::{Protocol, Task, Wake};

        #[derive(Debug)]
        struct Loom;

        impl $source::Primitives for Loom {
            type Mutex<T> = loom::sync::Mutex<T>;
            type Flag = AtomicBool;
        }

        impl<T> $source::Mutex<T> for loom::sync::Mutex<T> {
            fn new(value: T) -> Self {
                loom::sync::Mutex::new(value)
            }

            fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
                f(&mut self.lock().unwrap())
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
            fn new() -> Self {
                Queue($source::TaskQueue::new())
            }

            fn push(&self, task: Task) -> Result<Wake, Task> {
                self.0.push(task, |task| task).map(in_common)
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

            fn awake(&self) {
                self.0.awake();
            }

            fn take(&self, batch: &mut Vec<Task>) -> bool {
                self.0.take(batch)
            }

            fn close(&self) -> Vec<Task> {
                self.0.close()
            }
        }

        fn in_common(wake: $source::Wake) -> Wake {
            match wake {
                $source::Wake::Needed => Wake::Needed,
                $source::Wake::NotNeeded => Wake::NotNeeded,
            }
        }
    };
}
