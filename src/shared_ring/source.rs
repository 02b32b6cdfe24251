//! An end of a shared ring on a loop, with a callback for each message.

mod handler;

use std::any::type_name_of_val;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use self::handler::OnMessage;
pub use self::handler::RingHandler;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::readiness::Readiness;
use crate::shared_ring::{Bell, Link, RingError, RingSendError, SharedRing};

/// Quotas per turn, in messages and in bytes, so that a busy peer does not starve other channels.
const MESSAGES_PER_TURN: usize = 256;
const BYTES_PER_TURN: usize = 256 * 1024;

/// An end of a shared ring on a loop, from [`SharedRing::watch`] or [`SharedRing::serve`].
///
/// Dropping this releases the memory and the bells. The peer is not notified; see [how it detects
/// that](SharedRing#how-the-other-process-gets-its-end). A callback itself may drop it.
///
/// Bound to the loop's thread, like the loop. Other threads post a task that sends.
#[must_use = "dropping this closes the link"]
pub struct SharedRingSource {
    registration: Registration<RingSource>,
}

/// An end of a shared ring, lent on its loop's thread for the duration of a call.
#[derive(Clone, Copy)]
pub struct RingRef<'a> {
    event_loop: &'a EventLoop,
    source: &'a RingSource,
}

struct RingSource {
    id: ChannelId,
    /// Rung by the peer. Never reset: the edge-triggered poll reports every ring, whatever the
    /// counter is.
    bell: Bell,
    link: RefCell<Link>,
    /// The buffer for the copy of a message; reused for the next one.
    message: Cell<Vec<u8>>,
    /// The type of the handler.
    name: &'static str,
    handler: RefCell<Contained<Box<dyn RingHandler>>>,
}

impl SharedRing {
    /// Binds this end to a loop, and calls `on_message` with each message. Messages already in the
    /// ring are delivered.
    ///
    /// The bytes are a copy, which the peer cannot change. At most 256 messages are delivered in a
    /// turn of the loop; delivery also stops after the message that reaches 256 KiB, so that other
    /// channels run. The peer rings for a message only if a whole turn before it has found none.
    ///
    /// If the peer violates the protocol, the link ends and the error is logged. To handle that
    /// error, or to be notified of free space, use [`serve`](SharedRing::serve). A panic in
    /// `on_message` ends the link as well.
    ///
    /// # Errors
    /// The error of epoll_ctl(2): ENOSPC if the user has reached `fs.epoll.max_user_watches`, or
    /// ENOMEM.
    pub fn watch(
        self,
        event_loop: &EventLoop,
        on_message: impl FnMut(&RingRef<'_>, &[u8]) + 'static,
    ) -> io::Result<SharedRingSource> {
        self.serve(event_loop, OnMessage(on_message))
    }

    /// Same as [`watch`](SharedRing::watch), with a handler that is also notified of free space and
    /// of the end of the link.
    ///
    /// # Errors
    /// Same as [`watch`](SharedRing::watch).
    pub fn serve(self, event_loop: &EventLoop, handler: impl RingHandler) -> io::Result<SharedRingSource> {
        let name = type_name_of_val(&handler);
        let handler = RefCell::new(Contained::new(Box::new(handler) as Box<dyn RingHandler>));
        let (link, bell) = self.into_parts();
        let source = event_loop.register(bell.interest(), |id| {
            Rc::new(RingSource {
                id,
                bell,
                link: RefCell::new(link),
                message: Cell::default(),
                name,
                handler,
            })
        })?;
        // The peer may have rung before the bell was watched, or not at all if this end was used
        // without a loop.
        event_loop.add_ready(source.id, Readiness::READABLE);
        Ok(SharedRingSource { registration: Registration::new(event_loop, source.id, &source) })
    }
}

impl SharedRingSource {
    /// Writes a message for the peer, and rings the bell if the peer sleeps.
    ///
    /// # Errors
    /// See [`RingSendError`]; nothing is sent on error. After [`Full`](RingSendError::Full) the
    /// handler's [`on_room`](RingHandler::on_room) is called once there is space for this message
    /// and half of the ring is free.
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), RingSendError> {
        self.with(|ring| ring.send(message)).unwrap_or(Err(RingSendError::Closed))
    }

    /// Whether the link is open. A panic in a callback, a protocol violation by the peer, and the
    /// end of the loop close it.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Calls `f` with the end. Returns `None` once it has been closed.
    pub fn with<R>(&self, f: impl FnOnce(&RingRef<'_>) -> R) -> Option<R> {
        self.registration.with(|event_loop, source| f(&RingRef { event_loop, source }))
    }

    /// Excludes the link from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// handler is called as long as the loop runs.
    pub fn exclude_from_idle(&self) {
        self.registration.exclude_from_idle();
    }

    /// Ends the effect of [`exclude_from_idle`](SharedRingSource::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.registration.include_in_idle();
    }

    /// Closes the link: the handler is not called again. The descriptors are closed at once; if
    /// this is called inside a callback, after the callback returns.
    pub fn close(self) {}
}

impl fmt::Debug for SharedRingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRingSource").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl<'a> RingRef<'a> {
    /// The loop of this end.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The maximum length of a message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.source.link.borrow().max_message_len()
    }

    /// Same as [`SharedRingSource::send`].
    ///
    /// # Errors
    /// Same as [`SharedRingSource::send`]; [`Closed`](RingSendError::Closed) after a
    /// [`close`](RingRef::close).
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<(), RingSendError> {
        if !self.event_loop.is_registered(self.source.id) {
            return Err(RingSendError::Closed);
        }
        let message = message.as_ref();
        let sent = self.source.link.borrow_mut().send(message);
        if let Err(RingSendError::Ended(_)) = sent {
            // The handler is notified in a separate call.
            self.event_loop.add_ready(self.source.id, Readiness::READABLE);
        }
        sent
    }

    /// Closes the link: after the current callback, if any, the handler is not called again.
    pub fn close(&self) {
        self.event_loop.remove(self.source.id);
    }
}

impl fmt::Debug for RingRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingRef").field("link", &self.source.link.borrow()).finish_non_exhaustive()
    }
}

impl RingSource {
    /// Calls the handler until the ring is empty, the quota of the turn is used up, or a callback
    /// closes the end.
    fn deliver(&self, event_loop: &EventLoop, message: &mut Vec<u8>) -> Result<(), RingError> {
        let ring = RingRef { event_loop, source: self };
        let mut bytes = 0;
        for delivered in 0..MESSAGES_PER_TURN {
            // Checked first, since the handler's replies need space.
            if self.link.borrow_mut().take_space_event()? {
                self.handler.borrow_mut().on_room(&ring);
                if !event_loop.is_registered(self.id) {
                    return Ok(());
                }
            }
            let received = self.link.borrow_mut().receive(message)?;
            if !received {
                // A peer that has just sent is likely to send again. So this end announces a sleep
                // only after a whole turn without messages, and stays ready until then.
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
            self.handler.borrow_mut().on_message(&ring, message);
            if !event_loop.is_registered(self.id) || bytes >= BYTES_PER_TURN {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Source for RingSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a shared ring").handler(self.name)
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let mut message = self.message.take();
        let delivered = self.deliver(event_loop, &mut message);
        self.message.set(message);
        if let Err(error) = delivered {
            event_loop.remove(self.id);
            self.handler.borrow_mut().on_end(&RingRef { event_loop, source: self }, error);
        }
    }
}
