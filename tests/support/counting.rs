//! The global allocator of every test binary. It counts allocations, per thread and for the
//! process.

// A global allocator is an unsafe trait.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The system allocator, which also counts.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
    /// The total size of all allocations in bytes.
    pub(crate) requested: u64,
    /// The bytes allocated and not freed. Negative for a thread that frees memory of other threads.
    pub(crate) held: i64,
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, before: Counts) -> Counts {
        Counts {
            allocated: self.allocated - before.allocated,
            freed: self.freed - before.freed,
            requested: self.requested - before.requested,
            held: self.held - before.held,
        }
    }
}

const NONE: Counts = Counts { allocated: 0, freed: 0, requested: 0, held: 0 };

thread_local! {
    // Initialised at compile time and never dropped, so that counting does not allocate.
    static COUNTS: Cell<Counts> = const { Cell::new(NONE) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

static HELD: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Returns the counts of this thread.
pub(crate) fn counts() -> Counts {
    COUNTS.get()
}

/// Returns the largest number of bytes that this thread has held since [`reset_peak`].
pub(crate) fn peak() -> i64 {
    PEAK.get()
}

pub(crate) fn reset_peak() {
    PEAK.set(counts().held);
}

/// Counts one allocation of `allocated` bytes, one free of `freed` bytes, or both.
fn count(allocated: Option<usize>, freed: Option<usize>) {
    let bytes = |size: Option<usize>| size.unwrap_or(0) as i64;
    let change = bytes(allocated) - bytes(freed);
    HELD.fetch_add(change, SeqCst);
    ALLOCATIONS.fetch_add(u64::from(allocated.is_some()), SeqCst);
    // Fails without effect while the thread destroys its thread-local values.
    let _ = COUNTS.try_with(|counts| {
        let Counts { allocated: allocations, freed: frees, requested, held } = counts.get();
        counts.set(Counts {
            allocated: allocations + u64::from(allocated.is_some()),
            freed: frees + u64::from(freed.is_some()),
            requested: requested + allocated.unwrap_or(0) as u64,
            held: held + change,
        });
        PEAK.with(|peak| peak.set(peak.get().max(held + change)));
    });
}

// SAFETY: every method passes its arguments to the system's allocator unchanged, and returns its
// result. The counting accesses only plain numbers, and neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(Some(layout.size()), None);
        // SAFETY: the caller upholds the contract of `alloc`, which is the contract of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(Some(layout.size()), None);
        // SAFETY: same as above, for `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(None, Some(layout.size()));
        // SAFETY: the caller guarantees that `pointer` came from one of these methods with this
        // layout, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(Some(new_size), Some(layout.size()));
        // SAFETY: same as for `dealloc`; the caller guarantees that `new_size` is valid.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Serialises tests that use the counts of the process.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the bytes that the process has allocated and not freed.
pub(crate) fn held() -> i64 {
    HELD.load(SeqCst)
}

/// Returns the number of allocations of the process.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(SeqCst)
}

/// Checks that a burst has released its memory. `before` and `full` are the bytes held before the
/// burst and at its peak. Now fewer than `limit` bytes more than `before` must be held. To be
/// meaningful, the peak must exceed that limit five times.
#[track_caller]
pub(crate) fn assert_released(before: i64, full: i64, limit: usize) {
    let limit = limit as i64;
    assert!(full > before + 5 * limit, "the burst held only {} bytes", full - before);
    let unreleased = held() - before;
    assert!(unreleased < limit, "{unreleased} of {} bytes are not released", full - before);
}
