//! Watches a descriptor of the user's on the loop.
//!
//! The loop does not see the I/O that the user does on the descriptor, so it cannot track when
//! readiness is exhausted. Instead the descriptor is registered again after each callback, which
//! makes the kernel report the readiness that remains.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// A descriptor registered on a loop, with a callback for its readiness.
///
/// The loop owns the descriptor: while the loop watches it, the descriptor cannot be closed and its
/// number cannot be reused. The `Channel` is the caller's reference to it. Dropping it
/// [closes](Channel::close) the channel; [`detach`](Channel::detach) leaves the channel to the
/// loop.
///
/// Level-triggered: the callback is called in every turn in which the descriptor is ready for the
/// channel's interest. The callback may close, drop, or change any channel, including its own. A
/// closed channel is never called again, not even for events that the kernel has already reported.
///
/// Bound to the loop's thread, like the loop.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::io::{Channel, Interest};
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
    registration: Registration<ChannelSource<F>>,
}

type Callback<F> = Contained<Box<dyn FnMut(&ChannelEvent<'_, F>)>>;

struct ChannelSource<F: AsFd + 'static> {
    id: ChannelId,
    source: Contained<F>,
    interest: Cell<Interest>,
    callback: RefCell<Callback<F>>,
}

impl<F: AsFd + 'static> Channel<F> {
    /// Watches `source` for `interest`, and calls `callback` when it is ready.
    ///
    /// The descriptor should be non-blocking; otherwise I/O in the callback can block the loop.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for a regular file or a directory,
    /// which epoll does not support: use [`FileIo`](crate::fs::FileIo). Otherwise the error of
    /// epoll_ctl(2). `source` is dropped on error.
    pub fn new(
        event_loop: &EventLoop,
        source: F,
        interest: Interest,
        callback: impl FnMut(&ChannelEvent<'_, F>) + 'static,
    ) -> io::Result<Channel<F>> {
        let source = Contained::new(source);
        let callback: Callback<F> = Contained::new(Box::new(callback));
        let channel = event_loop.register(interest, |id| {
            Rc::new(ChannelSource {
                id,
                source,
                interest: Cell::new(interest),
                callback: RefCell::new(callback),
            })
        })?;
        Ok(Channel { registration: Registration::new(event_loop, channel.id, &channel) })
    }

    /// Changes the interest. Readiness that exists already is reported.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if the channel is closed; otherwise the error of
    /// epoll_ctl(2).
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        self.registration
            .with(|event_loop, channel| channel.set_interest(event_loop, interest))
            .unwrap_or_else(|| Err(closed()))
    }

    /// The current interest; [`Interest::EMPTY`] once the channel is closed.
    pub fn interest(&self) -> Interest {
        self.registration.with(|_, channel| channel.interest.get()).unwrap_or(Interest::EMPTY)
    }

    /// Returns `true` until the channel is closed.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Calls `f` with the descriptor. Returns `None` once the channel is closed.
    pub fn with<R>(&self, f: impl FnOnce(&F) -> R) -> Option<R> {
        self.registration.with(|_, channel| f(&channel.source))
    }

    /// Closes the channel: its callback is not called again. The descriptor is closed at once; if
    /// this is called inside the channel's own callback, after the callback returns.
    pub fn close(self) {}

    /// Leaves the channel to the loop. It stays open until its callback closes it or the loop is
    /// dropped.
    pub fn detach(self) {
        self.registration.detach();
    }
}

impl<F: AsFd + 'static> fmt::Debug for Channel<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("interest", &self.interest()).finish_non_exhaustive()
    }
}

/// The argument of a channel's callback: the readiness, and access to the channel.
pub struct ChannelEvent<'a, F: AsFd + 'static> {
    event_loop: &'a EventLoop,
    channel: &'a ChannelSource<F>,
    readiness: Readiness,
}

impl<'a, F: AsFd + 'static> ChannelEvent<'a, F> {
    /// The loop.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The descriptor.
    pub fn source(&self) -> &'a F {
        &self.channel.source
    }

    /// The readiness that the kernel reported.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// Changes the interest.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if the channel is closed; otherwise the error of
    /// epoll_ctl(2).
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        if self.event_loop.is_registered(self.channel.id) {
            self.channel.set_interest(self.event_loop, interest)
        } else {
            Err(closed())
        }
    }

    /// Closes the channel. Its descriptor is closed after the callback returns.
    pub fn close(&self) {
        self.event_loop.remove(self.channel.id);
    }
}

impl<F: AsFd + 'static> fmt::Debug for ChannelEvent<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelEvent").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl<F: AsFd + 'static> ChannelSource<F> {
    fn set_interest(&self, event_loop: &EventLoop, interest: Interest) -> io::Result<()> {
        let fd = self.source.as_fd();
        match (self.interest.get().is_empty(), interest.is_empty()) {
            (true, true) => {}
            (true, false) => event_loop.watch(self.id, fd, interest)?,
            // A descriptor registered with an empty interest would still report hang-ups,
            // indefinitely.
            (false, true) => event_loop.unwatch(fd)?,
            (false, false) => event_loop.rewatch(self.id, fd, interest)?,
        }
        self.interest.set(interest);
        event_loop.clear_ready(self.id, !Readiness::NONE);
        event_loop.set_wanted(self.id, Readiness::satisfying(interest));
        Ok(())
    }
}

impl<F: AsFd + 'static> Source for ChannelSource<F> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.interest.get().is_empty()).then(|| self.source.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, readiness: Readiness) {
        let event = ChannelEvent { event_loop, channel: self, readiness };
        (self.callback.borrow_mut())(&event);
        let interest = self.interest.get();
        if event_loop.is_registered(self.id) && !interest.is_empty() {
            event_loop.clear_ready(self.id, !Readiness::NONE);
            if let Err(error) = event_loop.rewatch(self.id, self.source.as_fd(), interest) {
                event_loop.remove(self.id);
                logger::recurring("a channel that cannot be watched", |left_out| {
                    log::error!("a channel's descriptor can no longer be watched: {error}{left_out}");
                });
            }
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the channel is closed")
}
