//! A thin layer over `mio::Poll`, in the types of this crate.
//!
//! mio registers every descriptor edge-triggered: it reports a readiness once, and again only after
//! the readiness has ended and begun anew. The [`ChannelTable`](crate::event_loop::channel_table)
//! caches the readiness in between; this module only translates.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::readiness::{Interest, Readiness};

/// How long a wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Poll without waiting.
    No,
    /// Until there is an event, at most until this instant.
    Until(Instant),
    /// Until there is an event.
    Forever,
}

#[derive(Debug)]
pub(crate) struct Poller {
    /// A duplicate of the poll's descriptor, because a wait borrows `poll` exclusively and
    /// registering does not need that.
    registry: mio::Registry,
    poll: RefCell<mio::Poll>,
    events: RefCell<mio::Events>,
}

impl Poller {
    /// `capacity` is the maximum number of events of one wait; the others are returned by the next
    /// one.
    pub(crate) fn new(capacity: usize) -> io::Result<Poller> {
        let poll = mio::Poll::new()?;
        Ok(Poller {
            registry: poll.registry().try_clone()?,
            poll: RefCell::new(poll),
            events: RefCell::new(mio::Events::with_capacity(capacity)),
        })
    }

    /// Starts watching `fd`. The next wait reports readiness that exists already.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for a file that epoll does not support
    /// (EPERM); otherwise the error of epoll_ctl(2).
    pub(crate) fn register(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let mut source = SourceFd(&fd);
        self.registry.register(&mut source, token(key), to_mio(interest)?).map_err(explain)
    }

    /// Changes the interest in `fd`. Existing readiness is reported again. A channel that is
    /// registered again after each callback is therefore level-triggered for its user.
    pub(crate) fn reregister(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest) -> io::Result<()> {
        self.registry.reregister(&mut SourceFd(&fd.as_raw_fd()), token(key), to_mio(interest)?)
    }

    /// Stops watching `fd`.
    pub(crate) fn deregister(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.registry.deregister(&mut SourceFd(&fd.as_raw_fd()))
    }

    /// Waits, and stores the events for [`for_each_event`](Poller::for_each_event).
    ///
    /// A signal that interrupts the wait does not end it: the wait resumes for the remaining time.
    pub(crate) fn wait(&self, wait: Wait) -> io::Result<()> {
        let (mut poll, mut events) = (self.poll.borrow_mut(), self.events.borrow_mut());
        loop {
            let timeout = match wait {
                Wait::No => Some(Duration::ZERO),
                Wait::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
                Wait::Forever => None,
            };
            match poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // One wait of the kernel lasts 24 days at most.
                Ok(()) if events.is_empty() && matches!(wait, Wait::Until(end) if end > Instant::now()) => {}
                result => return result,
            }
        }
    }

    /// Discards the events of the last wait, for a turn without a wait.
    pub(crate) fn clear_events(&self) {
        self.events.borrow_mut().clear();
    }

    /// Whether the last wait returned an event.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.borrow().is_empty()
    }

    /// Whether there are events beyond the capacity of the last wait. Makes a system call only if
    /// that wait filled it.
    pub(crate) fn has_more(&self) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_full = {
            let events = self.events.borrow();
            events.iter().count() >= events.capacity()
        };
        if !is_full {
            return false;
        }
        let ready = retry_on_intr(|| poll(&mut [PollFd::new(&self.registry, PollFlags::IN)], Some(&NOW)));
        // An error counts as readiness. The next wait then returns the error or the events.
        ready != Ok(0)
    }

    /// Calls `f` for each event of the last wait, with the key given at registration and the
    /// readiness.
    pub(crate) fn for_each_event(&self, mut f: impl FnMut(u64, Readiness)) {
        for event in self.events.borrow().iter() {
            f(event.token().0 as u64, from_mio(event));
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.registry.as_fd()
    }
}

/// Replaces the text of EPERM, which is not about permissions here.
#[cold]
fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let message = "epoll cannot watch a regular file or a directory; use FileIo for files";
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        }
        _ => error,
    }
}

fn token(key: u64) -> mio::Token {
    const { assert!(usize::BITS == 64, "a channel's key needs all 64 bits of a token") };
    mio::Token(key as usize)
}

/// mio has no empty interest: a source without interest is not registered at all.
fn to_mio(interest: Interest) -> io::Result<mio::Interest> {
    let wanted = [
        (interest.is_readable(), mio::Interest::READABLE),
        (interest.is_writable(), mio::Interest::WRITABLE),
        (interest.is_priority(), mio::Interest::PRIORITY),
    ];
    wanted
        .into_iter()
        .filter_map(|(wanted, interest)| wanted.then_some(interest))
        .reduce(|all, interest| all | interest)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty interest cannot be registered"))
}

fn from_mio(event: &mio::event::Event) -> Readiness {
    let mut readiness = Readiness::NONE;
    if event.is_readable() {
        readiness |= Readiness::READABLE;
    }
    if event.is_writable() {
        readiness |= Readiness::WRITABLE;
    }
    if event.is_read_closed() {
        readiness |= Readiness::READ_CLOSED;
    }
    if event.is_write_closed() {
        readiness |= Readiness::WRITE_CLOSED;
    }
    if event.is_error() {
        readiness |= Readiness::ERROR;
    }
    if event.is_priority() {
        readiness |= Readiness::PRIORITY;
    }
    readiness
}
