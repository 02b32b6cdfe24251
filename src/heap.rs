//! Memory that the allocator keeps after it has been given back.
//!
//! The pieces in which connections keep what waits to be sent or handled are too small for mappings of their own. They come from the
//! allocator's arenas, and glibc returns to the kernel only the free memory at the end of an arena, and that of the first arena alone beyond a
//! threshold, which grows with what the program frees: after a load of 300 MB all of it stayed with the process, though none was in use.
//! Larger pieces do not change that, as the threshold from which blocks are mappings grows likewise. So when what all connections of
//! the process hold together has fallen far, the allocator is asked once to return what is free (malloc_trim(3)). A load that goes up
//! and down between half of its peak and the peak has not fallen.

#![allow(unsafe_code, reason = "the call that has the allocator return memory")]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a peak has to come to before it is worth the call.
const MUCH: usize = 4 * 1024 * 1024;

/// The bytes that connections hold now, and the most there have been since the allocator was last asked.
static HELD: Load = Load { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) };

/// A connection holds so many bytes more.
pub(crate) fn note_taken(bytes: usize) {
    HELD.add(bytes);
}

/// A connection holds so many bytes less.
pub(crate) fn note_returned(bytes: usize) {
    HELD.subtract(bytes);
}

/// Whether what waits has fallen far.
pub(crate) fn has_fallen() -> bool {
    HELD.has_fallen()
}

/// Has the allocator return what is free, if what waits has fallen far.
pub(crate) fn give_back() {
    if HELD.settle() {
        return_free_memory();
    }
}

#[cfg(target_env = "gnu")]
fn return_free_memory() {
    // SAFETY: it takes no pointer, and may be called from any thread (malloc_trim(3)). It returns free pages only.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators return what is free by themselves.
#[cfg(not(target_env = "gnu"))]
fn return_free_memory() {}

#[derive(Debug)]
struct Load {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Load {
    fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    fn subtract(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Relaxed);
    }

    fn has_fallen(&self) -> bool {
        let peak = self.peak.load(Relaxed);
        peak >= MUCH && self.now.load(Relaxed) < peak / 2
    }

    /// Returns whether the load has fallen far; to one caller only.
    fn settle(&self) -> bool {
        self.has_fallen() && self.peak.swap(self.now.load(Relaxed), Relaxed) >= MUCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    #[test]
    fn a_load_has_fallen_once_for_each_peak() {
        let load = load();
        for _ in 0..3 {
            load.add(3 * MUCH);
            assert!(!load.settle(), "at its peak");
            load.subtract(MUCH);
            assert!(!load.settle(), "not far");
            load.subtract(2 * MUCH - 10);
            assert!(load.has_fallen());
            assert!(load.settle());
            assert!(!load.has_fallen() && !load.settle());
            load.subtract(10);
        }
    }

    #[test]
    fn a_small_load_never_falls_far() {
        let load = load();
        load.add(MUCH - 1);
        load.subtract(MUCH - 1);
        assert!(!load.has_fallen());
    }
}
