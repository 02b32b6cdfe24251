//! A counter in the kernel that can be polled.

use std::fmt;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

/// A 64-bit counter in the kernel, behind a file descriptor: one side adds to it, the other waits
/// for it to be more than 0 and reads it.
///
/// It is the lightest way to wake a thread that sleeps in a poll, and the means by which the kernel
/// itself signals (a completion of an io_uring or AIO request, a guest's doorbell, a memory
/// threshold). It carries only a count, so several signals read as one.
///
/// | | plain | [semaphore](EventFdBuilder::semaphore) |
/// |---|---|---|
/// | [`write(n)`](EventFd::write) | adds `n` | adds `n` |
/// | [`read()`](EventFd::read) if above 0 | returns it, sets it to 0 | returns 1, subtracts 1 |
///
/// A read of 0 and a write that would pass [`MAX`](EventFd::MAX) fail with
/// [`WouldBlock`](io::ErrorKind::WouldBlock); in a [blocking](EventFdBuilder::blocking) one they
/// sleep. To a poll it is readable while the counter is above 0 and writable while 1 can be added.
/// Edge-triggered, every write that leaves it above 0 is a new edge, read or not.
///
/// From any thread: each call is one system call, which the kernel makes atomic.
///
/// Blocking mode belongs to the open file description. A process that receives the descriptor can
/// make it blocking for all owners, and fill or empty the counter. [`try_read`](EventFd::try_read)
/// and [`watch`](EventFd::watch) never sleep; [`read`](EventFd::read), [`write`](EventFd::write)
/// and [`signal`](EventFd::signal) may sleep then.
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
    /// Whether it was created here as non-blocking. A descriptor from elsewhere may be either.
    never_sleeps: bool,
    /// Whether it was created here as plain, so that one read empties it.
    is_plain: bool,
}

impl EventFd {
    /// The largest value that a write can set the counter to.
    ///
    /// Only signals from inside the kernel, which does not wait for space, can exceed it, by 1. A
    /// poll then reports an error besides readable.
    pub const MAX: u64 = u64::MAX - 1;

    /// Creates a plain eventfd, non-blocking and close-on-exec, whose counter starts at `initial`.
    ///
    /// # Errors
    /// Same as [`EventFdBuilder::build`].
    pub fn new(initial: u32) -> io::Result<EventFd> {
        EventFd::builder().initial(initial).build()
    }

    /// Returns a builder, for an eventfd that blocks, counts as a semaphore, or is inherited on
    /// exec.
    pub fn builder() -> EventFdBuilder {
        EventFdBuilder { initial: 0, flags: EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC }
    }

    /// Reads the counter: all of it, or 1 from a semaphore. The result is never 0.
    ///
    /// Wakes writers that sleep because the counter is full.
    ///
    /// # Errors
    /// - [`WouldBlock`](io::ErrorKind::WouldBlock) (EAGAIN) if the counter is 0. A blocking eventfd
    ///   sleeps instead until it is not; a signal handled meanwhile (EINTR) does not end the call.
    /// - [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor is no eventfd and returned
    ///   fewer than eight bytes, which are lost; the error of read(2) if it cannot be read.
    pub fn read(&self) -> io::Result<u64> {
        let mut counter = [0; size_of::<u64>()];
        let n = retry_on_intr(|| rustix::io::read(&self.fd, &mut counter))?;
        if n == counter.len() { Ok(u64::from_ne_bytes(counter)) } else { Err(not_an_eventfd()) }
    }

    /// Same as [`read`](EventFd::read), but never sleeps, even in a blocking eventfd.
    ///
    /// The call itself is non-blocking (`RWF_NOWAIT`, preadv2(2)). So another reader cannot get in
    /// between, and it works also for an eventfd that another process has made blocking meanwhile.
    ///
    /// # Errors
    /// Same as [`read`](EventFd::read), with [`WouldBlock`](io::ErrorKind::WouldBlock) (EAGAIN) if
    /// the counter is 0, in either mode; [`Unsupported`](io::ErrorKind::Unsupported) (EOPNOTSUPP)
    /// for a blocking one on a kernel before Linux 5.8, which cannot do it.
    pub fn try_read(&self) -> io::Result<u64> {
        let mut counter = [0; size_of::<u64>()];
        // The offset means the current position: an eventfd has none.
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

    /// Whether one read is known to empty it. `false` for a semaphore, and for a descriptor from
    /// elsewhere.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Adds `n` to the counter.
    ///
    /// Adding 0 succeeds and wakes no reader. To an edge-triggered poll it is an edge while the
    /// counter is above 0.
    ///
    /// # Errors
    /// - [`WouldBlock`](io::ErrorKind::WouldBlock) (EAGAIN) if the counter would pass
    ///   [`MAX`](EventFd::MAX); nothing is added. A blocking eventfd sleeps instead until reads
    ///   have lowered the counter; a signal handled meanwhile (EINTR) does not end the call.
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) (EINVAL) if `n` is `u64::MAX`.
    /// - [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor is no eventfd and accepted
    ///   fewer than eight bytes; the error of write(2) if it cannot be written.
    pub fn write(&self, n: u64) -> io::Result<()> {
        let bytes = n.to_ne_bytes();
        let written = retry_on_intr(|| rustix::io::write(&self.fd, &bytes))?;
        if written == bytes.len() { Ok(()) } else { Err(not_an_eventfd()) }
    }

    /// Makes sure that the counter is above 0, by adding 1 unless it is full.
    ///
    /// A full counter has been signalled already, so that is no error, and the call does not wait.
    /// For a blocking eventfd, or one from elsewhere, it first polls whether the counter is full
    /// (poll(2)), which is one more system call. The kernel has no non-blocking write to an eventfd
    /// (`RWF_NOWAIT` fails with EOPNOTSUPP), so another writer could fill the counter between the
    /// two. Only a writer of large numbers could, since signals alone do not reach
    /// [`MAX`](EventFd::MAX).
    ///
    /// # Errors
    /// Same as [`write`](EventFd::write), without `WouldBlock` and `InvalidInput`; ENOMEM if the
    /// kernel has no memory for the poll.
    pub fn signal(&self) -> io::Result<()> {
        if !self.never_sleeps && self.is_full()? {
            return Ok(());
        }
        match self.write(1) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Whether 1 cannot be added. A full counter is readable and not writable. A descriptor that is
    /// neither is no eventfd, and the write reports that.
    fn is_full(&self) -> io::Result<bool> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::OUT)];
        retry_on_intr(|| rustix::event::poll(&mut fds, Some(&NOW)))?;
        let found = fds[0].revents();
        Ok(found.contains(PollFlags::IN) && !found.contains(PollFlags::OUT))
    }

    /// Returns the counter without changing it.
    ///
    /// For diagnosis: the value may be outdated when this returns. It is read from
    /// `/proc/thread-self/fdinfo` (proc_pid_fdinfo(5)), so it costs reading a file.
    ///
    /// # Errors
    /// The error of reading that file, with its name: [`NotFound`](io::ErrorKind::NotFound)
    /// (ENOENT) if /proc is not mounted, EMFILE if the process has no free descriptor;
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor is no eventfd.
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
    /// Also available for a descriptor from elsewhere, since the kernel reports it, the same as
    /// [`counter`](EventFd::counter).
    ///
    /// # Errors
    /// Same as [`counter`](EventFd::counter); [`Unsupported`](io::ErrorKind::Unsupported) if the
    /// kernel does not report it, before Linux 6.5.
    pub fn is_semaphore(&self) -> io::Result<bool> {
        match self.shown("eventfd-semaphore")?.as_deref() {
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            _ => {
                self.counter()?;
                Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this kernel does not report whether an eventfd is a semaphore",
                ))
            }
        }
    }

    /// Returns the eventfd's id, which is unique in the system while this one exists, if the kernel
    /// reports it: since Linux 5.2.
    ///
    /// # Errors
    /// Same as [`counter`](EventFd::counter).
    pub(crate) fn id(&self) -> io::Result<Option<u64>> {
        Ok(self.shown("eventfd-id")?.and_then(|id| id.parse().ok()))
    }

    /// The value of the field `name` in the descriptor's fdinfo, if it exists.
    fn shown(&self, name: &str) -> io::Result<Option<String>> {
        // A thread may have a descriptor table of its own.
        let path = format!("/proc/thread-self/fdinfo/{}", self.fd.as_raw_fd());
        let unreadable = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot read the state of the eventfd in {path}: {error}"))
        };
        let info = fs::read_to_string(&path).map_err(unreadable)?;
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        Ok(info.lines().find_map(value))
    }

    /// Creates another descriptor of the same counter, close-on-exec.
    ///
    /// # Errors
    /// EMFILE if the process has no free descriptor.
    pub fn try_clone(&self) -> io::Result<EventFd> {
        Ok(EventFd { fd: self.fd.try_clone()?, never_sleeps: self.never_sleeps, is_plain: self.is_plain })
    }
}

/// The error for a descriptor that reads or writes other than eight bytes at a time.
#[cold]
fn not_an_eventfd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the descriptor is not an eventfd")
}

/// The settings of an eventfd, from [`EventFd::builder`].
///
/// Default: starts at 0, non-blocking, plain, close-on-exec.
///
/// # Examples
/// A semaphore with three permits:
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
    /// Sets the initial value of the counter. The kernel takes 32 bits here; larger values have to
    /// be written. Default: 0.
    pub fn initial(mut self, initial: u32) -> EventFdBuilder {
        self.initial = initial;
        self
    }

    /// Makes reads sleep while the counter is 0, and writes while it is full.
    pub fn blocking(mut self) -> EventFdBuilder {
        self.flags.remove(EventfdFlags::NONBLOCK);
        self
    }

    /// Makes each read take 1 from the counter instead of all of it.
    pub fn semaphore(mut self) -> EventFdBuilder {
        self.flags.insert(EventfdFlags::SEMAPHORE);
        self
    }

    /// Leaves the descriptor open in programs that this process executes.
    ///
    /// This applies to every program, started on any thread, so use it only for a descriptor that
    /// those programs expect.
    pub fn inherit_on_exec(mut self) -> EventFdBuilder {
        self.flags.remove(EventfdFlags::CLOEXEC);
        self
    }

    /// Creates the eventfd.
    ///
    /// # Errors
    /// EMFILE or ENFILE if the process or the system has no free descriptor, ENOMEM if the kernel
    /// has no memory, ENODEV if it cannot mount its internal file system.
    pub fn build(self) -> io::Result<EventFd> {
        let fd = rustix::event::eventfd(self.initial, self.flags)?;
        let never_sleeps = self.flags.contains(EventfdFlags::NONBLOCK);
        let is_plain = !self.flags.contains(EventfdFlags::SEMAPHORE);
        Ok(EventFd { fd, never_sleeps, is_plain })
    }
}

/// Shows the descriptor, not the counter: see [`counter`](EventFd::counter).
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

/// For an eventfd from elsewhere: inherited, or received over a Unix socket.
///
/// Its mode does not change. A descriptor that is no eventfd causes errors on use.
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
