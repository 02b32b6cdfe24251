//! Tasks on the loop's own thread: queueing them, and phase 5, which runs them and those of other threads.

use super::EventLoop;
use crate::task::Task;
use crate::task_queue::Batch;

impl EventLoop {
    /// Runs `task` at once. The twin of [`LoopHandle::run_in_loop`](super::LoopHandle::run_in_loop), for code that is written for either face.
    pub fn run_in_loop(&self, task: impl FnOnce(&EventLoop)) {
        task(self);
    }

    /// Queues `task` for phase 5 of this turn, or of the next one if that phase has begun.
    ///
    /// Tasks queued on this thread run in the order queued. A task that queues itself again cannot keep the loop from its
    /// other work, since each turn runs one batch. The task need not be `Send`, and no lock is taken.
    ///
    /// From a destructor that runs while the loop itself is being dropped, the task is dropped and counted.
    pub fn queue_in_loop(&self, task: impl FnOnce(&EventLoop) + 'static) {
        self.inner.shared.tally.count_queued();
        if self.inner.ending.get() {
            self.inner.shared.tally.count_dropped(1);
        } else {
            self.queue_local(|batch| batch.tasks.push(Task::new(task)));
        }
    }

    /// Has `errand` run in phase 5 as a task is, without counting it as one. A loop that is being dropped drops it.
    pub(crate) fn queue_errand(&self, errand: impl FnOnce(&EventLoop) + 'static) {
        self.queue_local(|batch| batch.errands.push(Task::new(errand)));
    }

    pub(super) fn queue_local(&self, push: impl FnOnce(&mut Batch<Task<EventLoop>>)) {
        push(&mut self.inner.local_tasks.borrow_mut());
        if !self.inner.running.get() {
            // Between the turns of an embedded loop somebody else may be waiting on the loop's descriptor.
            self.inner.shared.wake(self.inner.shared.tasks.end_sleep());
        }
    }

    /// Phase 5. If a request to quit is there, whatever was accepted before it is in this batch.
    pub(super) fn run_tasks(&self) {
        let inner = &*self.inner;
        let mut batch = inner.task_batch.take();
        let mut local_batch = inner.local_batch.take();
        if inner.shared.tasks.take(&mut batch) {
            inner.quitting.set(true);
        }
        std::mem::swap(&mut *inner.local_tasks.borrow_mut(), &mut local_batch);
        let tally = &inner.shared.tally;
        tally.count_batch(batch.tasks.len() + local_batch.tasks.len());
        for errand in batch.errands.drain(..) {
            self.catch("an errand", || errand.call(self));
        }
        for errand in local_batch.errands.drain(..) {
            self.catch("an errand", || errand.call(self));
        }
        if inner.quitting.get() && inner.drop_tasks_on_quit {
            tally.count_dropped(batch.tasks.len() + local_batch.tasks.len());
            batch.tasks.drain(..).for_each(|task| self.discard(task));
            local_batch.tasks.drain(..).for_each(|task| self.discard(task));
        } else {
            for task in batch.tasks.drain(..) {
                tally.count_run();
                self.catch("a task", || task.call(self));
            }
            for task in local_batch.tasks.drain(..) {
                tally.count_run();
                self.catch("a task", || task.call(self));
            }
        }
        inner.task_batch.set(batch);
        inner.local_batch.set(local_batch);
    }
}
