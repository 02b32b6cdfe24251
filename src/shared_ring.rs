//! Messages between two processes through memory that both have, with a bell for whoever sleeps.

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

/// How many descriptors the other process is given: the memory, the bell of the one who has made it, and that of the other.
const DESCRIPTORS: usize = 3;

/// Descriptors that the peer has sent and that may be of any kind. A drop closes them where the close may wait.
struct Unchecked(Vec<OwnedFd>);

impl Drop for Unchecked {
    fn drop(&mut self) {
        close_descriptors(mem::take(&mut self.0));
    }
}

/// One end of a link between two processes: two rings of messages in shared memory, one for each direction, and two
/// [eventfds](crate::EventFd) as bells.
///
/// A message is written into the memory by one process and copied out of it by the other, without a system call. The bell is
/// rung only if the other side sleeps, or has said that it will: once for each sleep. So under load messages cost what
/// copying them costs, and a process with nothing to do sleeps. It is how virtio's queues notify (*kick* and *call*), with
/// event indices for what need not be told (VIRTIO 1.2, section 2.7).
///
/// Messages keep their order and their borders, and none is lost while both processes live. One may be empty, and as long as
/// [`longest`](SharedRing::max_message_len).
///
/// # On a loop and off it
/// [`watch`](SharedRing::watch) and [`serve`](SharedRing::serve) bind the end to a loop, which calls back for each message.
/// Without a loop, one thread at a time may [`send`](SharedRing::send) and [`receive`](SharedRing::receive), and
/// [`wait`](SharedRing::wait) when there is nothing to do. One who never waits is never rung for.
///
/// # How the other process gets its end
/// [`create`](SharedRing::create) answers with this end and with three descriptors, which go to the other process over a Unix
/// socket ([`TcpConnection::send_with_descriptors`](crate::TcpConnection::send_with_descriptors), or `SCM_RIGHTS` by hand,
/// unix(7)); there [`from_descriptors`](SharedRing::from_descriptors) makes the other end of them. There are two ends: who
/// gives the descriptors to a third process has a link that ends with an error.
///
/// Keep the socket open on both sides, and watch it. A process that dies rings no bell, and that its end of the socket is
/// closed is how the other one learns of it; `examples/doorbell.rs` shows that. An end that is dropped says nothing either,
/// and messages that it has not read are lost.
///
/// # Who is trusted
/// Not the peer. It may write whatever it likes into the memory, at any time, and can bring about a [`RingError`] with that,
/// which ends the link, or more or fewer bells than are needed, which costs time; nothing else. The size of the memory is
/// sealed and checked, so no access fails; each position and each length is read once, and checked against what this end
/// knows; the bytes of a message are copied before anybody looks at them, once. What is in them is for the receiver to judge,
/// as with a socket.
///
/// Nor can it keep a call from returning. The two share the eventfds, so the peer can make them blocking, empty or full at any
/// time. A [default](Doorbell::NeverBlocks) bell is rung by a call that does not sleep in any of these states, and is never read
/// otherwise; one that the peer has emptied ends the link. [`Doorbell::Plain`] is for peers that are trusted: its ring is a
/// write, which sleeps if the peer has made the eventfd blocking and full.
///
/// # Examples
/// Both ends in one process, for brevity:
/// ```
/// use reveille::{EventLoop, SharedRing};
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
    /// Makes the memory and the bells, and returns this process's end and what the other process needs for its own.
    ///
    /// `capacity` is how many bytes each direction holds, rounded up to a power of two from 64 on. A message takes its length,
    /// rounded up to eight, and eight bytes more.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `capacity` is more than 1 GiB; what the kernel says: EMFILE or ENFILE if
    /// the process or the system has no descriptor left, ENOMEM. [`NotFound`](io::ErrorKind::NotFound) where /proc is
    /// not mounted, as by [`EventFd::counter`](crate::EventFd::counter). [`Unsupported`](io::ErrorKind::Unsupported) before
    /// Linux 5.8, which has no bell that never blocks.
    pub fn create(capacity: usize) -> io::Result<(SharedRing, Vec<OwnedFd>)> {
        SharedRing::create_with(capacity, Doorbell::default())
    }

    /// As [`create`](SharedRing::create), with bells of this kind.
    ///
    /// # Errors
    /// As [`create`](SharedRing::create).
    ///
    /// # Examples
    /// ```
    /// use reveille::{Doorbell, SharedRing};
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
        let (here, there) = (Bell::make(doorbell)?, Bell::make(doorbell)?);
        let layout = Layout::write(memory, capacity, doorbell, [here.id()?, there.id()?]);
        let passed = vec![file, here.try_clone_to_owned()?, there.try_clone_to_owned()?];
        Ok((SharedRing::new(layout, Side::Maker, here, there), passed))
    }

    /// The other process's end, of the descriptors that [`create`](SharedRing::create) returned, in their order.
    ///
    /// The peer has chosen the rings' size, and this end copies messages that are as long as a ring; so `most_capacity` says
    /// how many bytes it takes in each direction, rounded up as by `create`.
    ///
    /// The descriptors are checked, and none of them is inherited by programs that are started from here. What the peer has sent
    /// before this is there to be received.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput), in words, if they are not three, in another order, not a memfd and two
    ///   bells, or if the memfd's size is not sealed or it cannot be written; also if `most_capacity` is more than 1 GiB.
    /// - [`InvalidData`](io::ErrorKind::InvalidData) if the memory is not that of a shared ring, not of the size that it says it
    ///   is, or larger than `most_capacity` allows, or if the bells are of another [kind](Doorbell).
    /// - What the kernel says when it cannot map the memory (ENOMEM); [`NotFound`](io::ErrorKind::NotFound) where /proc is not
    ///   mounted.
    ///
    /// The descriptors are [closed](crate::close_descriptors) then, which does not make the caller wait, whatever the peer has sent.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>, most_capacity: usize) -> io::Result<SharedRing> {
        SharedRing::from_descriptors_with(descriptors, most_capacity, Doorbell::default())
    }

    /// As [`from_descriptors`](SharedRing::from_descriptors), for a ring with bells of this kind.
    ///
    /// # Errors
    /// As [`from_descriptors`](SharedRing::from_descriptors); [`InvalidInput`](io::ErrorKind::InvalidInput) also if a
    /// [plain](Doorbell::Plain) bell is blocking.
    pub fn from_descriptors_with(
        descriptors: Vec<OwnedFd>,
        most_capacity: usize,
        doorbell: Doorbell,
    ) -> io::Result<SharedRing> {
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let mut unchecked = Unchecked(descriptors);
        let [file, maker, taker] = &unchecked.0[..] else {
            return refused(format!(
                "a shared ring has {DESCRIPTORS} descriptors, and not {}",
                unchecked.0.len()
            ));
        };
        descriptors::not_inherited(file)?;
        let memory = Memory::map(file.as_fd())?;
        let most = layout::capacity_for(most_capacity)?;
        let (layout, expected) = Layout::read(memory, most, doorbell)?;
        bell::check_is_eventfd(maker)?;
        bell::check_is_eventfd(taker)?;
        // A memfd and two eventfds, whose close never waits.
        let [_, maker, taker]: [OwnedFd; DESCRIPTORS] =
            mem::take(&mut unchecked.0).try_into().expect("as many as were checked");
        let (there, here) = (Bell::take(maker, doorbell)?, Bell::take(taker, doorbell)?);
        for (said, found) in expected.into_iter().zip([there.id()?, here.id()?]) {
            // One of them is 0 where the kernel does not tell.
            if said != found && said != 0 && found != 0 {
                return refused(
                    "the eventfds are not those of this shared ring, or in another order".to_owned(),
                );
            }
        }
        Ok(SharedRing::new(layout, Side::Taker, here, there))
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

    /// How many bytes a message may have.
    pub fn max_message_len(&self) -> usize {
        self.link.max_message_len()
    }

    /// Writes a message for the peer, and rings if it sleeps.
    ///
    /// # Errors
    /// What [`RingSendError`] lists; nothing is sent then. After [`Full`](RingSendError::Full) the peer rings when there is
    /// room for this message and half of the ring is free, which ends a [`wait`](SharedRing::wait).
    pub fn send(&mut self, message: impl AsRef<[u8]>) -> Result<(), RingSendError> {
        self.link.send(message.as_ref())
    }

    /// Takes the next message, in place of what `message` holds. Answers whether there was one; if not, the content of
    /// `message` is not specified.
    ///
    /// # Errors
    /// Why the link has ended. What was sent before the peer broke the rules may be lost.
    pub fn receive(&mut self, message: &mut Vec<u8>) -> Result<bool, RingError> {
        self.link.receive(message)
    }

    /// Sleeps until there is a message to receive, or room after a send that had none, or `timeout` is over; without one, for
    /// ever.
    ///
    /// It may also return for nothing, so try again what you were waiting for. It returns at once if there is a message. The
    /// first call makes an epoll instance, which takes a descriptor until this is dropped or put on a loop.
    ///
    /// # Errors
    /// Why the link has ended, as an [`io::Error`]; EMFILE or ENFILE if there is no descriptor left; what the kernel says to a
    /// poll (poll(2)).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Before the look: a ring before this is not reported, but what it was rung for is seen.
        self.sleeper.prepare(&self.bell)?;
        if self.link.has_got_room()? || !self.link.may_sleep()? {
            return Ok(());
        }
        self.sleeper.sleep(deadline)
    }

    /// For the loop: the link, and what it is woken by.
    pub(crate) fn into_parts(self) -> (Link, Bell) {
        (self.link, self.bell)
    }
}

impl fmt::Debug for SharedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRing").field("link", &self.link).finish_non_exhaustive()
    }
}

/// An end without what it is woken by.
#[derive(Debug)]
pub(crate) struct Link {
    layout: Layout,
    side: Side,
    producer: Producer,
    consumer: Consumer,
    /// What the peer is woken by.
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
        if received.ring {
            self.ring()?;
        }
        Ok(received.found)
    }

    /// Whether there is room now that a refused send wanted. Answers so once.
    pub(crate) fn has_got_room(&mut self) -> Result<bool, RingError> {
        self.check()?;
        let got = self.producer.has_got_room(self.layout.ring_of(self.side));
        got.map_err(|error| self.end(error))
    }

    /// Asks the peer to ring for the next message. Answers whether there is none yet.
    pub(crate) fn may_sleep(&mut self) -> Result<bool, RingError> {
        self.check()?;
        let ring = self.layout.ring_of(self.side.other());
        let look = self.consumer.look_before_sleep(ring, self.layout.capacity());
        let look = look.map_err(|error| self.end(error))?;
        if look.ring {
            self.ring()?;
        }
        Ok(!look.found)
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
