//! Watches a descriptor of the user's on the loop.
//!
//! The loop does not see the I/O that the user does on the descriptor, so it cannot track when
//! readiness is exhausted. Instead a level-triggered descriptor is registered again after each
//! callback, which makes the kernel report the readiness that remains. The other modes do without.

use std::any::type_name_of_val;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// A descriptor registered on a loop, with a callback for its readiness.
///
/// The loop owns the descriptor: while the loop watches it, the descriptor cannot be closed and its
/// number cannot be reused. The `Channel` is the caller's reference to it. Dropping it
/// [closes](Channel::close) the channel; [`detach`](Channel::detach) leaves the channel to the
/// loop.
///
/// Level-triggered by default: the callback is called in every turn in which the descriptor is
/// ready for the channel's interest. [`with_trigger`](Channel::with_trigger) selects another
/// [`Trigger`]. The callback may close, drop, or change any channel, including its own. A closed
/// channel is never called again, not even for events that the kernel has already reported.
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

/// When a ready [`Channel`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Trigger {
    /// In every turn in which the descriptor is ready. Costs one system call for each callback.
    #[default]
    Level,
    /// Once for each edge: when the descriptor becomes ready, and when more arrives while it is
    /// ready. Edges that occur between two callbacks are reported as one.
    ///
    /// The callback must read or write until the operation returns `WouldBlock`. Input that it
    /// leaves is not reported until more arrives, or until
    /// [`set_interest`](ChannelEvent::set_interest) is called, which reports existing readiness
    /// again. The loop makes no system call for a callback.
    Edge,
    /// Once. The interest is [empty](Interest::EMPTY) when the callback is called;
    /// [`set_interest`](ChannelEvent::set_interest) arms the channel again, in the callback or
    /// later. Readiness that exists by then is reported. The callback may thus leave the I/O to
    /// other code without being called again in the meantime.
    OneShot,
}

type Callback<F> = Contained<Box<dyn FnMut(&ChannelEvent<'_, F>)>>;

struct ChannelSource<F: AsFd + 'static> {
    id: ChannelId,
    source: Contained<F>,
    trigger: Trigger,
    interest: Cell<Interest>,
    /// The descriptor is registered with the poller. It is while the interest is not empty, and in
    /// the callback of a one-shot channel.
    watched: Cell<bool>,
    excluded_from_idle: Cell<bool>,
    /// The type of the callback.
    name: &'static str,
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
        Channel::with_trigger(event_loop, source, interest, Trigger::Level, callback)
    }

    /// Same as [`new`](Channel::new), with another [`Trigger`].
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use reveille::io::{Channel, Interest, Trigger};
    /// use std::io::{ErrorKind, Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// ours.set_nonblocking(true)?;
    /// let read_all = |event: &reveille::io::ChannelEvent<'_, UnixStream>| {
    ///     let mut bytes = [0; 1024];
    ///     loop {
    ///         match event.source().read(&mut bytes) {
    ///             Ok(0) => return event.close(),
    ///             Ok(n) => println!("{n} bytes"),
    ///             Err(error) if error.kind() == ErrorKind::WouldBlock => return,
    ///             Err(error) => panic!("{error}"),
    ///         }
    ///     }
    /// };
    /// let channel =
    ///     Channel::with_trigger(&event_loop, ours, Interest::READABLE, Trigger::Edge, read_all)?;
    /// theirs.write_all(b"hello")?;
    /// drop(theirs);
    /// event_loop.run_until_idle()?; // until the end of input
    /// assert!(!channel.is_open());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`new`](Channel::new).
    pub fn with_trigger(
        event_loop: &EventLoop,
        source: F,
        interest: Interest,
        trigger: Trigger,
        callback: impl FnMut(&ChannelEvent<'_, F>) + 'static,
    ) -> io::Result<Channel<F>> {
        let source = Contained::new(source);
        let name = type_name_of_val(&callback);
        let callback: Callback<F> = Contained::new(Box::new(callback));
        let channel = event_loop.register(interest, |id| {
            Rc::new(ChannelSource {
                id,
                source,
                trigger,
                interest: Cell::new(interest),
                watched: Cell::new(!interest.is_empty()),
                excluded_from_idle: Cell::new(false),
                name,
                callback: RefCell::new(callback),
            })
        })?;
        channel.update_counted(event_loop);
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

    /// The current interest; [`Interest::EMPTY`] once the channel is closed, and once a
    /// [one-shot](Trigger::OneShot) channel has been called.
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

    /// Excludes the channel from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// callback is called as long as the loop runs.
    pub fn exclude_from_idle(&self) {
        self.registration.with(|event_loop, channel| channel.set_excluded(event_loop, true));
    }

    /// Ends the effect of [`exclude_from_idle`](Channel::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.registration.with(|event_loop, channel| channel.set_excluded(event_loop, false));
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
        self.watch(event_loop, interest)?;
        self.interest.set(interest);
        event_loop.clear_ready(self.id, !Readiness::NONE);
        event_loop.set_wanted(self.id, Readiness::satisfying(interest));
        self.update_counted(event_loop);
        Ok(())
    }

    /// Makes the poller watch the descriptor for this interest, and report its readiness again.
    fn watch(&self, event_loop: &EventLoop, interest: Interest) -> io::Result<()> {
        let fd = self.source.as_fd();
        match (self.watched.get(), !interest.is_empty()) {
            (false, false) => {}
            (false, true) => event_loop.watch(self.id, fd, interest)?,
            // A descriptor registered with an empty interest would still report hang-ups,
            // indefinitely.
            (true, false) => event_loop.unwatch(fd)?,
            (true, true) => event_loop.rewatch(self.id, fd, interest)?,
        }
        self.watched.set(!interest.is_empty());
        Ok(())
    }

    fn set_excluded(&self, event_loop: &EventLoop, excluded: bool) {
        self.excluded_from_idle.set(excluded);
        self.update_counted(event_loop);
    }

    /// A channel without an interest is not called, so it does not keep a loop running.
    fn update_counted(&self, event_loop: &EventLoop) {
        let counted = !self.excluded_from_idle.get() && !self.interest.get().is_empty();
        event_loop.set_counted(self.id, counted);
    }
}

impl<F: AsFd + 'static> Source for ChannelSource<F> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watched.get().then(|| self.source.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a channel").handler(self.name)
    }

    fn on_ready(&self, event_loop: &EventLoop, readiness: Readiness) {
        if self.trigger == Trigger::OneShot {
            // The descriptor stays registered. If the callback arms the channel again, that saves a
            // system call.
            self.interest.set(Interest::EMPTY);
            event_loop.set_wanted(self.id, Readiness::NONE);
            self.update_counted(event_loop);
        }
        event_loop.clear_ready(self.id, !Readiness::NONE);
        let event = ChannelEvent { event_loop, channel: self, readiness };
        (self.callback.borrow_mut())(&event);
        let interest = self.interest.get();
        let is_settled = match self.trigger {
            Trigger::Level => interest.is_empty(),
            Trigger::Edge => true,
            Trigger::OneShot => !interest.is_empty(),
        };
        if !is_settled && event_loop.is_registered(self.id) {
            if let Err(error) = self.watch(event_loop, interest) {
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
