//! Memory that the allocator keeps after it has been given back.
//!
//! The pieces in which connections keep what waits to be sent or handled are too small for mappings of their own. They come from the
//! allocator's arenas, and glibc returns to the kernel only the free memory at the end of an arena, and that of the first arena alone beyond a
//! threshold, which grows with what the program frees: after a load of 300 MB all of it stayed with the process, though none was in use.
//! Larger pieces do not change that, as the threshold from which blocks are mappings grows likewise. So when what all connections of
//! the process hold together has fallen far, the loop calls malloc_trim(3) once, which returns what is free. A load that goes up
//! and down between half of its peak and the peak has not fallen.

#![allow(unsafe_code, reason = "the calls that return memory of the allocator")]

#[cfg(target_env = "gnu")]
use std::ptr;
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

/// Whether so many bytes are worth the call.
pub(crate) fn is_much(bytes: usize) -> bool {
    bytes >= MUCH
}

/// A collection of this thread has given up so many bytes of room. Has the allocator return what is free, if that is much.
pub(crate) fn note_given_up(bytes: usize) {
    if is_much(bytes) {
        return_free_memory();
    }
}

#[cfg(target_env = "gnu")]
fn return_free_memory() {
    release_top();
    // SAFETY: it takes no pointer, and may be called from any thread (malloc_trim(3)). It returns free pages only.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators return what is free by themselves.
#[cfg(not(target_env = "gnu"))]
fn return_free_memory() {}

/// The size of a block that glibc never maps by itself: its smallest threshold for that is 128 KiB.
#[cfg(target_env = "gnu")]
const BLOCK: usize = 120 * 1024;

/// The most blocks that [`release_top`] takes: an arena of a thread has pieces of 64 MiB.
#[cfg(target_env = "gnu")]
const MOST_BLOCKS: usize = 64 * 1024 * 1024 / BLOCK;

/// Returns the pages at the end of this thread's arena. malloc_trim(3) returns those of the first arena alone, and a free leaves up to
/// 64 MiB there. Blocks are taken from the arena until several in a row have no resident pages; the pages inside them are
/// returned, and the blocks are freed.
#[cfg(target_env = "gnu")]
fn release_top() {
    /// So many blocks in a row without resident pages are the end. Free memory before the end may have parts that were never used.
    const ABSENT: usize = 64;
    // SAFETY: it takes a number and returns one (sysconf(3)).
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).expect("the size of a page");
    // Not on the heap: a thread returns memory at a time that other threads' load decides, and allocates nothing for it.
    let mut blocks = [ptr::null_mut::<libc::c_void>(); MOST_BLOCKS];
    let mut taken = 0;
    let mut absent = 0;
    while taken < MOST_BLOCKS && absent < ABSENT {
        // SAFETY: malloc(3) takes a size. The block is freed below, once.
        let block = unsafe { libc::malloc(BLOCK) };
        if block.is_null() {
            break;
        }
        blocks[taken] = block;
        taken += 1;
        let before = block.addr().next_multiple_of(page) - block.addr();
        let len = (BLOCK - before) / page * page;
        let mut resident = [0; BLOCK / 4096 + 1];
        let start = block.wrapping_byte_add(before);
        // SAFETY: the pages lie within the block. The kernel writes a byte for each page, of which there are at most as many as there
        // are bytes, as no page is smaller than 4096 bytes.
        let is_known = unsafe { libc::mincore(start, len, resident.as_mut_ptr()) } == 0;
        if is_known && resident.iter().all(|page| page & 1 == 0) {
            absent += 1;
            continue;
        }
        absent = 0;
        // SAFETY: the pages lie within the block, which this function owns and has written nothing to.
        unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
    }
    for &block in &blocks[..taken] {
        // SAFETY: it came from malloc(3) above, and is not used again.
        unsafe { libc::free(block) };
    }
}

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
