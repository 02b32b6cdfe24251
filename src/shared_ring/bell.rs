//! The bells of a shared ring: how a side that sleeps is woken, and how the other side wakes it.
//!
//! Both processes have each eventfd, and with it one open file description: either of them can clear `O_NONBLOCK` there and
//! bring the counter to its maximum, so that a write sleeps until somebody reads. The kernel has no write to an eventfd that
//! refuses to sleep, but it has such a read (`RWF_NOWAIT`, preadv2(2)). So the default bell is a semaphore with a counter that
//! no process can use up, and is rung by taking 1 from it. Each read wakes those that wait for the eventfd to be writable, which
//! is an edge for an edge-triggered poll. The poll watches for readable as well, which the eventfd always is: so the edge is
//! reported even if a writer of the peer's has made the counter full again by then.
//!
//! Other mechanisms were tried or ruled out. A pair of sockets has to be emptied, and a receive closes the descriptors that the
//! peer may have sent along, which can sleep. A pipe is locked for as long as another process copies into it, and its memory
//! may be slow on purpose. Setting a timerfd never sleeps, and took 20 times as long as this (4.5 µs).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;

use super::descriptors::not_inherited;
use crate::eventfd::EventFd;
use crate::readiness::Interest;

/// What the counter of a [`NeverBlocks`](Doorbell::NeverBlocks) bell starts at. At ten million rings a second it lasts for
/// thirty thousand years.
const START: u64 = 1 << 63;

/// How the two ends of a [`SharedRing`](crate::SharedRing) wake each other.
///
/// Both ends have to use the same kind: the memory says which it is, and the end that is given it refuses the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doorbell {
    /// Eventfds that are rung by a read with `RWF_NOWAIT`, which never sleeps, whatever the peer does to the descriptor or the
    /// counter. The default. Needs Linux 5.8.
    #[default]
    NeverBlocks,
    /// Eventfds that are rung by a write, for peers that are trusted and expect a plain counter (KVM's ioeventfd and irqfd,
    /// vhost). A peer that clears `O_NONBLOCK` and fills the counter makes the next ring sleep until somebody reads.
    Plain,
}

/// An eventfd that one side watches and the other side rings.
#[derive(Debug)]
pub(crate) struct Bell {
    eventfd: EventFd,
    kind: Doorbell,
}

impl Bell {
    pub(super) fn make(kind: Doorbell) -> io::Result<Bell> {
        let eventfd = match kind {
            Doorbell::Plain => EventFd::new(0)?,
            Doorbell::NeverBlocks => {
                // Made anew of its descriptor it counts as one that may block, and is never read in another way.
                let eventfd = EventFd::builder().initial(1).semaphore().build()?;
                let eventfd = EventFd::from(OwnedFd::from(eventfd));
                // Finds out whether this kernel can do it.
                eventfd.try_read()?;
                eventfd.write(START)?;
                eventfd
            }
        };
        Ok(Bell { eventfd, kind })
    }

    /// Checks an eventfd, as [`check_is_eventfd`] has found it to be, that is to be a bell of this kind, and makes sure that no program
    /// started from here inherits it.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is not of this kind, or cannot be read and written.
    pub(super) fn take(descriptor: OwnedFd, kind: Doorbell) -> io::Result<Bell> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        if flags & OFlags::ACCMODE != OFlags::RDWR {
            return refused("the eventfd of a bell cannot be both read and written");
        }
        let eventfd = EventFd::from(descriptor);
        match kind {
            Doorbell::Plain => {
                if !flags.contains(OFlags::NONBLOCK) {
                    return refused("the eventfd of a bell blocks, and whoever rings it could be kept");
                }
            }
            Doorbell::NeverBlocks => match eventfd.is_semaphore() {
                Ok(true) if eventfd.counter()? > START / 2 => {}
                Ok(true) => return refused("the eventfd of a bell has been emptied"),
                Ok(false) => return refused("the eventfd of a bell is not a semaphore"),
                // The kernel does not tell. The first ring does.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            },
        }
        not_inherited(&eventfd)?;
        Ok(Bell { eventfd, kind })
    }

    /// Wakes the side that watches it. Never sleeps, unless it is [plain](Doorbell::Plain) and the peer breaks the rules.
    pub(super) fn ring(&self) -> io::Result<()> {
        match self.kind {
            Doorbell::NeverBlocks => match self.eventfd.try_read()? {
                1 => Ok(()),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the eventfd is not a semaphore")),
            },
            Doorbell::Plain => match self.eventfd.write(1) {
                // Full, so it is readable. It takes a peer that writes numbers there itself.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                result => result,
            },
        }
    }

    /// What a poll has to watch for. Each ring is a new edge.
    pub(crate) fn interest(&self) -> Interest {
        match self.kind {
            Doorbell::NeverBlocks => Interest::READABLE | Interest::WRITABLE,
            Doorbell::Plain => Interest::READABLE,
        }
    }

    /// The number that no other eventfd of the system has, 0 if the kernel does not tell.
    pub(super) fn id(&self) -> io::Result<u64> {
        Ok(self.eventfd.id()?.unwrap_or(0))
    }

    /// How often it has been rung, by this kind's own rules.
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
/// An epoll instance of its own, since the bell is never reset: only an edge says that it was rung.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    epoll: Option<OwnedFd>,
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Sleeper {
    /// Makes sure that a ring from now on ends a [`sleep`](Sleeper::sleep). Rings before the first call are not reported.
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
        take_edge(&epoll)?;
        self.epoll = Some(epoll);
        Ok(())
    }

    /// Sleeps until the bell that it was prepared for is rung, or has been since the last sleep, or the deadline has come.
    pub(super) fn sleep(&self, deadline: Option<Instant>) -> io::Result<()> {
        let epoll = self.epoll.as_ref().expect("prepared");
        let poll = || {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            rustix::event::poll(&mut [PollFd::new(epoll, PollFlags::IN)], left.as_ref())
        };
        if retry_on_intr(poll)? > 0 {
            take_edge(epoll)?;
        }
        Ok(())
    }

    /// Whether the next sleep ends at once.
    #[cfg(test)]
    pub(super) fn is_rung(&self) -> bool {
        let epoll = self.epoll.as_ref().expect("prepared");
        rustix::event::poll(&mut [PollFd::new(epoll, PollFlags::IN)], Some(&NOW)).unwrap() > 0
    }
}

/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is no eventfd; what the kernel says if it does not show the descriptor.
pub(super) fn check_is_eventfd(descriptor: &OwnedFd) -> io::Result<()> {
    // By its name first: what the kernel shows of other kinds may need a lock that the peer holds.
    let link = format!("/proc/thread-self/fd/{}", descriptor.as_raw_fd());
    match fs::read_link(link)?.as_os_str() == "anon_inode:[eventfd]" {
        true => Ok(()),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor of a bell is not an eventfd"))
        }
    }
}

fn take_edge(epoll: &OwnedFd) -> io::Result<()> {
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    retry_on_intr(|| epoll::wait(epoll, &mut events, Some(&NOW)))?;
    Ok(())
}
