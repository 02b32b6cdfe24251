//! Tells a process from the children that fork(2) makes of it.
//!
//! A forked child has a copy of each object, and shares with its parent what the kernel keeps for them: the epoll instance, the
//! connections, the paths. So an object notes the process that makes it, and does nothing to those in any other.
//!
//! The mark of a process is a number in a page that the kernel wipes in a child (MADV_WIPEONFORK, Linux 4.14). The first that finds
//! it wiped writes the next number. So a comparison is one load and no system call, takes no lock that a thread of the parent may
//! have held, and holds for each kind of fork, also one that does not go through the C library.

#![allow(unsafe_code, reason = "a page is mapped that the kernel wipes in a forked child")]

use std::io;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Where the mark of this process is. Null before it is first wanted.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// Stands for the page where the kernel gives none. The process's number is the mark then, at the price of a system call.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

/// The last mark that was given. A child has a copy, so its marks are above those of its parents.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A process, as an object notes it that must not act in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessMark(u64);

impl ProcessMark {
    /// The mark of this process.
    #[inline]
    pub(crate) fn current() -> ProcessMark {
        let page = PAGE.load(Acquire);
        if page.is_null() {
            return ProcessMark::first();
        }
        // SAFETY: what is in PAGE, apart from null, is a static or the start of a page that is never unmapped; both are read and
        // written as atomics only.
        ProcessMark::read(unsafe { &*page })
    }

    /// Whether this is the process that has noted the mark, and not a child of it.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self == ProcessMark::current()
    }

    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if this is not the process that has noted the mark.
    pub(crate) fn check(self) -> io::Result<()> {
        if self.is_current() { Ok(()) } else { Err(inherited()) }
    }

    #[inline]
    fn read(page: &AtomicU64) -> ProcessMark {
        match page.load(Relaxed) {
            0 => ProcessMark::write(page),
            mark => ProcessMark(mark),
        }
    }

    /// The mark of a process that has none yet.
    #[cold]
    fn write(page: &AtomicU64) -> ProcessMark {
        if ptr::eq(page, &NO_PAGE) {
            return ProcessMark(process::id().into());
        }
        let next = LAST.fetch_add(1, Relaxed) + 1;
        // Another thread may have been faster.
        ProcessMark(page.compare_exchange(0, next, Relaxed, Relaxed).err().unwrap_or(next))
    }

    #[cold]
    fn first() -> ProcessMark {
        let page = map().unwrap_or((&raw const NO_PAGE).cast_mut());
        // Of two threads that come here at once one leaves an unused page behind: a lock could be held in a fork.
        let there = PAGE.compare_exchange(ptr::null_mut(), page, Release, Acquire).err();
        // SAFETY: as in `current`.
        ProcessMark::read(unsafe { &*there.unwrap_or(page) })
    }
}

/// A value that each process has one of: a forked child makes its own, and never touches the copy that it has inherited, which a
/// thread of the parent may have been in the middle of changing.
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<(ProcessMark, T)>);

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value of this process, from `make` the first time.
    pub(crate) fn get(&'static self, make: impl Fn() -> T) -> &'static T {
        loop {
            let there = self.0.load(Acquire);
            // SAFETY: what is in here, apart from null, was leaked below and is never freed.
            match unsafe { there.as_ref() } {
                Some((process, value)) if process.is_current() => return value,
                _ => {}
            }
            let made = Box::into_raw(Box::new((ProcessMark::current(), make())));
            if self.0.compare_exchange(there, made, Release, Relaxed).is_err() {
                // SAFETY: it was made above, and nothing else knows it. Another thread was faster.
                drop(unsafe { Box::from_raw(made) });
            }
        }
    }
}

#[cold]
fn inherited() -> io::Error {
    let message = "the event loop belongs to the process that has made it; a forked child makes its own";
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// A page of zeros that is zeros again in each child.
fn map() -> Option<*mut AtomicU64> {
    // The kernel rounds up to its pages.
    const LENGTH: usize = 4096;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), LENGTH, access, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: the page was mapped above, and nothing is in it yet. It is aligned for any type, and zeros are an AtomicU64.
    unsafe { rustix::mm::madvise(page, LENGTH, Advice::LinuxWipeOnFork) }.ok()?;
    Some(page.cast())
}
