//! An end of a shared ring on a loop: a callback for each message.

mod handler;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};

use self::handler::OnMessage;
pub use self::handler::RingHandler;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Source, WeakLoop};
use crate::readiness::Readiness;
use crate::shared_ring::{Bell, Link, RingError, RingSendError, SharedRing};

/// What is delivered in one turn, so that a peer that never stops keeps nobody else waiting: messages, and bytes of them.
const MESSAGES_A_TURN: usize = 256;
const BYTES_A_TURN: usize = 256 * 1024;

/// An end of a shared ring on a loop, for as long as this value lives: from [`SharedRing::watch`] or [`SharedRing::serve`].
///
/// Dropping it gives up the memory and the bells. The peer is not told: see [how it
/// learns](SharedRing#how-the-other-process-gets-its-end). A callback itself may drop it.
///
/// Bound to the loop's thread, like the loop; other threads post a task that sends.
#[must_use = "the link is given up when this is dropped"]
pub struct SharedRingSource {
    event_loop: WeakLoop,
    core: Weak<Core>,
}

/// An end of a shared ring, on its loop's thread, for the length of a call.
#[derive(Clone, Copy)]
pub struct RingRef<'a> {
    event_loop: &'a EventLoop,
    core: &'a Core,
}

struct Core {
    id: ChannelId,
    /// What the peer rings. Never reset: the poll reports every ring anew, whatever the count is already.
    bell: Bell,
    link: RefCell<Link>,
    /// The copy of the message that the handler is shown, kept for the next one.
    message: Cell<Vec<u8>>,
    handler: RefCell<Contained<Box<dyn RingHandler>>>,
}

impl SharedRing {
    /// Binds this end to a loop, and calls `on_message` with each message that comes. What is there already counts.
    ///
    /// The bytes are a copy, which the peer cannot change. Up to 256 messages are delivered in a turn of the loop, and no more
    /// than 256 KiB and one message, so that other channels have their turn. The peer rings for a message only
    /// if a whole turn before it has found none.
    ///
    /// If the peer breaks the rules the link ends with a word in the log; [`serve`](SharedRing::serve) is for those who want
    /// to know, or to be told of room. A panic in `on_message` ends it as well.
    ///
    /// # Errors
    /// What the kernel says when it cannot watch the eventfd (epoll_ctl(2)): ENOSPC if the user watches as many as
    /// `fs.epoll.max_user_watches` allows, ENOMEM.
    pub fn watch(
        self,
        event_loop: &EventLoop,
        on_message: impl FnMut(&RingRef<'_>, &[u8]) + 'static,
    ) -> io::Result<SharedRingSource> {
        self.serve(event_loop, OnMessage(on_message))
    }

    /// As [`watch`](SharedRing::watch), with a handler that is told of room and of the end as well.
    ///
    /// # Errors
    /// As [`watch`](SharedRing::watch).
    pub fn serve(self, event_loop: &EventLoop, handler: impl RingHandler) -> io::Result<SharedRingSource> {
        let handler = RefCell::new(Contained::new(Box::new(handler) as Box<dyn RingHandler>));
        let (link, bell) = self.into_parts();
        let core = event_loop.register(bell.interest(), |id| {
            Rc::new(Core { id, bell, link: RefCell::new(link), message: Cell::default(), handler })
        })?;
        // The peer may have rung before the other end of its bell was watched, or not at all if this end was used without a loop.
        event_loop.add_ready(core.id, Readiness::READABLE);
        Ok(SharedRingSource { event_loop: event_loop.downgrade(), core: Rc::downgrade(&core) })
    }
}

impl SharedRingSource {
    /// Writes a message for the peer, and rings if it sleeps.
    ///
    /// # Errors
    /// What [`RingSendError`] lists; nothing is sent then. After [`Full`](RingSendError::Full) the handler is
    /// [told](RingHandler::on_room) when there is room for this message and half of the ring is free.
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), RingSendError> {
        self.with(|ring| ring.send(message)).unwrap_or(Err(RingSendError::Closed))
    }

    /// Whether the link is still there. A panic in a callback, what the peer does wrong, and the end of the loop end it.
    pub fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// Lends the end for a call; `None` once it has been closed.
    pub fn with<R>(&self, f: impl FnOnce(&RingRef<'_>) -> R) -> Option<R> {
        let core = self.core.upgrade()?;
        let lend = |event_loop: &EventLoop| {
            event_loop.is_registered(core.id).then(|| f(&RingRef { event_loop, core: &core }))
        };
        self.event_loop.with(lend).flatten()
    }

    /// Gives the link up: nothing is called back any more. The descriptors are closed at once, or, from inside a callback, when
    /// that has returned.
    pub fn close(self) {}
}

impl Drop for SharedRingSource {
    fn drop(&mut self) {
        self.with(|ring| ring.close());
    }
}

impl fmt::Debug for SharedRingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRingSource").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl<'a> RingRef<'a> {
    /// The loop that this end is on.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// How many bytes a message may have.
    pub fn max_message_len(&self) -> usize {
        self.core.link.borrow().max_message_len()
    }

    /// As [`SharedRingSource::send`].
    ///
    /// # Errors
    /// As [`SharedRingSource::send`]; [`Closed`](RingSendError::Closed) after a [`close`](RingRef::close).
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), RingSendError> {
        if !self.event_loop.is_registered(self.core.id) {
            return Err(RingSendError::Closed);
        }
        let message = message.as_ref();
        let sent = self.core.link.borrow_mut().send(message);
        if let Err(RingSendError::Ended(_)) = sent {
            // So that the handler is told, in a call of its own.
            self.event_loop.add_ready(self.core.id, Readiness::READABLE);
        }
        sent
    }

    /// Gives the link up: nothing is called back any more, after the callback that may be under way.
    pub fn close(&self) {
        self.core.close(self.event_loop);
    }
}

impl fmt::Debug for RingRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingRef").field("link", &self.core.link.borrow()).finish_non_exhaustive()
    }
}

impl Core {
    /// Calls back for what there is, until the ring is empty, the turn has had its share, or the end is closed by a callback.
    fn deliver(&self, event_loop: &EventLoop, message: &mut Vec<u8>) -> Result<(), RingError> {
        let face = RingRef { event_loop, core: self };
        let mut bytes = 0;
        for delivered in 0..MESSAGES_A_TURN {
            // First, since answers want room.
            if self.link.borrow_mut().has_got_room()? {
                self.handler.borrow_mut().on_room(&face);
                if !event_loop.is_registered(self.id) {
                    return Ok(());
                }
            }
            let received = self.link.borrow_mut().receive(message)?;
            if !received {
                // Whoever has just sent is likely to send more. So the peer is told that this end will sleep only when a whole
                // turn has found nothing, and this one stays ready for another.
                if delivered > 0 {
                    return Ok(());
                }
                if self.link.borrow_mut().may_sleep()? {
                    event_loop.clear_ready(self.id, !Readiness::NONE);
                    return Ok(());
                }
                continue;
            }
            bytes += message.len();
            self.handler.borrow_mut().on_message(&face, message);
            if !event_loop.is_registered(self.id) || bytes >= BYTES_A_TURN {
                return Ok(());
            }
        }
        Ok(())
    }

    fn close(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

impl Source for Core {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let mut message = self.message.take();
        let delivered = self.deliver(event_loop, &mut message);
        self.message.set(message);
        if let Err(error) = delivered {
            self.close(event_loop);
            self.handler.borrow_mut().on_end(&RingRef { event_loop, core: self }, error);
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        self.close(event_loop);
    }
}
