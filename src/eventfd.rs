//! A counter in the kernel that can be waited for.

use std::fmt;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

/// A 64-bit counter in the kernel, behind a file descriptor: one side adds to it, the other waits for it to
/// be more than 0 and reads it.
///
/// It is the lightest way to wake a thread that sleeps in a poll, and what the kernel itself signals from
/// inside (a completion of an io_uring or AIO request, a guest's doorbell, a memory threshold). It carries a
/// count and nothing else, so many signals read as one.
///
/// | | plain | [semaphore](EventFdBuilder::semaphore) |
/// |---|---|---|
/// | [`write(n)`](EventFd::write) | adds `n` | adds `n` |
/// | [`read()`](EventFd::read) of a counter above 0 | gives the counter, makes it 0 | gives 1, subtracts 1 |
///
/// A read of 0 and a write that would pass [`MAX`](EventFd::MAX) fail with
/// [`WouldBlock`](io::ErrorKind::WouldBlock); in a [blocking](EventFdBuilder::blocking) one they sleep. To a
/// poll it is readable while the counter is above 0 and writable while 1 can be added. Edge-triggered, every
/// write that leaves it above 0 is a new edge, read or not.
///
/// From any thread: each call is one system call, which the kernel makes atomic.
///
/// Whether it blocks belongs to the open file description. A process that is given the descriptor can make it blocking for
/// all that have it, and fill or empty the counter. [`try_read`](EventFd::try_read) and [`watch`](EventFd::watch) do not sleep
/// then; [`read`](EventFd::read), [`write`](EventFd::write) and [`signal`](EventFd::signal) may.
///
/// # Examples
/// ```
/// use reveille::EventFd;
/// use std::io::ErrorKind;
///
/// let eventfd = EventFd::new(0)?;
/// eventfd.signal()?;
/// eventfd.write(4)?;
/// assert_eq!(eventfd.read()?, 5);
/// assert_eq!(eventfd.read().unwrap_err().kind(), ErrorKind::WouldBlock);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct EventFd {
    fd: OwnedFd,
    /// Whether it was made here to be non-blocking. What came from elsewhere may be either.
    never_sleeps: bool,
    /// Whether it was made here to be plain, so that one read empties it.
    is_plain: bool,
}

impl EventFd {
    /// The most a write can bring the counter to.
    ///
    /// One more is only ever reached by signals from inside the kernel, which does not wait for room; a poll
    /// then reports an error besides readable.
    pub const MAX: u64 = u64::MAX - 1;

    /// A plain eventfd, non-blocking and closed on exec, whose counter starts at `initial`.
    ///
    /// # Errors
    /// As [`EventFdBuilder::build`].
    pub fn new(initial: u32) -> io::Result<EventFd> {
        EventFd::builder().initial(initial).build()
    }

    /// For an eventfd that blocks, counts as a semaphore, or outlives an exec.
    pub fn builder() -> EventFdBuilder {
        EventFdBuilder { initial: 0, flags: EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC }
    }

    /// Takes from the counter: all of it, or 1 from a semaphore. The result is never 0.
    ///
    /// Makes room for writers that sleep.
    ///
    /// # Errors
    /// - [`WouldBlock`](io::ErrorKind::WouldBlock) (EAGAIN) if the counter is 0. A blocking eventfd sleeps
    ///   instead until it is not; a signal handled meanwhile (EINTR) does not end the call.
    /// - [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor this was made from is no eventfd and
    ///   gave fewer than eight bytes, which are lost; or what the kernel says to a descriptor that cannot be
    ///   read.
    pub fn read(&self) -> io::Result<u64> {
        let mut counter = [0; size_of::<u64>()];
        let n = retry_on_intr(|| rustix::io::read(&self.fd, &mut counter))?;
        if n == counter.len() { Ok(u64::from_ne_bytes(counter)) } else { Err(not_an_eventfd()) }
    }

    /// As [`read`](EventFd::read), but does not sleep in a blocking eventfd either.
    ///
    /// The call itself says so to the kernel (`RWF_NOWAIT`, preadv2(2)), hence without a gap in which another
    /// reader could be first, and also for an eventfd that another process has made blocking meanwhile.
    ///
    /// # Errors
    /// As [`read`](EventFd::read), with [`WouldBlock`](io::ErrorKind::WouldBlock) (EAGAIN) if the counter is 0,
    /// whatever the mode; [`Unsupported`](io::ErrorKind::Unsupported) (EOPNOTSUPP) of a blocking one on a kernel
    /// that cannot do it, before Linux 5.8.
    pub fn try_read(&self) -> io::Result<u64> {
        let mut counter = [0; size_of::<u64>()];
        // The offset stands for none: an eventfd has no position.
        let read = || {
            let mut slices = [IoSliceMut::new(&mut counter)];
            rustix::io::preadv2(&self.fd, &mut slices, u64::MAX, ReadWriteFlags::NOWAIT)
        };
        let n = match retry_on_intr(read) {
            Err(Errno::OPNOTSUPP) if self.never_sleeps => return self.read(),
            result => result?,
        };
        if n == counter.len() { Ok(u64::from_ne_bytes(counter)) } else { Err(not_an_eventfd()) }
    }

    /// Whether one read is known to empty it; not so of a semaphore, nor of one that came from elsewhere.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Adds `n` to the counter.
    ///
    /// Adding 0 succeeds and wakes no reader; to an edge-triggered poll it is an edge while the counter is above 0.
    ///
    /// # Errors
    /// - [`WouldBlock`](io::ErrorKind::WouldBlock) (EAGAIN) if the counter would pass [`MAX`](EventFd::MAX);
    ///   nothing is added. A blocking eventfd sleeps instead until reads have made room; a signal handled
    ///   meanwhile (EINTR) does not end the call.
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) (EINVAL) if `n` is `u64::MAX`.
    /// - [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor this was made from is no eventfd and
    ///   took fewer than eight bytes; or what the kernel says to a descriptor that cannot be written.
    pub fn write(&self, n: u64) -> io::Result<()> {
        let bytes = n.to_ne_bytes();
        let written = retry_on_intr(|| rustix::io::write(&self.fd, &bytes))?;
        if written == bytes.len() { Ok(()) } else { Err(not_an_eventfd()) }
    }

    /// Makes sure that the counter is above 0, by adding 1 if there is room.
    ///
    /// A counter that is full has been signalled already, so that is no error here, and nothing to wait for: of a
    /// blocking eventfd, or one that came from elsewhere, it is asked first whether there is room (poll(2)), one
    /// system call more. The kernel has no write that refuses to sleep (`RWF_NOWAIT` is EOPNOTSUPP for an
    /// eventfd), so between the two another writer could still fill the counter. It would take one that writes
    /// numbers, since signals alone do not come to [`MAX`](EventFd::MAX).
    ///
    /// # Errors
    /// As [`write`](EventFd::write), without `WouldBlock` and `InvalidInput`; ENOMEM if the kernel has no memory
    /// for the poll.
    pub fn signal(&self) -> io::Result<()> {
        if !self.never_sleeps && self.is_full()? {
            return Ok(());
        }
        match self.write(1) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Whether there is no room for another 1. A full counter can be read and not written; what can be neither is
    /// no eventfd, and left to the write to find out.
    fn is_full(&self) -> io::Result<bool> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::OUT)];
        retry_on_intr(|| rustix::event::poll(&mut fds, Some(&NOW)))?;
        let found = fds[0].revents();
        Ok(found.contains(PollFlags::IN) && !found.contains(PollFlags::OUT))
    }

    /// The counter, without taking from it.
    ///
    /// For diagnosis: it may be another by the time that this returns. It is what the kernel shows in
    /// `/proc/thread-self/fdinfo` (proc_pid_fdinfo(5)), so it costs the reading of a file.
    ///
    /// # Errors
    /// What the kernel says if it does not show it, with the name of the file:
    /// [`NotFound`](io::ErrorKind::NotFound) (ENOENT) where /proc is not mounted, EMFILE if the process has no
    /// descriptor left; and [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor is no eventfd.
    ///
    /// # Examples
    /// ```
    /// use reveille::EventFd;
    ///
    /// let eventfd = EventFd::new(3)?;
    /// eventfd.signal()?;
    /// assert_eq!(eventfd.counter()?, 4);
    /// assert_eq!(eventfd.counter()?, 4);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn counter(&self) -> io::Result<u64> {
        let count = self.shown("eventfd-count")?.ok_or_else(not_an_eventfd)?;
        u64::from_str_radix(&count, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Whether it counts as a semaphore, so that a read takes 1.
    ///
    /// Also known of one that came from elsewhere, as it is the kernel that tells, as for
    /// [`counter`](EventFd::counter).
    ///
    /// # Errors
    /// As [`counter`](EventFd::counter); [`Unsupported`](io::ErrorKind::Unsupported) if the kernel does not tell,
    /// as those before Linux 6.5.
    pub fn is_semaphore(&self) -> io::Result<bool> {
        match self.shown("eventfd-semaphore")?.as_deref() {
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            _ => {
                self.counter()?;
                Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel does not tell semaphores apart"))
            }
        }
    }

    /// The number that no other eventfd of the system has while this one is there, if the kernel tells: since Linux 5.2.
    ///
    /// # Errors
    /// As [`counter`](EventFd::counter).
    pub(crate) fn id(&self) -> io::Result<Option<u64>> {
        Ok(self.shown("eventfd-id")?.and_then(|id| id.parse().ok()))
    }

    /// What the kernel shows of the descriptor under `name`, if it does.
    fn shown(&self, name: &str) -> io::Result<Option<String>> {
        // A thread may have a table of descriptors of its own.
        let path = format!("/proc/thread-self/fdinfo/{}", self.fd.as_raw_fd());
        let unreadable = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot read what {path} says of the eventfd: {error}"))
        };
        let info = fs::read_to_string(&path).map_err(unreadable)?;
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        Ok(info.lines().find_map(value))
    }

    /// Another descriptor of the same counter, closed on exec.
    ///
    /// # Errors
    /// EMFILE if the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<EventFd> {
        Ok(EventFd { fd: self.fd.try_clone()?, never_sleeps: self.never_sleeps, is_plain: self.is_plain })
    }
}

/// What a descriptor says of itself that reads or writes other than eight bytes at a time.
#[cold]
fn not_an_eventfd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the descriptor is not an eventfd")
}

/// How an eventfd is to behave, made by [`EventFd::builder`].
///
/// Unless told otherwise it starts at 0, does not block, is plain, and is closed on exec.
///
/// # Examples
/// A semaphore with three permits, for threads to wait at:
/// ```
/// use reveille::EventFd;
///
/// let permits = EventFd::builder().initial(3).semaphore().blocking().build()?;
/// assert_eq!(permits.read()?, 1);
/// permits.write(1)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an eventfd exists once `build` is called"]
pub struct EventFdBuilder {
    initial: u32,
    flags: EventfdFlags,
}

impl EventFdBuilder {
    /// What the counter starts at. The kernel takes 32 bits here; more is a matter of writing.
    pub fn initial(mut self, initial: u32) -> EventFdBuilder {
        self.initial = initial;
        self
    }

    /// Lets reads sleep until there is something to read, and writes until there is room.
    pub fn blocking(mut self) -> EventFdBuilder {
        self.flags.remove(EventfdFlags::NONBLOCK);
        self
    }

    /// Lets each read take 1 from the counter instead of all of it.
    pub fn semaphore(mut self) -> EventFdBuilder {
        self.flags.insert(EventfdFlags::SEMAPHORE);
        self
    }

    /// Leaves the descriptor open in programs this process executes.
    ///
    /// That is every program, on whichever thread it is started, so only for a descriptor meant to be found
    /// there.
    pub fn inherit_on_exec(mut self) -> EventFdBuilder {
        self.flags.remove(EventfdFlags::CLOEXEC);
        self
    }

    /// Makes the eventfd.
    ///
    /// # Errors
    /// EMFILE or ENFILE if the process or the system has no descriptor left, ENOMEM if the kernel has no
    /// memory, ENODEV if it cannot mount its internal file system.
    pub fn build(self) -> io::Result<EventFd> {
        let fd = rustix::event::eventfd(self.initial, self.flags)?;
        let never_sleeps = self.flags.contains(EventfdFlags::NONBLOCK);
        let is_plain = !self.flags.contains(EventfdFlags::SEMAPHORE);
        Ok(EventFd { fd, never_sleeps, is_plain })
    }
}

/// Shows the descriptor. The counter is another matter: see [`counter`](EventFd::counter).
impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFd").field("fd", &self.fd.as_raw_fd()).finish()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// For an eventfd that came from elsewhere: inherited, or received over a Unix socket.
///
/// It keeps the mode it was made in. Whether it is an eventfd at all shows when it is used.
impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> EventFd {
        EventFd { fd, never_sleeps: false, is_plain: false }
    }
}

impl From<EventFd> for OwnedFd {
    fn from(eventfd: EventFd) -> OwnedFd {
        eventfd.fd
    }
}

#[cfg(test)]
mod tests;
