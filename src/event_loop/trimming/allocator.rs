//! Returns free memory of the allocator to the kernel.
//!
//! The blocks in which connections keep input and output are too small for mappings of their own.
//! They come from the allocator's arenas. glibc returns to the kernel only the free memory at the
//! end of an arena, and of the first arena only the memory beyond a threshold, which grows with the
//! blocks that the program frees: after a load of 300 MB all of it stayed with the process, though
//! none was in use. Larger blocks do not help, as the threshold from which blocks are mappings
//! grows likewise. So when the memory held by all connections of the process has fallen far, the
//! loop calls malloc_trim(3) once, which returns free memory. A load that oscillates between half
//! of its peak and the peak has not fallen.

#![allow(unsafe_code, reason = "the calls that return memory of the allocator")]

#[cfg(target_env = "gnu")]
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The peak from which a trim is worth its cost.
const LARGE: usize = 4 * 1024 * 1024;

/// The bytes that connections hold, and their peak since the last trim.
static HELD: Load = Load { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) };

/// A connection holds `bytes` more.
pub(crate) fn add_held(bytes: usize) {
    HELD.add(bytes);
}

/// A connection holds `bytes` less.
pub(crate) fn subtract_held(bytes: usize) {
    HELD.subtract(bytes);
}

/// Whether the memory held by connections has fallen far.
pub(crate) fn has_fallen() -> bool {
    HELD.has_fallen()
}

/// Trims the allocator if the memory held by connections has fallen far.
pub(crate) fn trim_if_fallen() {
    if HELD.settle() {
        return_free_memory();
    }
}

/// Whether `bytes` are worth a trim.
pub(crate) fn is_large(bytes: usize) -> bool {
    bytes >= LARGE
}

/// Trims the allocator if `bytes`, which a collection of this thread has released, are worth it.
pub(crate) fn trim_if_large(bytes: usize) {
    if is_large(bytes) {
        return_free_memory();
    }
}

#[cfg(target_env = "gnu")]
fn return_free_memory() {
    release_top();
    // SAFETY: malloc_trim(3) takes no pointer, and may be called from any thread. It returns free
    // pages only.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators return free memory by themselves.
#[cfg(not(target_env = "gnu"))]
fn return_free_memory() {}

/// The size of a block that glibc never maps by itself: its smallest threshold for that is 128 KiB.
#[cfg(target_env = "gnu")]
const BLOCK: usize = 120 * 1024;

/// The largest number of blocks that [`release_top`] allocates: 256 MiB.
#[cfg(target_env = "gnu")]
const MOST_BLOCKS: usize = 256 * 1024 * 1024 / BLOCK;

/// This number of blocks in a row without resident pages is the end of the arena. Free memory
/// before the end may have been returned already. It lies in pieces of up to 64 MiB, the largest
/// part of an arena (`HEAP_MAX_SIZE`).
#[cfg(target_env = "gnu")]
const ABSENT: usize = 64 * 1024 * 1024 / BLOCK;

/// Returns the pages at the end of this thread's arena. malloc_trim(3) returns those of the first
/// arena alone, and a free leaves up to 64 MiB there. The function allocates blocks from the arena
/// until several in a row have no resident pages, returns the pages inside them, and frees the
/// blocks.
#[cfg(target_env = "gnu")]
fn release_top() {
    // SAFETY: sysconf(3) takes a number and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).expect("the size of a page");
    // Not on the heap: the load of other threads decides when a thread returns memory, and
    // returning it must not allocate.
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
        // SAFETY: the pages lie within the block. The kernel writes a byte for each page. The array
        // has a byte for each page, as no page is smaller than 4096 bytes.
        let is_known = unsafe { libc::mincore(start, len, resident.as_mut_ptr()) } == 0;
        if is_known && resident.iter().all(|page| page & 1 == 0) {
            absent += 1;
            continue;
        }
        absent = 0;
        // SAFETY: the pages lie within the block, which this function owns and has not written to.
        unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
    }
    for &block in &blocks[..taken] {
        // SAFETY: the block came from malloc(3) above, and is not used again.
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
        peak >= LARGE && self.now.load(Relaxed) < peak / 2
    }

    /// Returns whether the load has fallen far, to one caller only, and starts a new peak.
    fn settle(&self) -> bool {
        self.has_fallen() && self.peak.swap(self.now.load(Relaxed), Relaxed) >= LARGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    #[test]
    fn a_load_falls_once_per_peak() {
        let load = load();
        for _ in 0..3 {
            load.add(3 * LARGE);
            assert!(!load.settle(), "at its peak");
            load.subtract(LARGE);
            assert!(!load.settle(), "not far");
            load.subtract(2 * LARGE - 10);
            assert!(load.has_fallen());
            assert!(load.settle());
            assert!(!load.has_fallen() && !load.settle());
            load.subtract(10);
        }
    }

    #[test]
    fn a_small_load_never_counts_as_fallen() {
        let load = load();
        load.add(LARGE - 1);
        load.subtract(LARGE - 1);
        assert!(!load.has_fallen());
    }
}
