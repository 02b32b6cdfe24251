//! Spawned futures: the part of phase 5 that polls them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem;
use std::task::Poll;

use super::future_cell::{JoinEnd, OwnedFuture, local, local_deferred};
use super::future_table::{FutureKey, FutureTable};
use super::join_handle::{JoinError, JoinHandle};
use super::ready_queue;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::event_loop::observation::pulse::Activity;

/// The maximum number of polls per turn. The remaining futures wait for the next turn, so that
/// futures that wake each other cannot starve the descriptors, timers and tasks. A turn that finds
/// nothing else costs a system call, which is shared by so many polls.
const POLLS_PER_TURN: usize = 128;

/// The spawned futures of a loop. One that is being polled is not in the table.
pub(in crate::event_loop) type Futures = RefCell<FutureTable<OwnedFuture>>;

impl EventLoop {
    /// Spawns a future on this loop. The loop polls it in phase 5 of its turns, first in this turn
    /// or in the next one, and whenever it is woken.
    ///
    /// Neither the future nor its result need be `Send`. The loop owns the future, and drops it on
    /// its own thread: when it has ended or was [aborted](JoinHandle::abort), or with the loop.
    ///
    /// A spawn allocates once, for the future and all of its state. A wake-up on the loop's thread
    /// takes no lock and makes no system call; one from another thread queues a task, and wakes the
    /// loop if it sleeps. Several wake-ups before a poll count as one. Futures are polled in the
    /// order of their wake-ups, at most 128 in a turn.
    ///
    /// A panic ends only its future. It is logged and counted ([details](#panics-in-callbacks)),
    /// and its payload is in the [`JoinError`]. If the handle has been dropped, the panic is
    /// treated like that of a task.
    ///
    /// While the loop itself is being dropped, and in a forked child, the future is dropped, and
    /// its handle returns [`LoopEnded`](JoinError::LoopEnded).
    ///
    /// ```
    /// use reveille::{EventLoop, time};
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// event_loop.spawn_local(async {
    ///     time::sleep(Duration::from_millis(1)).await;
    ///     println!("a millisecond later");
    /// });
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    pub fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        self.own_joined(local(self, future))
    }

    /// Spawns the future that `make` returns in the first poll.
    pub(in crate::event_loop) fn spawn_deferred<C, F>(&self, make: C) -> JoinHandle<F::Output>
    where
        C: FnOnce(&EventLoop) -> F + 'static,
        F: Future + 'static,
    {
        self.own_joined(local_deferred(self, make))
    }

    #[inline]
    fn own_joined<T>(&self, (owned, joined): (OwnedFuture, JoinEnd<T>)) -> JoinHandle<T> {
        if self.inner.dropping.get() || self.is_inherited() {
            self.end_futures(owned);
        } else {
            self.own(owned);
        }
        JoinHandle::new(joined)
    }

    /// The number of spawned futures that have not ended.
    pub fn spawned_futures(&self) -> usize {
        self.inner.futures.borrow().len()
    }

    /// Adds a future to the table, and queues its first poll.
    #[inline]
    fn own(&self, owned: OwnedFuture) -> FutureKey {
        let futures = &mut *self.inner.futures.borrow_mut();
        let key = futures.reserve();
        let header = owned.header();
        header.set_key(key);
        header.queue();
        futures.put_back(key, owned);
        key
    }

    /// Takes over a future that another thread has sent.
    pub(in crate::event_loop) fn adopt_future(&self, owned: OwnedFuture) {
        let key = self.own(owned);
        self.deliver_wake(key);
    }

    /// Another thread has woken the future.
    pub(super) fn deliver_wake(&self, key: FutureKey) {
        let futures = self.inner.futures.borrow();
        if let Some(header) = futures.get(key).map(OwnedFuture::header) {
            header.state.deliver();
            header.queue();
        }
    }

    /// The last part of phase 5.
    // A turn without futures should not pay for a call.
    #[inline(always)]
    pub(in crate::event_loop) fn poll_futures(&self) {
        if !ready_queue::is_empty() {
            self.poll_ready();
        }
    }

    #[inline(never)]
    fn poll_ready(&self) {
        ready_queue::begin_phase();
        self.begin_polling();
        for _ in 0..POLLS_PER_TURN {
            let Some(key) = ready_queue::pop() else { break };
            self.poll_future(key);
            if self.is_inherited() {
                return;
            }
            self.finish_poll();
        }
        self.end_polling();
        ready_queue::end_phase();
    }

    #[inline]
    fn poll_future(&self, key: FutureKey) {
        let futures = &self.inner.futures;
        // Taken out, so that nothing is borrowed while the future is polled.
        let taken = futures.borrow_mut().take(key);
        let Some(owned) = taken else { return };
        let pending = if self.is_watched() { self.poll_watched(owned) } else { owned.poll() };
        let mut futures = futures.borrow_mut();
        match pending {
            Some(owned) => futures.put_back(key, owned),
            None => futures.free(key),
        }
    }

    #[cold]
    fn poll_watched(&self, owned: OwnedFuture) -> Option<OwnedFuture> {
        let name = owned.name();
        self.publishing(|| Activity::named("a spawned future", name), || owned.poll())
    }

    /// Drops all futures, when the loop ends.
    pub(in crate::event_loop) fn drop_futures(&self) {
        let futures = self.inner.futures.borrow_mut().drain();
        self.end_futures(futures);
    }

    /// Drops futures of this loop, inherited or not.
    #[cold]
    fn end_futures<T>(&self, futures: T) {
        ready_queue::at_home(self.inner.shared.address(), || drop(futures));
    }

    /// Drops a result that no handle waits for.
    pub(super) fn discard_result<T>(result: Option<Result<T, JoinError>>) {
        match (result, EventLoop::current()) {
            (Some(Err(JoinError::Panicked(payload))), Some(event_loop)) => event_loop.keep_panic(payload),
            (result, _) => drop(Contained::new(result)),
        }
    }
}

/// Spawns a future on this thread's loop. Same as [`EventLoop::spawn_local`], for async code, which
/// has no reference to its loop.
///
/// # Panics
/// If this thread has no loop.
#[track_caller]
pub fn spawn_local<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    current().spawn_local(future)
}

/// Calls `f` with this thread's loop, for async code, which cannot hold a reference to it across an
/// await.
///
/// ```
/// use reveille::{EventLoop, task};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.spawn_local(async { task::with_loop(|event_loop| event_loop.quit()) });
/// event_loop.run()
/// # }
/// ```
///
/// # Panics
/// If this thread has no loop.
#[track_caller]
pub fn with_loop<R>(f: impl FnOnce(&EventLoop) -> R) -> R {
    f(&current())
}

#[track_caller]
pub(crate) fn current() -> EventLoop {
    match EventLoop::current() {
        Some(event_loop) => event_loop,
        None => panic!("this thread has no event loop"),
    }
}

/// Lets the other futures that have been woken, and after some polls the rest of the loop's work,
/// run first.
///
/// It wakes the caller and returns in its next poll. On a loop of this crate that allocates nothing
/// and makes no system call. Any executor can await it.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if mem::replace(&mut has_yielded, true) {
            Poll::Ready(())
        } else {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}
