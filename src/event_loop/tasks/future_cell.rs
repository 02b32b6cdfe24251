//! The one allocation of a spawned future: the future itself, then its result, the joiner's waker,
//! and the state that wakers and the join handle share with the loop.
//!
//! The allocation is counted like any [`Arc`]. Its content is not: the loop owns the future and
//! drops it in place, on its thread, however many wakers are left. What a waker keeps alive is
//! memory. So a future that is not `Send` may have wakers on any thread.
//!
//! This file is one of the few of the crate that need `unsafe`. The invariant is documented at
//! [`FutureCell`], and each block refers to it.

#![allow(unsafe_code, reason = "the future is owned by one thread, and its allocation by several")]

use std::any::type_name;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use super::future_header::Header;
use super::future_state::Completion;
use super::join_handle::JoinError;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::{Contained, catch, catch_drop};
use crate::event_loop::shared::Shared;

/// What has to be stored: the future until it has ended, then its result until it is taken.
enum Stage<F: Future> {
    Future(F),
    Result(Result<F::Output, JoinError>),
    Taken,
}

/// A spawned future and all that belongs to it. The name of the future is that of the type `N`.
///
/// # Invariant
/// - `stage` and `joiner` are each accessed by one party at a time: by the loop's thread through
///   the only [`OwnedFuture`], or through the only [`JoinEnd`]. The header's state assigns them as
///   its module describes.
/// - A future is used and dropped on the loop's thread only. If it is not `Send`, it was created
///   there.
/// - A future is not moved after its first poll.
/// - The result is taken on the loop's thread or through the `JoinEnd`, which is `Send` only if the
///   result is.
/// - The drop of the cell, on any thread, drops neither a future nor a result.
struct FutureCell<F: Future, N> {
    header: Header,
    joiner: UnsafeCell<Option<Contained<Waker>>>,
    stage: UnsafeCell<ManuallyDrop<Stage<F>>>,
    name: PhantomData<fn() -> N>,
}

// SAFETY: by the invariant, other threads than the loop's use only the header, which is `Sync`, a
// waker, and a result that is `Send`, each while no other thread uses it.
unsafe impl<F: Future, N> Send for FutureCell<F, N> {}
// SAFETY: same.
unsafe impl<F: Future, N> Sync for FutureCell<F, N> {}

impl<F: Future, N> FutureCell<F, N> {
    fn new(header: Header, future: F) -> Arc<FutureCell<F, N>> {
        Arc::new(FutureCell {
            header,
            joiner: UnsafeCell::new(None),
            stage: UnsafeCell::new(ManuallyDrop::new(Stage::Future(future))),
            name: PhantomData,
        })
    }

    /// # Safety
    /// The caller must own the stage, by the invariant.
    unsafe fn take_result(&self) -> Option<Result<F::Output, JoinError>> {
        // SAFETY: the caller owns the stage.
        let stage = unsafe { &mut *self.stage.get() };
        match ManuallyDrop::into_inner(mem::replace(stage, ManuallyDrop::new(Stage::Taken))) {
            Stage::Result(result) => Some(result),
            Stage::Future(_) | Stage::Taken => None,
        }
    }

    /// Drops the future in place, and stores its result.
    ///
    /// # Safety
    /// The caller is the loop's thread and holds the `OwnedFuture`, and the future has not ended.
    unsafe fn finish(&self, result: Result<F::Output, JoinError>) {
        let stage = self.stage.get();
        // SAFETY: the loop owns the stage until the completion below. The stage holds the future,
        // which is not used again, also if its destructor panics, since it is overwritten.
        unsafe {
            catch_drop(|| ptr::drop_in_place(stage.cast::<Stage<F>>()));
            stage.write(ManuallyDrop::new(Stage::Result(result)));
        }
        let Completion { is_unclaimed, has_joiner } = self.header.complete();
        if has_joiner {
            // SAFETY: the waker was published and not withdrawn, so the completion has taken it.
            let joiner = unsafe { (*self.joiner.get()).take() };
            self.header.wake_joiner(joiner);
        }
        if is_unclaimed {
            // SAFETY: the join handle has been released before the completion, so the result stays
            // with the loop.
            let result = unsafe { self.take_result() };
            EventLoop::discard_result(result);
        }
    }
}

/// The operations of the loop on a future of an erased type.
trait Owned: Send + Sync {
    fn header(&self) -> &Header;

    fn name(&self) -> &'static str;

    /// Polls the future, or drops it if it was aborted. Returns the cell while the future has not
    /// ended. Does all that a poll needs, so that it costs one dynamic call.
    ///
    /// # Panics
    /// On a thread that is not the loop's.
    ///
    /// # Safety
    /// The caller holds the `OwnedFuture`, and the future has not ended.
    unsafe fn poll(self: Arc<Self>) -> Option<Arc<dyn Owned>>;

    /// Ends the future without a poll.
    ///
    /// # Safety
    /// Same as [`FutureCell::finish`].
    unsafe fn end(&self, reason: JoinError);
}

impl<F: Future + 'static, N: 'static> Owned for FutureCell<F, N> {
    fn header(&self) -> &Header {
        &self.header
    }

    fn name(&self) -> &'static str {
        type_name::<N>()
    }

    unsafe fn poll(self: Arc<Self>) -> Option<Arc<dyn Owned>> {
        self.header.assert_home();
        // Before the poll: a future that wakes itself is queued again.
        self.header.leave_queue();
        if self.header.state.is_aborted() {
            // SAFETY: the caller guarantees it.
            unsafe { self.finish(Err(JoinError::Aborted)) };
            return None;
        }
        // SAFETY: the pointer is that of an `Arc`, which lives longer than this waker. The waker is
        // never dropped, so it need not be counted. Clones are.
        let waker =
            ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker::<F, N>(Arc::as_ptr(&self).cast())) });
        let polled = catch("a spawned future", || {
            // SAFETY: the caller guarantees that the loop owns the stage.
            let Stage::Future(future) = (unsafe { &mut **self.stage.get() }) else {
                return Poll::Pending;
            };
            // SAFETY: the future is in an allocation that it does not leave before its drop.
            let future = unsafe { Pin::new_unchecked(future) };
            future.poll(&mut Context::from_waker(&waker)).map(Ok)
        });
        let result = match polled {
            Ok(Poll::Pending) => return Some(self),
            Ok(Poll::Ready(result)) => result,
            Err(payload) => {
                EventLoop::count_panic_here();
                Err(JoinError::Panicked(payload))
            }
        };
        // SAFETY: the caller guarantees it.
        unsafe { self.finish(result) };
        None
    }

    unsafe fn end(&self, reason: JoinError) {
        // SAFETY: the caller guarantees it.
        unsafe { self.finish(Err(reason)) }
    }
}

/// The loop's end of a future that has not ended. There is one, and its drop ends the future.
pub(in crate::event_loop) struct OwnedFuture(ManuallyDrop<Arc<dyn Owned>>);

impl OwnedFuture {
    fn new(cell: Arc<dyn Owned>) -> OwnedFuture {
        OwnedFuture(ManuallyDrop::new(cell))
    }

    pub(super) fn header(&self) -> &Header {
        self.0.header()
    }

    pub(super) fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Polls the future, or drops it if it was aborted. Returns it unless it has ended.
    #[inline]
    pub(super) fn poll(self) -> Option<OwnedFuture> {
        let mut owned = ManuallyDrop::new(self);
        // SAFETY: `owned` is not used again, and not dropped.
        let cell = unsafe { ManuallyDrop::take(&mut owned.0) };
        // SAFETY: this is the only owner. A future that has ended has none. The call checks that
        // this is the loop's thread, before it uses the future.
        unsafe { cell.poll() }.map(OwnedFuture::new)
    }

    /// On another thread, the future is leaked. Only the loop's queue and table hold the value, and
    /// both are emptied on its thread.
    #[cold]
    fn end(cell: &dyn Owned) {
        if cell.header().is_home() {
            let reason =
                if cell.header().state.is_aborted() { JoinError::Aborted } else { JoinError::LoopEnded };
            // SAFETY: this is the loop's thread, and the only owner of a future that has not ended.
            unsafe { cell.end(reason) }
        }
    }
}

impl Drop for OwnedFuture {
    fn drop(&mut self) {
        // SAFETY: the value is not used again. `poll` takes it and does not run this drop.
        let cell = unsafe { ManuallyDrop::take(&mut self.0) };
        OwnedFuture::end(&*cell);
    }
}

/// The operations of the join handle on a future of an erased type.
pub(super) trait Joined<T>: Send + Sync {
    fn header(&self) -> &Header;

    /// # Safety
    /// The caller holds the only `JoinEnd`, exclusively, and has not got the result.
    unsafe fn poll_result(&self, context: &mut Context<'_>) -> Poll<Result<T, JoinError>>;

    /// # Safety
    /// Same as for [`poll_result`](Joined::poll_result). It is the last operation.
    unsafe fn release(&self);
}

impl<F: Future, N> Joined<F::Output> for FutureCell<F, N> {
    fn header(&self) -> &Header {
        &self.header
    }

    unsafe fn poll_result(&self, context: &mut Context<'_>) -> Poll<Result<F::Output, JoinError>> {
        let state = &self.header.state;
        if !state.withdraw() {
            if self.header.is_inherited() {
                return Poll::Ready(Err(JoinError::LoopEnded));
            }
            // SAFETY: the future has not completed, or it has and left the waker, which is not
            // published, to this handle.
            let joiner = unsafe { &mut *self.joiner.get() };
            if !joiner.as_ref().is_some_and(|joiner| joiner.will_wake(context.waker())) {
                *joiner = Some(Contained::new(context.waker().clone()));
            }
            if !state.publish() {
                return Poll::Pending;
            }
        }
        // SAFETY: the future has completed, and its result belongs to this handle.
        Poll::Ready(unsafe { self.take_result() }.unwrap_or(Err(JoinError::LoopEnded)))
    }

    unsafe fn release(&self) {
        if self.header.state.release() {
            // SAFETY: the future has completed, and its result belongs to this handle.
            drop(Contained::new(unsafe { self.take_result() }));
        } else {
            // SAFETY: the waker is not published any more, so it belongs to this handle.
            drop(unsafe { (*self.joiner.get()).take() });
        }
    }
}

/// The join handle's end of a future. There is one.
///
/// It is `Send` if the result is, and `Sync` too, as only `&mut self` gives access to the result. A
/// mutex has the same bounds.
pub(in crate::event_loop) struct JoinEnd<T> {
    pub(super) cell: Arc<dyn Joined<T>>,
    has_result: bool,
    bounds: PhantomData<Mutex<T>>,
}

impl<T> JoinEnd<T> {
    pub(super) fn header(&self) -> &Header {
        self.cell.header()
    }

    /// # Panics
    /// If it has returned the result before.
    #[track_caller]
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
        assert!(!self.has_result, "a join handle was polled after it had returned its result");
        // SAFETY: this is the only `JoinEnd`, borrowed exclusively, and the result is not taken.
        let polled = unsafe { self.cell.poll_result(context) };
        self.has_result = polled.is_ready();
        polled
    }
}

impl<T> Drop for JoinEnd<T> {
    fn drop(&mut self) {
        if !self.has_result {
            // SAFETY: this is the only `JoinEnd`, and the result is not taken.
            unsafe { self.cell.release() }
        }
    }
}

impl<T> fmt::Debug for JoinEnd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinEnd").finish_non_exhaustive()
    }
}

/// A future on its loop, so on that loop's thread. It need not be `Send`.
pub(super) fn local<F: Future + 'static>(
    event_loop: &EventLoop,
    future: F,
) -> (OwnedFuture, JoinEnd<F::Output>) {
    local_as::<F, F>(event_loop, future)
}

fn local_as<F: Future + 'static, N: 'static>(
    event_loop: &EventLoop,
    future: F,
) -> (OwnedFuture, JoinEnd<F::Output>) {
    let cell = FutureCell::<F, N>::new(Header::here(event_loop), future);
    (OwnedFuture::new(Arc::clone(&cell) as _), JoinEnd { cell, has_result: false, bounds: PhantomData })
}

/// Same as [`local`], for the future that a closure makes in the first poll.
pub(super) fn local_deferred<C, F>(event_loop: &EventLoop, closure: C) -> (OwnedFuture, JoinEnd<F::Output>)
where
    C: FnOnce(&EventLoop) -> F + 'static,
    F: Future + 'static,
{
    local_as::<Deferred<C, F>, F>(event_loop, Deferred::Closure(Some(closure)))
}

/// A future on its way to the loop.
pub(in crate::event_loop) struct Departing<F: Future, N = F>(Arc<FutureCell<F, N>>);

/// Creates a future that any thread may send to the loop.
pub(in crate::event_loop) fn sent<F>(shared: &Arc<Shared>, future: F) -> (Departing<F>, JoinEnd<F::Output>)
where
    F: Future<Output: Send> + Send + 'static,
{
    Departing::new(shared, future)
}

/// A future that a closure makes on the loop, on its way there.
type DepartingDeferred<C, F> = Departing<Deferred<C, F>, F>;

/// Creates a future that a closure makes on the loop. Only the closure is sent.
pub(in crate::event_loop) fn deferred<C, F>(
    shared: &Arc<Shared>,
    closure: C,
) -> (DepartingDeferred<C, F>, JoinEnd<F::Output>)
where
    C: FnOnce(&EventLoop) -> F + Send + 'static,
    F: Future<Output: Send> + 'static,
{
    Departing::new(shared, Deferred::Closure(Some(closure)))
}

impl<F: Future + 'static, N: 'static> Departing<F, N> {
    /// The future must be `Send` in its present state.
    fn new(shared: &Arc<Shared>, future: F) -> (Departing<F, N>, JoinEnd<F::Output>) {
        let cell = FutureCell::<F, N>::new(Header::arriving(shared), future);
        (Departing(Arc::clone(&cell)), JoinEnd { cell, has_result: false, bounds: PhantomData })
    }

    /// The loop has accepted the future. The value must be dropped on the loop's thread.
    pub(in crate::event_loop) fn depart(self) -> OwnedFuture {
        OwnedFuture::new(self.0)
    }

    /// The loop has not accepted the future, and the `JoinEnd` has been dropped.
    pub(in crate::event_loop) fn into_future(self) -> F {
        let cell = Arc::into_inner(self.0).map(|cell| ManuallyDrop::into_inner(cell.stage.into_inner()));
        match cell {
            Some(Stage::Future(future)) => future,
            _ => unreachable!("the future has not left, and nothing else refers to it"),
        }
    }
}

/// A future, or the closure that makes it in the first poll.
pub(in crate::event_loop) enum Deferred<C, F> {
    Closure(Option<C>),
    Future(F),
}

impl<C, F> Deferred<C, F> {
    /// For a future that has not been polled.
    pub(in crate::event_loop) fn into_closure(self) -> C {
        match self {
            Deferred::Closure(Some(closure)) => closure,
            _ => unreachable!("the closure is called by the first poll only"),
        }
    }
}

impl<C: FnOnce(&EventLoop) -> F, F: Future> Future for Deferred<C, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future is not moved out. The closure is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        if let Deferred::Closure(closure) = this {
            let (Some(closure), Some(event_loop)) = (closure.take(), EventLoop::current()) else {
                return Poll::Pending;
            };
            *this = Deferred::Future(closure(&event_loop));
        }
        match this {
            // SAFETY: it is pinned with `self`.
            Deferred::Future(future) => unsafe { Pin::new_unchecked(future) }.poll(context),
            Deferred::Closure(_) => Poll::Pending,
        }
    }
}

fn raw_waker<F: Future, N>(cell: *const ()) -> RawWaker {
    RawWaker::new(cell, &VTable::<F, N>::VTABLE)
}

struct VTable<F, N>(PhantomData<F>, PhantomData<N>);

/// In all of these functions, the pointer is that of an `Arc<FutureCell<F, N>>`, of which the waker
/// holds one count; or, in a poll, the loop does.
impl<F: Future, N> VTable<F, N> {
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        // SAFETY: the waker holds a count, so there is one to be added to.
        |cell| unsafe {
            Arc::increment_strong_count(cell.cast::<FutureCell<F, N>>());
            raw_waker::<F, N>(cell)
        },
        // SAFETY: the waker's count is taken over.
        |cell| unsafe { Arc::from_raw(cell.cast::<FutureCell<F, N>>()) }.header.wake(),
        // SAFETY: the waker's count keeps the cell alive. Only the header is used.
        |cell| unsafe { &*cell.cast::<FutureCell<F, N>>() }.header.wake(),
        // SAFETY: the waker's count is taken over. By the invariant only memory is freed.
        |cell| drop(unsafe { Arc::from_raw(cell.cast::<FutureCell<F, N>>()) }),
    );
}
