//! Tasks on the loop's own thread: queueing them, and phase 5, which runs them and those of other
//! threads.

pub(in crate::event_loop) mod after_poll;
pub(crate) mod completion;
pub(crate) mod executor;
pub(in crate::event_loop) mod future_cell;
pub(in crate::event_loop) mod future_header;
mod future_state;
pub(in crate::event_loop) mod future_table;
pub(crate) mod join_handle;
pub(in crate::event_loop) mod ready_queue;
pub(crate) mod sync;
pub(crate) mod task;
pub(crate) mod task_queue;
pub(crate) mod wait_list;

use std::cell::RefCell;
use std::time::Instant;

use self::task::{SendTask, Task};
use self::task_queue::Batch;
use super::EventLoop;
use crate::event_loop::trimming::slack::Slack;

/// The recent memory needs of one kind of batches.
#[derive(Debug, Default)]
pub(super) struct BatchSlack {
    tasks: Slack,
    internal: Slack,
}

/// The recent memory needs of all batches.
#[derive(Debug, Default)]
pub(super) struct TaskSlack {
    posted: BatchSlack,
    local: BatchSlack,
}

impl BatchSlack {
    /// Records the lengths of a batch whose storage is reused. Returns whether the batch has needed
    /// a large capacity.
    fn record<T>(&mut self, (tasks, internal): (usize, usize), batch: &mut Batch<T>) -> bool {
        self.tasks.record_vec(tasks, &mut batch.tasks)
            | self.internal.record_vec(internal, &mut batch.internal)
    }
}

impl EventLoop {
    /// Runs `task` at once, as [`LoopHandle::run_in_loop`](super::LoopHandle::run_in_loop) does on
    /// the loop's thread.
    pub fn run_in_loop(&self, task: impl FnOnce(&EventLoop)) {
        task(self);
    }

    /// Queues `task` for phase 5 of this turn, or of the next one if that phase has begun.
    ///
    /// Tasks queued on this thread run in FIFO order. Each turn runs one batch, so a task that
    /// queues itself again cannot starve the loop's other work. The task need not be `Send`, and no
    /// lock is taken.
    ///
    /// While the loop itself is being dropped, a task queued by a destructor is dropped and
    /// counted.
    pub fn queue_in_loop(&self, task: impl FnOnce(&EventLoop) + 'static) {
        let task = Task::new(task);
        self.inner.shared.counters.count_queued();
        if self.inner.queues_specially.get() {
            self.queue_specially(task);
        } else {
            self.queue_local(|batch| batch.tasks.push(task));
        }
    }

    /// Queues a task of a loop that is being dropped, or that records the times of its tasks.
    #[cold]
    fn queue_specially(&self, task: Task<EventLoop>) {
        if self.inner.dropping.get() {
            self.inner.shared.counters.count_dropped(1);
        } else {
            self.record_queued();
            self.queue_local(|batch| batch.tasks.push(task));
        }
    }

    /// Queues an internal task for phase 5, which is not counted. A loop that is being dropped
    /// drops it.
    pub(crate) fn queue_internal(&self, task: impl FnOnce(&EventLoop) + 'static) {
        self.queue_local(|batch| batch.internal.push(Task::new(task)));
    }

    pub(super) fn queue_local(&self, push: impl FnOnce(&mut Batch<Task<EventLoop>>)) {
        push(&mut self.inner.local_tasks.borrow_mut());
        self.signal_work();
    }

    /// Phase 5. If there is a request to quit, all tasks accepted before it are in this batch.
    #[inline]
    pub(super) fn run_tasks<const OBSERVED: bool, const NAMED: bool>(&self) {
        let inner = &*self.inner;
        inner.lent_capacity.set(inner.task_batch.borrow().capacities());
        let quit = if OBSERVED {
            self.take_observed_batch()
        } else {
            inner.shared.tasks.take(&mut inner.task_batch.borrow_mut())
        };
        if quit {
            inner.quitting.set(true);
        }
        let posted = inner.task_batch.borrow().len();
        inner.spin.record_posted(posted);
        let has_local = !inner.local_tasks.borrow().is_empty();
        if posted == 0 && !has_local {
            return;
        }
        // Moved out, so that nothing is borrowed while the tasks run.
        let mut posted = inner.task_batch.take();
        let mut local = has_local.then(|| inner.local_tasks.replace(inner.local_batch.take()));
        let tasks = posted.tasks.len() + local.as_ref().map_or(0, |local| local.tasks.len());
        inner.shared.counters.count_batch(tasks);
        let dropped = inner.quitting.get() && inner.drop_tasks_on_quit;
        if dropped {
            inner.shared.counters.count_dropped(tasks);
        }
        let posted_lengths = posted.lengths();
        let local_lengths = local.as_ref().map(Batch::lengths);
        if !posted.internal.is_empty() {
            self.run_internal(&mut posted.internal, SendTask::call);
        }
        if let Some(local) = local.as_mut().filter(|local| !local.internal.is_empty()) {
            self.run_internal(&mut local.internal, Task::call);
        }
        self.run_each::<OBSERVED, NAMED, _>(
            dropped,
            &mut posted.tasks,
            &inner.task_times.posted,
            SendTask::name,
            SendTask::call,
        );
        let mut needed = inner.slack.borrow_mut().posted.record(posted_lengths, &mut posted);
        inner.task_batch.replace(posted);
        if let (Some(mut local), Some(lengths)) = (local, local_lengths) {
            self.run_each::<OBSERVED, NAMED, _>(
                dropped,
                &mut local.tasks,
                &inner.task_times.local,
                Task::name,
                Task::call,
            );
            needed |= inner.slack.borrow_mut().local.record(lengths, &mut local);
            inner.local_batch.replace(local);
        }
        if needed {
            inner.sleeps_with_slack.set(0);
        }
    }

    /// Internal tasks are rare, and an empty drain costs as much as a task, so this is called only
    /// if there are any.
    fn run_internal<T>(&self, tasks: &mut Vec<T>, call: fn(T, &EventLoop)) {
        for task in tasks.drain(..) {
            self.catch("an internal task", || call(task, self));
            if self.is_inherited() {
                return;
            }
        }
    }

    fn run_each<const OBSERVED: bool, const NAMED: bool, T>(
        &self,
        dropped: bool,
        tasks: &mut Vec<T>,
        times: &RefCell<Vec<Instant>>,
        name: fn(&T) -> &'static str,
        call: fn(T, &EventLoop),
    ) {
        if dropped {
            tasks.clear();
        } else if OBSERVED {
            self.observe_each(tasks, times, name, call);
        } else if !tasks.is_empty() {
            let counters = &self.inner.shared.counters;
            for task in tasks.drain(..) {
                counters.count_run();
                match NAMED {
                    true => self.catch_named("a task", name(&task), || call(task, self)),
                    false => self.catch_unwatched("a task", || call(task, self)),
                };
                if self.is_inherited() {
                    return;
                }
            }
        }
    }
}
