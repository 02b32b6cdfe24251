//! The threads of a pool, and the queue that they take jobs from.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Waker;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::error::{JobError, WorkersError};
use crate::event_loop::containment::{Contained, catch, dispose, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::tasks::task::SendTask;
use crate::event_loop::trimming::slack::release_if_empty;
use crate::threads;

thread_local! {
    /// The pool that this thread belongs to. It has no destructor, so it can be read as long as the
    /// thread runs.
    static OWN_POOL: Cell<*const Pool> = const { Cell::new(ptr::null()) };
}

/// The queue of a pool, shared by its threads and its users. The lock is never held while user code
/// runs.
pub(super) struct Pool {
    /// Distinguishes the jobs of this pool from those of others.
    instance: u32,
    /// The process that has the threads.
    process: ProcessMark,
    /// How many jobs may wait or run: one for each thread, and those that wait for a thread. So a
    /// job that a free thread has yet to take does not count as waiting for one.
    capacity: usize,
    state: Mutex<State>,
    /// There is a job to take, or the pool was closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order of their numbers.
    waiting: VecDeque<Waiting>,
    /// The number of the next job.
    next: u64,
    running: usize,
    closed: bool,
    /// The futures that wait while the pool is full, each with its place.
    for_room: VecDeque<(u64, Contained<Waker>)>,
    next_place: u64,
}

struct Waiting {
    number: u64,
    task: SendTask<Start>,
}

/// The argument of a job's task: whether it runs on a thread of the pool, or is cancelled. Every
/// job is called with one of the two, and passes its closure to [`run`](Start::run).
pub(super) enum Start {
    Run(Arc<Pool>),
    Cancel,
}

impl Start {
    /// Runs or drops the closure. The thread counts as free before this returns, so the callback
    /// that gets the result can submit the next job.
    pub(super) fn run<R>(&self, work: Contained<impl FnOnce() -> R>) -> Result<R, JobError> {
        match self {
            Start::Cancel => {
                drop(work);
                Err(JobError::Cancelled)
            }
            Start::Run(pool) => {
                let returned = catch("a job", || work.into_inner()());
                pool.finish();
                returned.map_err(|payload| {
                    dispose(payload);
                    JobError::Panicked
                })
            }
        }
    }
}

impl Pool {
    pub(super) fn instance(&self) -> u32 {
        self.instance
    }

    fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    /// Queues a job, and wakes a thread if one is free. Returns the number of the job.
    ///
    /// `into_task` runs under the lock and must only convert the type. It exists so that a refused
    /// job can be returned with its original type.
    ///
    /// # Errors
    /// Returns `job` if the pool is full or closed.
    pub(super) fn push<T>(
        &self,
        job: T,
        into_task: impl FnOnce(T) -> SendTask<Start>,
    ) -> Result<u64, (WorkersError, T)> {
        if self.is_inherited() {
            return Err((WorkersError::Closed, job));
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err((WorkersError::Closed, job));
        }
        if state.waiting.len() + state.running >= self.capacity {
            return Err((WorkersError::Full, job));
        }
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting { number, task: into_task(job) });
        drop(state);
        // Without a free thread this makes no system call.
        self.changed.notify_one();
        Ok(number)
    }

    /// Stores the waker if the pool is full. Returns whether it is.
    pub(super) fn wait_for_room(&self, place: &mut Option<u64>, waker: Contained<Waker>) -> bool {
        if self.is_inherited() {
            return false;
        }
        let mut state = self.state.lock();
        if state.closed || state.waiting.len() + state.running < self.capacity {
            // The waker is dropped with no lock held.
            drop(state);
            return false;
        }
        let number = state.next_place;
        let known = state.for_room.iter_mut().find(|(known, _)| Some(*known) == *place);
        let replaced = match known {
            Some((_, stored)) => Some(mem::replace(stored, waker)),
            None => {
                state.next_place += 1;
                state.for_room.push_back((number, waker));
                *place = Some(number);
                None
            }
        };
        drop(state);
        drop(replaced);
        true
    }

    /// Removes a waker. If it has been woken, the wake-up passes to another future.
    pub(super) fn leave(&self, place: u64) {
        if self.is_inherited() {
            return;
        }
        let (removed, next) = {
            let state = &mut *self.state.lock();
            match state.for_room.iter().position(|(known, _)| *known == place) {
                Some(at) => (state.for_room.remove(at), None),
                None => (None, state.for_room.pop_front()),
            }
        };
        drop(removed);
        wake(next);
    }

    /// Cancels the job if it is waiting. Returns whether it was.
    pub(super) fn cancel(&self, number: u64) -> bool {
        if self.is_inherited() {
            return false;
        }
        let (removed, for_room) = {
            let state = &mut *self.state.lock();
            let at = state.waiting.binary_search_by_key(&number, |waiting| waiting.number);
            let removed = at.ok().and_then(|at| state.waiting.remove(at));
            let for_room = if removed.is_some() { state.for_room.pop_front() } else { None };
            (removed, for_room)
        };
        wake(for_room);
        removed.map(|waiting| waiting.task.call(&Start::Cancel)).is_some()
    }

    /// Cancels all jobs that are waiting. Returns their number.
    pub(super) fn cancel_waiting(&self) -> usize {
        if self.is_inherited() {
            return 0;
        }
        let (removed, for_room) = {
            let state = &mut *self.state.lock();
            (mem::take(&mut state.waiting), mem::take(&mut state.for_room))
        };
        wake(for_room);
        let count = removed.len();
        removed.into_iter().for_each(|waiting| waiting.task.call(&Start::Cancel));
        count
    }

    pub(super) fn waiting(&self) -> usize {
        if self.is_inherited() { 0 } else { self.state.lock().waiting.len() }
    }

    /// Refuses later jobs. The threads end when they have run those accepted before.
    pub(super) fn close(&self) {
        if !self.is_inherited() {
            let for_room = {
                let state = &mut *self.state.lock();
                state.closed = true;
                mem::take(&mut state.for_room)
            };
            self.changed.notify_all();
            wake(for_room);
        }
    }

    /// The main function of a thread.
    fn work(self: Arc<Pool>) {
        OWN_POOL.set(Arc::as_ptr(&self));
        let start = Start::Run(Arc::clone(&self));
        while let Some(task) = self.next() {
            task.call(&start);
            if self.is_inherited() {
                // The job has forked, and this is the child. Other threads of the parent may have
                // been using the pool.
                mem::forget((self, start));
                return;
            }
        }
    }

    /// Waits for a job. `None` if the thread is to end.
    fn next(&self) -> Option<SendTask<Start>> {
        let mut state = self.state.lock();
        loop {
            if let Some(waiting) = state.waiting.pop_front() {
                state.running += 1;
                return Some(waiting.task);
            }
            release_if_empty(&mut state.waiting);
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    fn finish(&self) {
        if !self.is_inherited() {
            let for_room = {
                let state = &mut *self.state.lock();
                state.running -= 1;
                state.for_room.pop_front()
            };
            wake(for_room);
        }
    }
}

/// Wakes futures that wait for room, with no lock held.
fn wake(for_room: impl IntoIterator<Item = (u64, Contained<Waker>)>) {
    for (_, waker) in for_room {
        if let Err(payload) = catch("a waker", || waker.into_inner().wake()) {
            dispose(payload);
        }
    }
}

/// The threads, which are joined when this is dropped.
pub(super) struct Threads {
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// # Errors
    /// The error of starting a thread. Those that were started before it are joined.
    pub(super) fn start(threads: usize, queue: usize, name: &str) -> io::Result<Threads> {
        static NEXT_INSTANCE: AtomicU32 = AtomicU32::new(0);
        let pool = Pool {
            instance: NEXT_INSTANCE.fetch_add(1, Relaxed),
            process: ProcessMark::current(),
            capacity: queue.saturating_add(threads),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        let mut started = Threads { pool: Arc::new(pool), threads: Vec::new() };
        for number in 0..threads {
            let pool = Arc::clone(&started.pool);
            let thread = threads::start(&format!("{name}-{number}"), move || pool.work())?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    pub(super) fn share(&self) -> Arc<Pool> {
        Arc::clone(&self.pool)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let threads = mem::take(&mut self.threads);
        if self.pool.is_inherited() {
            // The threads belong to the parent process. Here there is none to wait for, nor to
            // detach.
            return mem::forget((threads, Arc::clone(&self.pool)));
        }
        self.pool.close();
        if ptr::eq(OWN_POOL.get(), Arc::as_ptr(&self.pool)) {
            // A thread cannot join itself. All threads end when the accepted jobs have run.
            return;
        }
        for thread in threads {
            if let Err(payload) = thread.join() {
                dispose(payload);
                logger::call(|| log::error!("a worker thread panicked"));
            }
        }
    }
}
