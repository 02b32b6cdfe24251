//! A closure that is called once, kept in place if it is small.
//!
//! A heap block a task, made on one thread and freed on another, costs more than all the rest of posting it. So a closure whose
//! captures are up to four words lies in the [`Task`] itself, and tasks lie side by side in the vector that queues them. A larger one
//! goes into a box, which then is what lies there.
//!
//! This file is one of the few of the crate that need `unsafe`. What it rests on is said at [`Task`], and each block refers to it.

#![allow(unsafe_code, reason = "closures of any type are kept in one type's storage, without a box")]

use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::ptr;

use crate::event_loop::containment::catch_drop;

/// Room for the captures: four words, as they come.
type Storage = MaybeUninit<[usize; 4]>;

/// What is done with a closure whose type has been forgotten.
struct Operations<A: ?Sized + 'static> {
    /// Moves the closure out of the storage and calls it.
    ///
    /// Safety: the storage holds the closure that these operations were made for, which is gone from there afterwards, also if
    /// the call panics.
    call: unsafe fn(*mut Storage, &A),
    /// Drops the closure where it lies.
    ///
    /// Safety: as for `call`.
    drop: unsafe fn(*mut Storage),
}

/// A closure that takes an `&A`, to be called once or dropped. A panic in its destructor ends in the task's drop.
///
/// # Invariant
/// `storage` holds a live value of the type that `operations` was made for: a closure that fits, or a box with one that does
/// not. It is put there by [`new`](Task::new), the only constructor, and leaves by [`call`](Task::call), which forgets the task,
/// or by its drop: by exactly one of the two, exactly once.
///
/// A task is `Send` only as a [`SendTask`].
pub(crate) struct Task<A: ?Sized + 'static> {
    storage: Storage,
    operations: &'static Operations<A>,
    /// The closure may be of any type, so a task is neither `Send` nor `Sync`.
    closure: PhantomData<*mut ()>,
}

/// The operations of a closure type, as a constant that can be promoted to a static.
struct OperationsOf<F, A: ?Sized + 'static>(PhantomData<F>, PhantomData<A>);

impl<F: FnOnce(&A), A: ?Sized + 'static> OperationsOf<F, A> {
    const OPERATIONS: Operations<A> = Operations { call: call::<F, A>, drop: drop_in_place::<F> };
}

/// Whether an `F` may lie in the storage.
const fn fits<F>() -> bool {
    size_of::<F>() <= size_of::<Storage>() && align_of::<F>() <= align_of::<Storage>()
}

impl<A: ?Sized + 'static> Task<A> {
    /// Keeps `closure` in place if it fits, else in a box.
    #[inline]
    pub(crate) fn new<F: FnOnce(&A) + 'static>(closure: F) -> Task<A> {
        if const { fits::<F>() } {
            // SAFETY: it fits.
            unsafe { Task::store(closure) }
        } else {
            let boxed = Box::new(closure);
            // SAFETY: all that this closure captures is a box, which is one word.
            unsafe { Task::store(move |argument: &A| boxed(argument)) }
        }
    }

    /// # Safety
    /// An `F` must [fit](fits).
    #[inline]
    unsafe fn store<F: FnOnce(&A) + 'static>(closure: F) -> Task<A> {
        debug_assert!(fits::<F>());
        let mut storage = Storage::uninit();
        // SAFETY: the caller promises that an `F` fits into the storage in size and alignment, and the storage is ours alone.
        // This establishes the invariant: what is written is what `operations` is made for.
        unsafe { storage.as_mut_ptr().cast::<F>().write(closure) };
        Task { storage, operations: &OperationsOf::<F, A>::OPERATIONS, closure: PhantomData }
    }

    /// Calls the closure.
    #[inline]
    pub(crate) fn call(self, argument: &A) {
        // The closure leaves the storage now, however the call ends, so this task must not drop it.
        let mut task = ManuallyDrop::new(self);
        // SAFETY: by the invariant the storage holds what `operations` was made for; and nobody touches it again, since the
        // task is never dropped.
        unsafe { (task.operations.call)(&mut task.storage, argument) }
    }
}

impl<A: ?Sized + 'static> Drop for Task<A> {
    fn drop(&mut self) {
        // SAFETY: by the invariant the storage holds what `operations` was made for, since a task whose closure has left is not
        // dropped; and nobody can touch it again after this.
        catch_drop(|| unsafe { (self.operations.drop)(&mut self.storage) });
    }
}

impl<A: ?Sized + 'static> fmt::Debug for Task<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// # Safety
/// As [`Operations::call`], for an `F`.
unsafe fn call<F: FnOnce(&A), A: ?Sized + 'static>(storage: *mut Storage, argument: &A) {
    // SAFETY: the caller promises an `F` in the storage, which it will not use again: this moves it out.
    let closure = unsafe { storage.cast::<F>().read() };
    closure(argument);
}

/// # Safety
/// As [`Operations::drop`], for an `F`.
unsafe fn drop_in_place<F>(storage: *mut Storage) {
    // SAFETY: the caller promises an `F` in the storage, which it will not use again.
    unsafe { ptr::drop_in_place(storage.cast::<F>()) }
}

/// A task that may go to another thread.
#[derive(Debug)]
pub(crate) struct SendTask<A: ?Sized + 'static>(Task<A>);

// SAFETY: the only constructor asks that the closure be `Send`, and all that a task holds besides is a reference to constant functions.
// What the closure is called with never leaves the thread that calls it.
unsafe impl<A: ?Sized + 'static> Send for SendTask<A> {}

impl<A: ?Sized + 'static> SendTask<A> {
    /// As [`Task::new`].
    #[inline]
    pub(crate) fn new<F: FnOnce(&A) + Send + 'static>(closure: F) -> SendTask<A> {
        SendTask(Task::new(closure))
    }

    /// As [`Task::call`].
    #[inline]
    pub(crate) fn call(self, argument: &A) {
        self.0.call(argument);
    }
}

const _: () = assert!(size_of::<Task<()>>() == 5 * size_of::<usize>() && !mem::needs_drop::<Storage>());

#[cfg(test)]
mod tests;
