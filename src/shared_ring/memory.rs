//! A file of memory that another process has as well, as a slice of atomic words.
//!
//! The other process may write at any time, whatever it was asked to do, so a plain access would be a data race, and a
//! reference to plain data a lie. Atomic words are what may change under a shared reference, and any value is a valid one.
//! A file that shrinks would take pages away from under the mapping, and an access be answered with SIGBUS; so only a file
//! whose size is sealed is mapped.

#![allow(unsafe_code, reason = "a mapping is made, read and given up by pointers")]

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};

use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::event_index::Word;

/// What keeps the size of a file, and keeps it so for ever.
pub(super) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

const WORD: usize = size_of::<AtomicU64>();

/// The kind of file system that `memfd_create` makes its files in (statfs(2)). Files of huge pages are of another, and such
/// pages can run out after they were mapped.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The mapping of a whole file.
///
/// # Invariant
/// `start` is the address of a mapping of `words` words at least, readable, writable and shared, of a file that cannot shrink.
/// Nobody unmaps it before the drop.
pub(super) struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Memory {
    /// Maps the file, whole words of it.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a memfd, not of at least one word, or its size is not
    /// sealed; what the kernel says if it cannot be mapped to be written.
    pub(super) fn map(file: BorrowedFd<'_>) -> io::Result<Memory> {
        let seals = rustix::fs::fcntl_get_seals(file).map_err(|error| match error {
            Errno::INVAL => refused("the descriptor of the memory is not a memfd"),
            error => error.into(),
        })?;
        if !seals.contains(SEALS) {
            return Err(refused(
                "the size of the memory is not sealed (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL)",
            ));
        }
        // The kernels' types of this number differ; it has 32 bits.
        if rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff != TMPFS_MAGIC {
            return Err(refused("the memory is not in ordinary pages"));
        }
        let words = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0) / WORD;
        // A slice has no more bytes than that.
        if words == 0 || words > isize::MAX as usize / WORD {
            return Err(refused("the memory has an impossible size"));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else has, so no memory of this program is touched.
        let start =
            unsafe { rustix::mm::mmap(ptr::null_mut(), words * WORD, access, MapFlags::SHARED, file, 0) };
        let start = start.map_err(|error| match error {
            Errno::ACCESS | Errno::PERM => refused("the memory cannot be written through this descriptor"),
            error => error.into(),
        })?;
        let start =
            NonNull::new(start.cast()).ok_or_else(|| refused("the memory was mapped at no address"))?;
        Ok(Memory { start, words })
    }

    /// All of it.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: by the invariant there are so many words from `start` on for as long as `self` lives, and each access finds a
        // page, since the file cannot shrink, and was so long when that was already so. A mapping begins at a page, which is
        // aligned for a word, and any bytes are a valid word. They may change under the reference, because they are atomic: this
        // process changes them by atomic operations only, and what the other process does is to them a store of some value.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: by the invariant this is a mapping, of which it is the whole, and slices of it do not outlive `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * WORD) };
        debug_assert!(unmapped.is_ok(), "a mapping can be given up");
    }
}

// SAFETY: the mapping belongs to the process, and not to a thread; it is reached through atomic words only.
unsafe impl Send for Memory {}

// SAFETY: as above: a shared reference gives access to atomic words, and to nothing else.
unsafe impl Sync for Memory {}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Word for AtomicU64 {
    #[inline]
    fn load_relaxed(&self) -> u64 {
        self.load(Relaxed)
    }

    #[inline]
    fn store_relaxed(&self, value: u64) {
        self.store(value, Relaxed);
    }

    #[inline]
    fn load_acquire(&self) -> u64 {
        self.load(Acquire)
    }

    #[inline]
    fn store_release(&self, value: u64) {
        self.store(value, Release);
    }

    #[inline]
    fn fence() {
        fence(SeqCst);
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
