//! The doorbells of a shared ring: how a side wakes its sleeping peer.
//!
//! Both processes hold each eventfd, and with it one open file description. Either of them can
//! clear `O_NONBLOCK` on it and bring the counter to its maximum, so that a write sleeps until a
//! reader drains it. The kernel has no non-blocking flag for a single write to an eventfd, but it
//! has one for a read (`RWF_NOWAIT`, preadv2(2)). So the default bell is a semaphore whose counter
//! no process can exhaust, and it is rung by taking 1 from the counter. Each read wakes the waiters
//! for writability of the eventfd, which is an edge for an edge-triggered poll. The poll also
//! watches for readability, which always holds: so the edge is reported even if a write of the
//! peer's has made the counter full again by then.
//!
//! Alternatives, tried or ruled out: A socket pair has to be drained, and a receive closes
//! descriptors that the peer may have attached, which can sleep. A pipe is locked while another
//! process copies into it, and that process's memory may be slow on purpose. Setting a timerfd
//! never sleeps, but took 20 times as long as this (4.5 µs).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;

use super::descriptors::set_cloexec;
use crate::eventfd::EventFd;
use crate::readiness::Interest;

/// Initial counter of a [`NeverBlocks`](Doorbell::NeverBlocks) bell. At ten million rings a second
/// it lasts thirty thousand years.
const START: u64 = 1 << 63;

/// How the two ends of a [`SharedRing`](crate::ipc::SharedRing) wake each other.
///
/// Both ends must use the same kind: the memory states it, and
/// [`from_descriptors`](crate::ipc::SharedRing::from_descriptors) rejects the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doorbell {
    /// Eventfds rung by a read with `RWF_NOWAIT`, which never sleeps, whatever the peer does to the
    /// descriptor or the counter. The default. Needs Linux 5.8.
    #[default]
    NeverBlocks,
    /// Eventfds rung by a write, for trusted peers that expect a plain counter (KVM's ioeventfd and
    /// irqfd, vhost). If a peer clears `O_NONBLOCK` and fills the counter, the next ring sleeps
    /// until the counter is read.
    Plain,
}

/// An eventfd that one side watches and the other side rings.
#[derive(Debug)]
pub(crate) struct Bell {
    eventfd: EventFd,
    kind: Doorbell,
}

impl Bell {
    pub(super) fn new(kind: Doorbell) -> io::Result<Bell> {
        let eventfd = match kind {
            Doorbell::Plain => EventFd::new(0)?,
            Doorbell::NeverBlocks => {
                // An eventfd built from a descriptor counts as possibly blocking, so it is read
                // only with `RWF_NOWAIT`.
                let eventfd = EventFd::builder().initial(1).semaphore().build()?;
                let eventfd = EventFd::from(OwnedFd::from(eventfd));
                // Fails if the kernel does not support it.
                eventfd.try_read()?;
                eventfd.write(START)?;
                eventfd
            }
        };
        Ok(Bell { eventfd, kind })
    }

    /// Makes a bell of an eventfd that [`check_is_eventfd`] has checked. Checks its kind, and sets
    /// it to close on exec.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is of another kind, or cannot be both
    /// read and written.
    pub(super) fn from_descriptor(descriptor: OwnedFd, kind: Doorbell) -> io::Result<Bell> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        if flags & OFlags::ACCMODE != OFlags::RDWR {
            return refused("the eventfd of a bell cannot be both read and written");
        }
        let eventfd = EventFd::from(descriptor);
        match kind {
            Doorbell::Plain => {
                if !flags.contains(OFlags::NONBLOCK) {
                    return refused("the eventfd of a bell blocks: ringing it could sleep");
                }
            }
            Doorbell::NeverBlocks => match eventfd.is_semaphore() {
                Ok(true) if eventfd.counter()? > START / 2 => {}
                Ok(true) => return refused("the eventfd of a bell has been emptied"),
                Ok(false) => return refused("the eventfd of a bell is not a semaphore"),
                // The kernel does not report it. The first ring fails if it is not a semaphore.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            },
        }
        set_cloexec(&eventfd)?;
        Ok(Bell { eventfd, kind })
    }

    /// Wakes the side that watches the bell. Never sleeps, unless the bell is
    /// [plain](Doorbell::Plain) and the peer has made it blocking and full.
    pub(super) fn ring(&self) -> io::Result<()> {
        match self.kind {
            Doorbell::NeverBlocks => match self.eventfd.try_read()? {
                1 => Ok(()),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the eventfd is not a semaphore")),
            },
            Doorbell::Plain => match self.eventfd.write(1) {
                // Full, so it is readable already. This happens only if the peer writes large
                // numbers.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                result => result,
            },
        }
    }

    /// The interest to poll for. Each ring is a new edge.
    pub(crate) fn interest(&self) -> Interest {
        match self.kind {
            Doorbell::NeverBlocks => Interest::READABLE | Interest::WRITABLE,
            Doorbell::Plain => Interest::READABLE,
        }
    }

    /// The system-wide unique id of the eventfd; 0 if the kernel does not report it.
    pub(super) fn id(&self) -> io::Result<u64> {
        Ok(self.eventfd.id()?.unwrap_or(0))
    }

    /// The number of rings so far, unless the peer has manipulated the counter.
    #[cfg(test)]
    pub(super) fn rings(&self) -> u64 {
        let counter = self.eventfd.counter().unwrap();
        if self.kind == Doorbell::Plain { counter } else { START - counter }
    }

    #[cfg(test)]
    pub(super) fn unchecked(eventfd: EventFd) -> Bell {
        Bell { eventfd, kind: Doorbell::NeverBlocks }
    }

    #[cfg(test)]
    pub(super) fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    pub(super) fn try_clone_to_owned(&self) -> io::Result<OwnedFd> {
        self.eventfd.as_fd().try_clone_to_owned()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// Sleeps until a bell is rung, for an end without a loop.
///
/// Uses an epoll instance because the bell is never reset: only an edge reports a ring.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    epoll: Option<OwnedFd>,
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Sleeper {
    /// Ensures that every ring from now on ends a [`sleep`](Sleeper::sleep). Rings before the first
    /// call are not reported.
    pub(super) fn prepare(&mut self, bell: &Bell) -> io::Result<()> {
        if self.epoll.is_some() {
            return Ok(());
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = match bell.kind {
            Doorbell::NeverBlocks => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Doorbell::Plain => epoll::EventFlags::IN,
        };
        epoll::add(&epoll, bell, epoll::EventData::new_u64(0), edge | epoll::EventFlags::ET)?;
        consume_edge(&epoll)?;
        self.epoll = Some(epoll);
        Ok(())
    }

    /// Sleeps until the bell is rung, or returns at once if it was rung since the last sleep.
    /// Returns at the deadline.
    pub(super) fn sleep(&self, deadline: Option<Instant>) -> io::Result<()> {
        let epoll = self.epoll.as_ref().expect("prepared");
        let poll = || {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            rustix::event::poll(&mut [PollFd::new(epoll, PollFlags::IN)], left.as_ref())
        };
        if retry_on_intr(poll)? > 0 {
            consume_edge(epoll)?;
        }
        Ok(())
    }

    /// Whether the next sleep would return at once.
    #[cfg(test)]
    pub(super) fn is_rung(&self) -> bool {
        let epoll = self.epoll.as_ref().expect("prepared");
        rustix::event::poll(&mut [PollFd::new(epoll, PollFlags::IN)], Some(&NOW)).unwrap() > 0
    }
}

/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not an eventfd; the error of readlink(2)
/// on /proc.
pub(super) fn check_is_eventfd(descriptor: &OwnedFd) -> io::Result<()> {
    // Checked by its link name: reading the fdinfo of another file type may need a lock that the
    // peer holds.
    let link = format!("/proc/thread-self/fd/{}", descriptor.as_raw_fd());
    match fs::read_link(link)?.as_os_str() == "anon_inode:[eventfd]" {
        true => Ok(()),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor of a bell is not an eventfd"))
        }
    }
}

fn consume_edge(epoll: &OwnedFd) -> io::Result<()> {
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    retry_on_intr(|| epoll::wait(epoll, &mut events, Some(&NOW)))?;
    Ok(())
}
