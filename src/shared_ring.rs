//! Messages between two processes through shared memory, with doorbells that wake a sleeping peer.

mod bell;
mod consumer;
mod descriptors;
mod error;
mod event_index;
mod layout;
mod memory;
mod producer;
mod record;
pub(crate) mod source;

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub(crate) use self::bell::Bell;
pub use self::bell::Doorbell;
use self::bell::Sleeper;
use self::consumer::Consumer;
pub use self::error::{RingError, RingSendError};
use self::layout::{Layout, Side};
use self::memory::Memory;
use self::producer::Producer;
use crate::net::disposal::close_descriptors;

/// Number of descriptors passed to the other process: the memory, the creator's bell, and the other
/// process's bell.
const DESCRIPTORS: usize = 3;

/// Descriptors of unknown kind, received from the peer. A drop closes them where a blocking close
/// delays no caller.
struct Unchecked(Vec<OwnedFd>);

impl Drop for Unchecked {
    fn drop(&mut self) {
        close_descriptors(mem::take(&mut self.0));
    }
}

/// One end of a link between two processes: two message rings in shared memory, one per direction,
/// and two [eventfds](crate::EventFd) as doorbells.
///
/// One process writes a message into the memory and the other copies it out, without a system call.
/// The doorbell is rung only if the other side sleeps or has announced that it will, once per
/// sleep. So under load a message costs only its copies, and an idle process sleeps. Virtio queues
/// notify in the same way (*kick* and *call*), with event indices that suppress unneeded
/// notifications (VIRTIO 1.2, section 2.7).
///
/// Messages keep their order and their boundaries, and none is lost while both processes live. A
/// message may be empty; [`max_message_len`](SharedRing::max_message_len) is the longest.
///
/// # With and without a loop
/// [`watch`](SharedRing::watch) and [`serve`](SharedRing::serve) bind the end to a loop, which
/// calls a callback for each message. Without a loop, one thread at a time may
/// [`send`](SharedRing::send) and [`receive`](SharedRing::receive), and [`wait`](SharedRing::wait)
/// when it is idle. A side that never waits is never signalled.
///
/// # How the other process gets its end
/// [`create`](SharedRing::create) returns this end and three descriptors. They are passed to the
/// other process over a Unix socket
/// ([`TcpConnection::send_with_descriptors`](crate::TcpConnection::send_with_descriptors), or
/// `SCM_RIGHTS` directly, unix(7)), where [`from_descriptors`](SharedRing::from_descriptors) builds
/// the other end from them. A link has exactly two ends. Passing the descriptors to a third process
/// breaks it with a [`RingError`].
///
/// Keep the socket open on both sides, and watch it. A process that dies rings no bell; the other
/// one detects it because the socket is closed (`examples/doorbell` shows this). Dropping an end
/// does not notify the peer either, and messages that it has not read are lost.
///
/// # Trust
/// The peer is not trusted. It may write anything into the memory at any time. The effects are
/// limited: it can cause a [`RingError`], which ends the link, or missing or superfluous doorbells,
/// which cost time. The size of the memory is sealed and checked, so no access faults. Each
/// position and each length is read once and checked against this end's own state. A message is
/// copied once, before any of its bytes is examined. Validating the content is up to the receiver,
/// as with a socket.
///
/// Nor can the peer block a call. Both processes share the eventfds, so the peer can make them
/// blocking, empty or full at any time. Ringing a [default](Doorbell::NeverBlocks) bell does not
/// sleep in any of these states, and the bell is read in no other way. A bell that the peer has
/// emptied ends the link. [`Doorbell::Plain`] is for trusted peers: ringing it is a write, which
/// sleeps if the peer has made the eventfd blocking and full.
///
/// # Examples
/// Both ends in one process, for brevity:
/// ```
/// use reveille::EventLoop;
/// use reveille::ipc::SharedRing;
///
/// let (mut here, descriptors) = SharedRing::create(64 * 1024)?;
/// let there = SharedRing::from_descriptors(descriptors, 64 * 1024)?;
///
/// let event_loop = EventLoop::new()?;
/// let _there = there.watch(&event_loop, |ring, message| {
///     assert_eq!(message, b"ping");
///     ring.send(b"pong").unwrap();
///     ring.event_loop().quit();
/// })?;
/// here.send(b"ping")?;
/// event_loop.run()?;
///
/// let mut message = Vec::new();
/// assert!(here.receive(&mut message)?);
/// assert_eq!(message, b"pong");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SharedRing {
    link: Link,
    bell: Bell,
    sleeper: Sleeper,
}

impl SharedRing {
    /// Creates the memory and the bells. Returns this process's end, and the descriptors for the
    /// other process.
    ///
    /// `capacity` is the size of each ring in bytes, rounded up to a power of two, at least 64. A
    /// message occupies its length, rounded up to a multiple of eight, plus eight bytes.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if `capacity` is more than 1 GiB.
    /// - EMFILE or ENFILE if the process or the system has no free descriptor; ENOMEM.
    /// - [`NotFound`](io::ErrorKind::NotFound) if /proc is not mounted, as in
    ///   [`EventFd::counter`](crate::EventFd::counter).
    /// - [`Unsupported`](io::ErrorKind::Unsupported) before Linux 5.8, which lacks the bell that
    ///   never blocks.
    pub fn create(capacity: usize) -> io::Result<(SharedRing, Vec<OwnedFd>)> {
        SharedRing::create_with(capacity, Doorbell::default())
    }

    /// Same as [`create`](SharedRing::create), with bells of the given kind.
    ///
    /// # Errors
    /// Same as [`create`](SharedRing::create).
    ///
    /// # Examples
    /// ```
    /// use reveille::ipc::{Doorbell, SharedRing};
    ///
    /// let (mut here, descriptors) = SharedRing::create_with(4096, Doorbell::Plain)?;
    /// let mut there = SharedRing::from_descriptors_with(descriptors, 4096, Doorbell::Plain)?;
    /// here.send("between processes that trust each other")?;
    /// assert!(there.receive(&mut Vec::new())?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create_with(capacity: usize, doorbell: Doorbell) -> io::Result<(SharedRing, Vec<OwnedFd>)> {
        let capacity = layout::capacity_for(capacity)?;
        let file = descriptors::sealed_memory(layout::bytes_for(capacity))?;
        let memory = Memory::map(file.as_fd())?;
        let (here, there) = (Bell::new(doorbell)?, Bell::new(doorbell)?);
        let layout = Layout::write(memory, capacity, doorbell, [here.id()?, there.id()?]);
        let passed = vec![file, here.try_clone_to_owned()?, there.try_clone_to_owned()?];
        Ok((SharedRing::new(layout, Side::Creator, here, there), passed))
    }

    /// Builds the other process's end from the descriptors returned by
    /// [`create`](SharedRing::create), in the same order.
    ///
    /// The peer chooses the capacity of the rings, and this end copies messages of up to that
    /// length. `max_capacity` limits the bytes accepted in each direction; it is rounded up as in
    /// `create`.
    ///
    /// The descriptors are checked and set to close on exec. Messages that the peer has sent before
    /// this call are received.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput), with a message, if the descriptors are not
    ///   a memfd and two bells in the right order; if the size of the memfd is not sealed or it is
    ///   not writable; if `max_capacity` is more than 1 GiB.
    /// - [`InvalidData`](io::ErrorKind::InvalidData) if the memory is not that of a shared ring,
    ///   has a size other than its header states, or is larger than `max_capacity` allows, or if
    ///   the bells are of another [kind](Doorbell).
    /// - The error of mmap(2) (ENOMEM); [`NotFound`](io::ErrorKind::NotFound) if /proc is not
    ///   mounted.
    ///
    /// The descriptors are then [closed](crate::net::close_descriptors) without blocking the
    /// caller, whatever their kind.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>, max_capacity: usize) -> io::Result<SharedRing> {
        SharedRing::from_descriptors_with(descriptors, max_capacity, Doorbell::default())
    }

    /// Same as [`from_descriptors`](SharedRing::from_descriptors), with bells of the given kind.
    ///
    /// # Errors
    /// Same as [`from_descriptors`](SharedRing::from_descriptors); also
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if a [plain](Doorbell::Plain) bell is
    /// blocking.
    pub fn from_descriptors_with(
        descriptors: Vec<OwnedFd>,
        max_capacity: usize,
        doorbell: Doorbell,
    ) -> io::Result<SharedRing> {
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut unchecked = Unchecked(descriptors);
        let [file, creator, joiner] = &unchecked.0[..] else {
            return refused(format!(
                "a shared ring has {DESCRIPTORS} descriptors, not {}",
                unchecked.0.len()
            ));
        };
        descriptors::set_cloexec(file)?;
        let memory = Memory::map(file.as_fd())?;
        let max = layout::capacity_for(max_capacity)?;
        let (layout, expected) = Layout::read(memory, max, doorbell)?;
        bell::check_is_eventfd(creator)?;
        bell::check_is_eventfd(joiner)?;
        // A memfd and two eventfds: closing them never blocks.
        let [_, creator, joiner]: [OwnedFd; DESCRIPTORS] =
            mem::take(&mut unchecked.0).try_into().expect("the number was checked");
        let (there, here) =
            (Bell::from_descriptor(creator, doorbell)?, Bell::from_descriptor(joiner, doorbell)?);
        for (stated, found) in expected.into_iter().zip([there.id()?, here.id()?]) {
            // An id is 0 if the kernel does not report it.
            if stated != found && stated != 0 && found != 0 {
                return refused(
                    "the eventfds are not those of this shared ring, or in another order".to_owned(),
                );
            }
        }
        Ok(SharedRing::new(layout, Side::Joiner, here, there))
    }

    fn new(layout: Layout, side: Side, bell: Bell, peer: Bell) -> SharedRing {
        let link = Link {
            layout,
            side,
            producer: Producer::default(),
            consumer: Consumer::default(),
            peer,
            ended: None,
        };
        SharedRing { link, bell, sleeper: Sleeper::default() }
    }

    /// The maximum length of a message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.link.max_message_len()
    }

    /// Writes a message for the peer, and rings the bell if the peer sleeps.
    ///
    /// # Errors
    /// See [`RingSendError`]; nothing is sent on error. After [`Full`](RingSendError::Full) the
    /// peer rings once there is space for this message and half of the ring is free, which ends a
    /// [`wait`](SharedRing::wait).
    pub fn send(&mut self, message: impl AsRef<[u8]>) -> Result<(), RingSendError> {
        self.link.send(message.as_ref())
    }

    /// Receives the next message and replaces the content of `message` with it. Returns whether
    /// there was one; if not, the content of `message` is unspecified.
    ///
    /// # Errors
    /// The reason why the link has ended. Messages that the peer sent before its violation may be
    /// lost.
    pub fn receive(&mut self, message: &mut Vec<u8>) -> Result<bool, RingError> {
        self.link.receive(message)
    }

    /// Sleeps until there is a message to receive, until there is space after a send failed with
    /// [`Full`](RingSendError::Full), or until `timeout` has elapsed. Without a timeout it waits
    /// indefinitely; with a timeout of zero it returns at once.
    ///
    /// Spurious returns are possible, so retry the operation. Returns at once if there is a
    /// message. The first call creates an epoll instance, which uses a descriptor until the ring is
    /// dropped or bound to a loop.
    ///
    /// # Errors
    /// The reason why the link has ended, as an [`io::Error`]; EMFILE or ENFILE if no descriptor is
    /// free; the error of poll(2).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Called before the checks: a signal that precedes this call is not reported, but the
        // checks see its cause.
        self.sleeper.prepare(&self.bell)?;
        if self.link.take_space_event()? || !self.link.may_sleep()? {
            return Ok(());
        }
        self.sleeper.sleep(deadline)
    }

    /// Splits the end for the loop: the link, and the bell that wakes this end.
    pub(crate) fn into_parts(self) -> (Link, Bell) {
        (self.link, self.bell)
    }
}

impl fmt::Debug for SharedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRing").field("link", &self.link).finish_non_exhaustive()
    }
}

/// An end without its own bell.
#[derive(Debug)]
pub(crate) struct Link {
    layout: Layout,
    side: Side,
    producer: Producer,
    consumer: Consumer,
    /// The bell that wakes the peer.
    peer: Bell,
    ended: Option<RingError>,
}

impl Link {
    pub(crate) fn max_message_len(&self) -> usize {
        record::max_message_len(self.layout.capacity())
    }

    #[inline]
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), RingSendError> {
        if let Some(error) = self.ended {
            return Err(RingSendError::Ended(error));
        }
        let sent = self.producer.send(self.layout.ring_of(self.side), self.layout.capacity(), message);
        match sent {
            Ok(false) => Ok(()),
            Ok(true) => self.ring().map_err(RingSendError::Ended),
            Err(RingSendError::Ended(error)) => Err(RingSendError::Ended(self.end(error))),
            Err(refused) => Err(refused),
        }
    }

    #[inline]
    pub(crate) fn receive(&mut self, message: &mut Vec<u8>) -> Result<bool, RingError> {
        self.check()?;
        let ring = self.layout.ring_of(self.side.other());
        let received = self.consumer.receive(ring, self.layout.capacity(), message);
        let received = received.map_err(|error| self.end(error))?;
        if received.must_ring {
            self.ring()?;
        }
        Ok(received.found)
    }

    /// Whether a failed send can now be repeated. Returns `true` once per failed send.
    pub(crate) fn take_space_event(&mut self) -> Result<bool, RingError> {
        self.check()?;
        let has_space = self.producer.take_space_event(self.layout.ring_of(self.side));
        has_space.map_err(|error| self.end(error))
    }

    /// Requests a doorbell signal for the next message. Returns `false` if there already is a
    /// message.
    pub(crate) fn may_sleep(&mut self) -> Result<bool, RingError> {
        self.check()?;
        let ring = self.layout.ring_of(self.side.other());
        let polled = self.consumer.prepare_sleep(ring, self.layout.capacity());
        let polled = polled.map_err(|error| self.end(error))?;
        if polled.must_ring {
            self.ring()?;
        }
        Ok(!polled.found)
    }

    fn check(&self) -> Result<(), RingError> {
        self.ended.map_or(Ok(()), Err)
    }

    fn end(&mut self, error: RingError) -> RingError {
        *self.ended.get_or_insert(error)
    }

    #[cold]
    fn ring(&mut self) -> Result<(), RingError> {
        self.peer.ring().map_err(|error| self.end(RingError::Bell(error.kind())))
    }
}

#[cfg(test)]
mod hostile {
    mod tests;
}

#[cfg(test)]
mod tests;
