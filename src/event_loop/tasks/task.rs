//! A closure that is called once, stored in place if it is small.
//!
//! A heap block per task, allocated on one thread and freed on another, costs more than the rest of
//! a post. So a closure with captures of up to four words is stored in the [`Task`] itself, and
//! tasks are stored contiguously in the vector that queues them. A larger closure is boxed, and the
//! box is stored in the task.
//!
//! This file is one of the few of the crate that need `unsafe`. The invariant is documented at
//! [`Task`], and each block refers to it.

#![allow(unsafe_code, reason = "closures of any type are kept in one type's storage, without a box")]

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::ptr;

use crate::event_loop::containment::catch_drop;

/// Storage for captures of up to four words.
type Storage = MaybeUninit<[usize; 4]>;

/// The operations on a closure of an erased type.
struct Operations<A: ?Sized + 'static> {
    /// Moves the closure out of the storage and calls it.
    ///
    /// Safety: the storage holds the closure that these operations belong to. Afterwards the
    /// storage is empty, also if the call panics.
    call: unsafe fn(*mut Storage, &A),
    /// Drops the closure in place.
    ///
    /// Safety: same as for `call`.
    drop: unsafe fn(*mut Storage),
    /// The name of the closure's type.
    name: fn() -> &'static str,
}

/// A closure that takes an `&A`, to be called once or dropped. A panic in its destructor is caught
/// by the task's drop.
///
/// # Invariant
/// `storage` holds a live value of the type that `operations` belongs to: a closure that fits, or a
/// box with one that does not. [`new`](Task::new), the only constructor, puts it there. It leaves
/// by [`call`](Task::call), which forgets the task, or by the task's drop: by exactly one of the
/// two, exactly once.
///
/// A task is `Send` only as a [`SendTask`].
pub(crate) struct Task<A: ?Sized + 'static> {
    storage: Storage,
    operations: &'static Operations<A>,
    /// The closure may be of any type, so a task is neither `Send` nor `Sync`.
    closure: PhantomData<*mut ()>,
}

/// The operations of a closure type, as a constant that can be promoted to a static. `N` is the
/// type that gives the name.
struct OperationsOf<N: ?Sized, F, A: ?Sized + 'static>(PhantomData<F>, PhantomData<A>, PhantomData<N>);

impl<N: ?Sized, F: FnOnce(&A), A: ?Sized + 'static> OperationsOf<N, F, A> {
    const OPERATIONS: Operations<A> =
        Operations { call: call::<F, A>, drop: drop_in_place::<F>, name: type_name::<N> };
}

/// Whether an `F` can be stored in place.
const fn fits<F>() -> bool {
    size_of::<F>() <= size_of::<Storage>() && align_of::<F>() <= align_of::<Storage>()
}

impl<A: ?Sized + 'static> Task<A> {
    /// Stores `closure` in place if it fits, otherwise in a box.
    #[inline]
    pub(crate) fn new<F: FnOnce(&A) + 'static>(closure: F) -> Task<A> {
        Task::new_as::<F, F>(closure)
    }

    /// Same as [`new`](Task::new). The name of the task is that of the type `N`.
    #[inline]
    pub(crate) fn new_as<N, F: FnOnce(&A) + 'static>(closure: F) -> Task<A> {
        if const { fits::<F>() } {
            // SAFETY: it fits.
            unsafe { Task::store::<N, F>(closure) }
        } else {
            let boxed = Box::new(closure);
            // SAFETY: this closure captures only a box, which is one word.
            unsafe { Task::store::<N, _>(move |argument: &A| boxed(argument)) }
        }
    }

    /// # Safety
    /// An `F` must [fit](fits).
    #[inline]
    unsafe fn store<N, F: FnOnce(&A) + 'static>(closure: F) -> Task<A> {
        debug_assert!(fits::<F>());
        let mut storage = Storage::uninit();
        // SAFETY: the caller guarantees that an `F` fits into the storage in size and alignment,
        // and no other code has access to the storage. This establishes the invariant: the value
        // written has the type that `operations` belongs to.
        unsafe { storage.as_mut_ptr().cast::<F>().write(closure) };
        Task { storage, operations: &OperationsOf::<N, F, A>::OPERATIONS, closure: PhantomData }
    }

    /// The name of the closure's type.
    pub(crate) fn name(&self) -> &'static str {
        (self.operations.name)()
    }

    /// Calls the closure.
    #[inline]
    pub(crate) fn call(self, argument: &A) {
        // The closure leaves the storage now, also if the call panics, so this task must not drop
        // it.
        let mut task = ManuallyDrop::new(self);
        // SAFETY: by the invariant the storage holds a closure of the type that `operations`
        // belongs to. It is not used again, since the task is never dropped.
        unsafe { (task.operations.call)(&mut task.storage, argument) }
    }
}

impl<A: ?Sized + 'static> Drop for Task<A> {
    fn drop(&mut self) {
        // SAFETY: by the invariant the storage holds a closure of the type that `operations`
        // belongs to, since a task whose closure has left is not dropped. It is not used after
        // this.
        catch_drop(|| unsafe { (self.operations.drop)(&mut self.storage) });
    }
}

impl<A: ?Sized + 'static> fmt::Debug for Task<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// # Safety
/// Same as [`Operations::call`], for an `F`.
unsafe fn call<F: FnOnce(&A), A: ?Sized + 'static>(storage: *mut Storage, argument: &A) {
    // SAFETY: the caller guarantees an `F` in the storage, which it does not use again: this moves
    // it out.
    let closure = unsafe { storage.cast::<F>().read() };
    closure(argument);
}

/// # Safety
/// Same as [`Operations::drop`], for an `F`.
unsafe fn drop_in_place<F>(storage: *mut Storage) {
    // SAFETY: the caller guarantees an `F` in the storage, which it does not use again.
    unsafe { ptr::drop_in_place(storage.cast::<F>()) }
}

/// A task that can be sent to another thread.
#[derive(Debug)]
pub(crate) struct SendTask<A: ?Sized + 'static>(Task<A>);

// SAFETY: the only constructor requires a closure that is `Send`, and besides it a task holds only
// a reference to constant functions. The argument of the call never leaves the thread that makes
// the call.
unsafe impl<A: ?Sized + 'static> Send for SendTask<A> {}

impl<A: ?Sized + 'static> SendTask<A> {
    /// Same as [`Task::new`].
    #[inline]
    pub(crate) fn new<F: FnOnce(&A) + Send + 'static>(closure: F) -> SendTask<A> {
        SendTask(Task::new(closure))
    }

    /// Same as [`Task::call`].
    #[inline]
    pub(crate) fn call(self, argument: &A) {
        self.0.call(argument);
    }

    /// Same as [`Task::name`].
    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }
}

const _: () = assert!(size_of::<Task<()>>() == 5 * size_of::<usize>() && !mem::needs_drop::<Storage>());

#[cfg(test)]
mod tests;
