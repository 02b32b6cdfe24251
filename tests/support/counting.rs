//! An allocator that counts what the process has allocated. A test binary that measures makes it
//! the global one.

// A global allocator can be counted in no other way.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The system's allocator, with counts.
pub(crate) struct Counting;

static KEPT: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every method passes its arguments on to the system's allocator as they are, and returns
// what that returns. What they do besides touches nothing but two numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        KEPT.fetch_add(layout.size() as i64, SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        KEPT.fetch_sub(layout.size() as i64, SeqCst);
        // SAFETY: `pointer` came from `alloc` or `realloc` with this layout, as the caller
        // promises, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        KEPT.fetch_add(new_size as i64 - layout.size() as i64, SeqCst);
        // SAFETY: as for `dealloc`, and `new_size` is the caller's to vouch for.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// The counts are the process's, so one test runs at a time.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that are allocated now.
pub(crate) fn kept() -> i64 {
    KEPT.load(SeqCst)
}

/// How many allocations there have been.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(SeqCst)
}

/// Checks that at most `left` bytes more are allocated than `before` the burst, of which the burst
/// had taken many times that.
#[track_caller]
pub(crate) fn assert_released(before: i64, full: i64, left: usize) {
    let most = left as i64;
    assert!(full > before + 5 * most, "the burst took only {} bytes", full - before);
    let left = kept() - before;
    assert!(left < most, "{left} bytes are left of {}", full - before);
}
