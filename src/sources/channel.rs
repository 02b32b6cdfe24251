//! Descriptors of the user's own on the loop.
//!
//! The loop cannot see the I/O that a user does on them, so it cannot know when a readiness is used up. It asks the kernel
//! instead: after each callback the descriptor is registered anew, which has what still stands reported again.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, Source, WeakLoop};
use crate::readiness::{Interest, Readiness};

/// A descriptor on a loop, and the callback that answers for it.
///
/// The loop owns the descriptor from here on: it cannot be closed, and its number cannot be used again, while the loop
/// watches it. This value is what remains with the caller. Dropping it [closes](Channel::close) the channel;
/// [`detach`](Channel::detach) leaves it to the loop.
///
/// Level-triggered: the callback is called in every turn in which something that the channel is interested in stands. It may
/// close, drop, or change any channel, itself included; a channel that is closed is never called again, not even for what the
/// kernel has reported already.
///
/// Bound to the loop's thread, like the loop.
///
/// ```
/// use reveille::{Channel, EventLoop, Interest};
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let (ours, mut theirs) = UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
/// let channel = Channel::new(&event_loop, ours, Interest::READABLE, |event| {
///     let mut bytes = [0; 16];
///     let n = event.source().read(&mut bytes).expect("a readable socket");
///     assert_eq!(&bytes[..n], b"hello");
///     event.event_loop().quit();
/// })?;
/// theirs.write_all(b"hello")?;
/// event_loop.run()?;
/// channel.close();
/// # Ok(())
/// # }
/// ```
#[must_use = "a channel is closed when it is dropped; `detach` leaves it to the loop"]
pub struct Channel<F: AsFd + 'static> {
    event_loop: WeakLoop,
    core: Weak<Core<F>>,
}

type Callback<F> = Contained<Box<dyn FnMut(&ChannelEvent<'_, F>)>>;

struct Core<F: AsFd + 'static> {
    id: ChannelId,
    source: Contained<F>,
    interest: Cell<Interest>,
    callback: RefCell<Callback<F>>,
}

impl<F: AsFd + 'static> Channel<F> {
    /// Watches `source` for `interest`, and calls `callback` with what happens.
    ///
    /// The descriptor should be non-blocking, or the callback may hold up the loop.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for a regular file or a directory, which epoll does not take; else
    /// what the kernel says (epoll_ctl(2)). `source` is dropped then.
    pub fn new(
        event_loop: &EventLoop,
        source: F,
        interest: Interest,
        callback: impl FnMut(&ChannelEvent<'_, F>) + 'static,
    ) -> io::Result<Channel<F>> {
        let source = Contained::new(source);
        let callback: Callback<F> = Contained::new(Box::new(callback));
        let core = event_loop.register(interest, |id| {
            Rc::new(Core { id, source, interest: Cell::new(interest), callback: RefCell::new(callback) })
        })?;
        Ok(Channel { event_loop: event_loop.downgrade(), core: Rc::downgrade(&core) })
    }

    /// Changes what the channel waits for. What stands already counts.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if the channel is closed; else what the kernel says.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        self.with_core(|event_loop, core| core.set_interest(event_loop, interest))
            .unwrap_or_else(|| Err(closed()))
    }

    /// What the channel waits for; nothing once it is closed.
    pub fn interest(&self) -> Interest {
        self.with_core(|_, core| core.interest.get()).unwrap_or(Interest::EMPTY)
    }

    /// Whether the channel has not been closed.
    pub fn is_open(&self) -> bool {
        self.with_core(|_, _| ()).is_some()
    }

    /// Lends the descriptor for a call; `None` once the channel is closed.
    pub fn with<R>(&self, f: impl FnOnce(&F) -> R) -> Option<R> {
        self.with_core(|_, core| f(&core.source))
    }

    /// Ends the channel: its callback is not called again. The descriptor is closed at once, or, from inside the channel's
    /// own callback, when that has returned.
    pub fn close(self) {}

    /// Leaves the channel to the loop, which keeps it until its callback closes it or the loop is dropped.
    pub fn detach(mut self) {
        self.core = Weak::new();
    }

    fn with_core<R>(&self, f: impl FnOnce(&EventLoop, &Core<F>) -> R) -> Option<R> {
        let core = self.core.upgrade()?;
        self.event_loop
            .with(|event_loop| event_loop.is_registered(core.id).then(|| f(event_loop, &core)))
            .flatten()
    }
}

impl<F: AsFd + 'static> Drop for Channel<F> {
    fn drop(&mut self) {
        self.with_core(|event_loop, core| core.close(event_loop));
    }
}

impl<F: AsFd + 'static> fmt::Debug for Channel<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("interest", &self.interest()).finish_non_exhaustive()
    }
}

/// What a channel's callback is told, and what it can do about it.
pub struct ChannelEvent<'a, F: AsFd + 'static> {
    event_loop: &'a EventLoop,
    core: &'a Core<F>,
    readiness: Readiness,
}

impl<'a, F: AsFd + 'static> ChannelEvent<'a, F> {
    /// The loop.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The descriptor.
    pub fn source(&self) -> &'a F {
        &self.core.source
    }

    /// What the kernel says of the descriptor.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// Changes what the channel waits for.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if the channel is closed; else what the kernel says.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        if self.event_loop.is_registered(self.core.id) {
            self.core.set_interest(self.event_loop, interest)
        } else {
            Err(closed())
        }
    }

    /// Ends the channel. Its descriptor is closed when the callback has returned.
    pub fn close(&self) {
        self.core.close(self.event_loop);
    }
}

impl<F: AsFd + 'static> fmt::Debug for ChannelEvent<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelEvent").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl<F: AsFd + 'static> Core<F> {
    fn set_interest(&self, event_loop: &EventLoop, interest: Interest) -> io::Result<()> {
        let fd = self.source.as_fd();
        match (self.interest.get().is_empty(), interest.is_empty()) {
            (true, true) => {}
            (true, false) => event_loop.watch(self.id, fd, interest)?,
            // A descriptor that is registered for nothing would still report hang-ups, for ever.
            (false, true) => event_loop.unwatch(fd)?,
            (false, false) => event_loop.rewatch(self.id, fd, interest)?,
        }
        self.interest.set(interest);
        event_loop.clear_ready(self.id, !Readiness::NONE);
        event_loop.set_wanted(self.id, Readiness::answering(interest));
        Ok(())
    }

    fn close(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

impl<F: AsFd + 'static> Source for Core<F> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.interest.get().is_empty()).then(|| self.source.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, readiness: Readiness) {
        let event = ChannelEvent { event_loop, core: self, readiness };
        (self.callback.borrow_mut())(&event);
        let interest = self.interest.get();
        if event_loop.is_registered(self.id) && !interest.is_empty() {
            event_loop.clear_ready(self.id, !Readiness::NONE);
            if let Err(error) = event_loop.rewatch(self.id, self.source.as_fd(), interest) {
                self.close(event_loop);
                logger::recurring("a channel that cannot be watched", |left_out| {
                    log::error!("a channel's descriptor can no longer be watched: {error}{left_out}");
                });
            }
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        self.close(event_loop);
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the channel is closed")
}
