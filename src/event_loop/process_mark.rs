//! Distinguishes a process from the children that fork(2) creates.
//!
//! A forked child has a copy of each object, and shares the kernel's objects with its parent: the
//! epoll instance, the connections, the paths. So an object records the process that created it,
//! and does nothing to them in any other process.
//!
//! The mark of a process is a number in a page that the kernel wipes in a child (MADV_WIPEONFORK,
//! Linux 4.14). The first thread that finds the page wiped writes the next number. So a comparison
//! is one load and no system call, takes no lock that a thread of the parent may have held, and
//! works for every kind of fork, also one that bypasses the C library.

#![allow(unsafe_code, reason = "a page is mapped that the kernel wipes in a forked child")]

use std::io;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// The page with the mark of this process. Null before the first use.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// Replaces the page if the kernel provides none. The mark is then the process id, which costs a
/// system call.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

/// The last mark assigned. A child has a copy, so its marks are above those of its parents.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Identifies the process that created an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessMark(u64);

impl ProcessMark {
    /// The mark of this process.
    #[inline]
    pub(crate) fn current() -> ProcessMark {
        let page = PAGE.load(Acquire);
        if page.is_null() {
            return ProcessMark::init();
        }
        // SAFETY: PAGE is null, or points to a static or to the start of a page that is never
        // unmapped. Both are accessed as atomics only.
        ProcessMark::read(unsafe { &*page })
    }

    /// Whether this is the process that the mark was taken in, and not a child of it.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self == ProcessMark::current()
    }

    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if this is not the process that the mark was
    /// taken in.
    pub(crate) fn check(self) -> io::Result<()> {
        if self.is_current() { Ok(()) } else { Err(inherited()) }
    }

    #[inline]
    fn read(page: &AtomicU64) -> ProcessMark {
        match page.load(Relaxed) {
            0 => ProcessMark::assign(page),
            mark => ProcessMark(mark),
        }
    }

    /// Assigns a mark to a process without one.
    #[cold]
    fn assign(page: &AtomicU64) -> ProcessMark {
        if ptr::eq(page, &NO_PAGE) {
            return ProcessMark(process::id().into());
        }
        let next = LAST.fetch_add(1, Relaxed) + 1;
        // Another thread may have been faster.
        ProcessMark(page.compare_exchange(0, next, Relaxed, Relaxed).err().unwrap_or(next))
    }

    #[cold]
    fn init() -> ProcessMark {
        let page = map_page().unwrap_or((&raw const NO_PAGE).cast_mut());
        // Of two concurrent threads, one leaks its page. A lock could be held across a fork.
        let existing = PAGE.compare_exchange(ptr::null_mut(), page, Release, Acquire).err();
        // SAFETY: same as in `current`.
        ProcessMark::read(unsafe { &*existing.unwrap_or(page) })
    }
}

/// One value per process. A forked child creates its own, and never touches the inherited copy,
/// which a thread of the parent may have been changing.
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<(ProcessMark, T)>);

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value of this process, created by `make` on the first call.
    pub(crate) fn get(&'static self, make: impl Fn() -> T) -> &'static T {
        loop {
            let existing = self.0.load(Acquire);
            // SAFETY: the pointer is null, or was leaked below and is never freed.
            match unsafe { existing.as_ref() } {
                Some((process, value)) if process.is_current() => return value,
                _ => {}
            }
            let created = Box::into_raw(Box::new((ProcessMark::current(), make())));
            if self.0.compare_exchange(existing, created, Release, Relaxed).is_err() {
                // SAFETY: it was allocated above, and no other thread has seen it, since another
                // thread was faster.
                drop(unsafe { Box::from_raw(created) });
            }
        }
    }
}

#[cold]
fn inherited() -> io::Error {
    let message = "the event loop belongs to the process that created it; a forked child makes its own";
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// A page of zeros that is wiped to zeros in each child.
fn map_page() -> Option<*mut AtomicU64> {
    // The kernel rounds up to its page size.
    const LENGTH: usize = 4096;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), LENGTH, access, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: the page was mapped above and is still empty. It is aligned for any type, and zeros
    // are a valid AtomicU64.
    unsafe { rustix::mm::madvise(page, LENGTH, Advice::LinuxWipeOnFork) }.ok()?;
    Some(page.cast())
}
