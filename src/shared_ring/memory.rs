//! A memory-mapped file shared with another process, as a slice of atomic words.
//!
//! The other process may write at any time, regardless of the protocol, so a plain access would be
//! a data race, and a reference to plain data would be unsound. Atomic words may change behind a
//! shared reference, and every value of them is valid. If the file shrank, pages of the mapping
//! would disappear and an access would raise SIGBUS; so only a file whose size is sealed is mapped.

#![allow(unsafe_code, reason = "a mapping is created, accessed and unmapped by pointer")]

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

/// Seals that fix the size of a file, permanently.
pub(super) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

const WORD: usize = size_of::<AtomicU64>();

/// The file system type of files made by `memfd_create` (statfs(2)). Huge-page files have another
/// type, and huge pages can run out after the mapping.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The mapping of a whole file.
///
/// # Invariant
/// `start` is the address of a mapping of at least `words` words, readable, writable and shared, of
/// a file that cannot shrink. It stays mapped until the drop.
pub(super) struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Memory {
    /// Maps the whole words of the file.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not a memfd, is shorter than one
    /// word, or its size is not sealed; the error of mmap(2) for a writable mapping.
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
        // The type of this field differs between architectures; the value has 32 bits.
        if rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff != TMPFS_MAGIC {
            return Err(refused("the memory does not consist of ordinary pages"));
        }
        let words = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0) / WORD;
        // The maximum size of a slice.
        if words == 0 || words > isize::MAX as usize / WORD {
            return Err(refused("the memory has an impossible size"));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an unused address, so no memory of this program is affected.
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

    /// All words of the file.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: by the invariant there are `words` words at `start` while `self` lives. Each
        // access finds a page, since the file cannot shrink and its size was read after that was
        // ensured. A mapping starts at a page boundary, which is aligned for a word, and any bytes
        // are a valid word. The words may change behind the reference, because they are atomic:
        // this process changes them by atomic operations only, and a write of the other process
        // acts as a store of some value.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: by the invariant this is the whole mapping, and slices of it do not outlive
        // `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * WORD) };
        debug_assert!(unmapped.is_ok(), "unmapping a whole mapping succeeds");
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed through atomic words
// only.
unsafe impl Send for Memory {}

// SAFETY: a shared reference gives access to atomic words and nothing else.
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
