//! The readiness of a descriptor as futures.
//!
//! The descriptor is registered once, for both directions. The kernel reports a readiness once, so
//! it is cached here until an operation finds that it no longer holds. So a wait makes no system
//! call.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::tasks::executor::current;
use crate::event_loop::tasks::wait_list::{Place, WaitList};
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// The number of waits in succession that return at once. The next one lets the loop run other
/// futures first, so a descriptor that is always ready starves nothing.
const MAX_AT_ONCE: u32 = 32;

/// A descriptor whose readiness is awaited, on this thread's loop.
///
/// The descriptor must be non-blocking. An operation is a closure that makes the system call:
/// [`read_with`](Async::read_with) and [`write_with`](Async::write_with) call it when the
/// descriptor is ready, and again after a `WouldBlock`.
///
/// Any number of futures may wait at a time, in both directions. A readiness wakes all futures that
/// wait for its direction.
///
/// The futures may be dropped at any time: a wait has no effect on the descriptor, and an operation
/// that has succeeded is returned by the same poll. After the end of the loop they return an error.
/// In a forked child the loop counts as ended.
///
/// A loop that runs [until it is idle](EventLoop::run_until_idle) waits for the descriptor while a
/// future waits for it.
///
/// # Cost
/// One epoll_ctl(2) when it is created and one when it is dropped. A wait makes no system call and
/// allocates nothing, except for the list of futures when it grows.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::io::Async;
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let (ours, mut theirs) = UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
/// event_loop.spawn_local(async move {
///     let ours = Async::new(ours).expect("a socket");
///     let mut bytes = [0; 16];
///     let n = ours.read_with(|mut stream| stream.read(&mut bytes)).await.expect("a greeting");
///     assert_eq!(&bytes[..n], b"hello");
/// });
/// theirs.write_all(b"hello")?;
/// event_loop.run_until_idle()
/// # }
/// ```
pub struct Async<T: AsFd> {
    registration: Registration<AsyncSource>,
    source: Rc<AsyncSource>,
    /// `None` after `into_inner`.
    io: Option<Contained<T>>,
}

/// The loop's part. The user's value has the descriptor, and takes it out of the poller.
struct AsyncSource {
    id: ChannelId,
    read: Direction,
    write: Direction,
    has_ended: Cell<bool>,
    process: ProcessMark,
    /// How many waits have returned at once since one has waited.
    at_once: Cell<u32>,
}

#[derive(Default)]
struct Direction {
    is_ready: Cell<bool>,
    waiting: WaitList,
}

impl<T: AsFd> Async<T> {
    /// Watches `io` on this thread's loop.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for a regular file or a directory,
    /// which epoll does not support: use [`FileIo`](crate::fs::FileIo).
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the loop watches the descriptor already.
    /// Otherwise the error of epoll_ctl(2), such as EBADF for a closed descriptor. `io` is dropped
    /// on error.
    ///
    /// # Panics
    /// If this thread has no loop.
    #[track_caller]
    pub fn new(io: T) -> io::Result<Async<T>> {
        let io = Contained::new(io);
        let event_loop = current();
        let source = event_loop.register(Interest::EMPTY, |id| Rc::new(AsyncSource::new(id)))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = event_loop.watch(source.id, io.as_fd(), both) {
            event_loop.remove(source.id);
            return Err(error);
        }
        event_loop.set_wanted(source.id, Readiness::satisfying(both));
        event_loop.set_counted(source.id, false);
        Ok(Async { registration: Registration::new(&event_loop, source.id, &source), source, io: Some(io) })
    }

    /// Waits until the descriptor is readable, or a read would fail at once.
    ///
    /// The readiness is a hint. It is cached until an operation of
    /// [`read_with`](Async::read_with) or [`try_read_with`](Async::try_read_with) returns
    /// `WouldBlock`. Until then this returns without waiting, also after a read of
    /// [`get_ref`](Async::get_ref), which is not noticed.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the loop has ended.
    pub async fn readable(&self) -> io::Result<()> {
        self.wait(|source| &source.read).await
    }

    /// Same as [`readable`](Async::readable), for writes.
    ///
    /// # Errors
    /// Same as [`readable`](Async::readable).
    pub async fn writable(&self) -> io::Result<()> {
        self.wait(|source| &source.write).await
    }

    /// Calls `read` when the descriptor is readable, until it returns something else than
    /// `WouldBlock`, and returns that.
    ///
    /// `read` must return `WouldBlock` only if the system call did: the next call follows an event
    /// of the kernel.
    ///
    /// Cancel safe: no result of `read` is lost, since it is returned by the same poll.
    ///
    /// # Errors
    /// Those of `read`; [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the loop has ended.
    pub async fn read_with<R>(&self, mut read: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        loop {
            self.readable().await?;
            match self.try_read_with(&mut read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Same as [`read_with`](Async::read_with), for writes.
    ///
    /// # Errors
    /// Same as [`read_with`](Async::read_with).
    pub async fn write_with<R>(&self, mut write: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        loop {
            self.writable().await?;
            match self.try_write_with(&mut write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Calls `read` once, without waiting. After a `WouldBlock`, [`readable`](Async::readable)
    /// waits for the next event of the kernel.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn try_read_with<R>(&self, read: impl FnOnce(&T) -> io::Result<R>) -> io::Result<R> {
        self.source.read.attempt(|| read(self.get_ref()))
    }

    /// Same as [`try_read_with`](Async::try_read_with), for writes.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn try_write_with<R>(&self, write: impl FnOnce(&T) -> io::Result<R>) -> io::Result<R> {
        self.source.write.attempt(|| write(self.get_ref()))
    }

    /// The value.
    pub fn get_ref(&self) -> &T {
        self.io.as_ref().expect("it is taken only by `into_inner`")
    }

    /// Takes the descriptor out of the loop and returns the value.
    pub fn into_inner(mut self) -> T {
        self.unwatch();
        self.io.take().expect("it is taken only here").into_inner()
    }

    fn wait(&self, direction: fn(&AsyncSource) -> &Direction) -> Wait<'_> {
        let place = Place::default();
        Wait { registration: &self.registration, source: &self.source, direction, place }
    }

    /// Takes the descriptor out of the poller. Otherwise a duplicate would keep the registration.
    fn unwatch(&self) {
        let Some(io) = &self.io else { return };
        let unwatched = self.registration.with(|event_loop, _| event_loop.unwatch(io.as_fd()));
        if let Some(Err(error)) = unwatched {
            logger::recurring("a descriptor that stays in the poller", |suppressed| {
                log::warn!("cannot take a descriptor out of the poller: {error}{suppressed}");
            });
        }
    }
}

impl<T: AsFd> Drop for Async<T> {
    fn drop(&mut self) {
        self.unwatch();
    }
}

impl<T: AsFd> AsFd for Async<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

impl<T: AsFd> fmt::Debug for Async<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Async")
            .field("is_readable", &self.source.read.is_ready.get())
            .field("is_writable", &self.source.write.is_ready.get())
            .finish_non_exhaustive()
    }
}

impl Direction {
    fn attempt<R>(&self, operation: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        let result = operation();
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.is_ready.set(false);
        }
        result
    }

    fn add_ready(&self, is_ready: bool) {
        if is_ready {
            self.is_ready.set(true);
            self.waiting.wake_all();
        }
    }
}

impl AsyncSource {
    fn new(id: ChannelId) -> AsyncSource {
        AsyncSource {
            id,
            read: Direction::default(),
            write: Direction::default(),
            has_ended: Cell::new(false),
            process: ProcessMark::current(),
            at_once: Cell::new(0),
        }
    }

    /// Only a future that waits keeps a loop running.
    fn update_counted(&self, event_loop: &EventLoop) {
        let is_awaited = !self.read.waiting.is_empty() || !self.write.waiting.is_empty();
        event_loop.set_counted(self.id, is_awaited);
    }
}

impl Source for AsyncSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn describe(&self) -> Description {
        Description::of("a descriptor of futures")
    }

    fn on_ready(&self, event_loop: &EventLoop, readiness: Readiness) {
        event_loop.clear_ready(self.id, !Readiness::NONE);
        self.read.add_ready(readiness.is_readable() || readiness.is_error());
        self.write.add_ready(readiness.is_writable() || readiness.is_error());
        self.update_counted(event_loop);
    }

    fn on_close(&self, _event_loop: &EventLoop) {
        self.has_ended.set(true);
        self.read.waiting.wake_all();
        self.write.waiting.wake_all();
    }
}

/// A wait for one direction.
struct Wait<'a> {
    registration: &'a Registration<AsyncSource>,
    source: &'a AsyncSource,
    direction: fn(&AsyncSource) -> &Direction,
    place: Place,
}

impl Wait<'_> {
    fn direction(&self) -> &Direction {
        (self.direction)(self.source)
    }
}

impl Future for Wait<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (source, direction) = (self.source, (self.direction)(self.source));
        if source.has_ended.get() || !source.process.is_current() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the event loop has ended")));
        }
        if !direction.is_ready.get() {
            source.at_once.set(0);
            direction.waiting.wait(&mut self.place, context);
            self.registration.with(|event_loop, source| source.update_counted(event_loop));
            return Poll::Pending;
        }
        if source.at_once.get() == MAX_AT_ONCE {
            source.at_once.set(0);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        source.at_once.set(source.at_once.get() + 1);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut place = std::mem::take(&mut self.place);
        if place.is_taken() {
            self.direction().waiting.leave(&mut place);
            self.registration.with(|event_loop, source| source.update_counted(event_loop));
        }
    }
}
