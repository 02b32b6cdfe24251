//! The trait of all event sources, and the loop's interface to them.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::shared::Shared;
use super::{EventLoop, Inner, Refused};
use crate::buffer::Buffer;
use crate::event_loop::channel_table::{ChannelId, ChannelTable};
use crate::event_loop::containment::logger;
use crate::readiness::{Interest, Readiness};

/// An event source, such as a descriptor and its callback. The loop owns it from registration to
/// close.
///
/// The loop calls every method with nothing borrowed, and never while another method runs. The
/// exceptions are [`on_notified`](Source::on_notified) and [`on_control`](Source::on_control): they
/// may be called at any time on the loop's thread, and must not call user code.
pub(crate) trait Source {
    /// The descriptor that the poller watches. `None` if there is no descriptor, or if the source
    /// adds it to the poller and removes it by itself.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether another descriptor may refer to the same open file. Closing the descriptor then does
    /// not remove it from the poller.
    fn may_be_duplicated(&self) -> bool {
        true
    }

    /// Phase 3: readiness and interest overlap. `ready` is all known readiness. The source clears
    /// readiness that no longer holds ([`EventLoop::clear_ready`]); otherwise it runs again in the
    /// next turn.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness);

    /// Called by [`EventLoop::notify`]: state shared with this source, such as a mailbox, has
    /// changed.
    fn on_notified(&self, _event_loop: &EventLoop) {}

    /// A synchronous message from this thread. The receiver may write a reply into `message`.
    fn on_control(&self, _event_loop: &EventLoop, _message: &mut dyn Any) {}

    /// A call of the source's user code, made by [`EventLoop::call_source`]. It may be made inside
    /// a callback of another source, or of this one. In the latter case the source makes it later.
    fn on_call(&self, _event_loop: &EventLoop, _call: &mut dyn Any) {}

    /// Phase 4: a deadline [set](EventLoop::set_deadline) for this source has passed.
    fn on_deadline(&self, _event_loop: &EventLoop) {}

    /// Releases memory that the source does not need, after a [request](EventLoop::request_trim).
    /// Returns whether to call it again, because the memory has been in use meanwhile. It must not
    /// call user code or the loop.
    fn on_trim(&self) -> bool {
        false
    }

    /// What the source is, for the log line of a panic in one of its callbacks, and for a watchdog.
    /// Called after a panic, and before each callback while the loop is watched. It must not call
    /// user code, nor borrow state that is borrowed while a callback runs, such as the handler.
    #[cold]
    fn describe(&self) -> Description {
        Description::of("an internal source")
    }

    /// The source's callback has panicked. Default: removes the source, whose id is `id`.
    fn on_panic(&self, event_loop: &EventLoop, id: ChannelId) {
        event_loop.remove(id);
    }

    /// The state that code outside the source's callbacks uses, on the loop's thread.
    fn core(&self) -> Option<&dyn Any> {
        None
    }

    /// The poll of a future that has called
    /// [`call_after_poll`](EventLoop::call_after_poll) has returned.
    fn on_polled(&self, _event_loop: &EventLoop) {}

    /// The loop is being dropped; [`on_close`](Source::on_close) follows.
    fn on_loop_end(&self, _event_loop: &EventLoop) {}

    /// The last call. The id is void already, and the descriptor is dropped with the source.
    fn on_close(&self, _event_loop: &EventLoop) {}
}

/// What a source is, such as `a connection with 192.0.2.1:80`.
#[derive(Debug)]
pub(crate) struct Description {
    kind: &'static str,
    detail: Detail,
    handler: Option<&'static str>,
}

/// What identifies a source among those of its kind.
#[derive(Debug)]
enum Detail {
    None,
    Text(String),
    /// A preposition and an address. It is formatted only if it is displayed.
    Address(&'static str, SocketAddr),
}

impl Description {
    /// A source of this kind: a noun with its article. For each kind at most one line a second is
    /// logged.
    pub(crate) fn of(kind: &'static str) -> Description {
        Description { kind, detail: Detail::None, handler: None }
    }

    /// Adds what identifies the source among those of its kind, such as `with 192.0.2.1:80`.
    pub(crate) fn detail(mut self, detail: impl fmt::Display) -> Description {
        self.detail = Detail::Text(format!(" {detail}"));
        self
    }

    /// Adds a preposition and an address, without an allocation.
    pub(crate) fn address(mut self, preposition: &'static str, address: SocketAddr) -> Description {
        self.detail = Detail::Address(preposition, address);
        self
    }

    /// Adds the name of the type of the source's handler. A line of the log does not contain it.
    pub(crate) fn handler(mut self, name: &'static str) -> Description {
        self.handler = Some(name);
        self
    }

    pub(crate) fn handler_type(&self) -> Option<&'static str> {
        self.handler
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        match &self.detail {
            Detail::None => Ok(()),
            Detail::Text(text) => f.write_str(text),
            Detail::Address(preposition, address) => write!(f, " {preposition} {address}"),
        }
    }
}

impl EventLoop {
    /// Adds the source returned by `make` to the loop, watched for `interest` and wanting the same.
    ///
    /// # Errors
    /// Returns the error of epoll_ctl(2); the source is then dropped.
    pub(crate) fn register<S: Source + 'static>(
        &self,
        interest: Interest,
        make: impl FnOnce(ChannelId) -> Rc<S>,
    ) -> io::Result<Rc<S>> {
        self.check_process()?;
        if self.inner.dropping.get() {
            return Err(io::Error::other("the event loop is being dropped"));
        }
        let mut made = None;
        let id = self.inner.channels.borrow_mut().insert_with(|id| made.insert(make(id)).clone());
        let source = made.expect("insert_with calls its argument");
        if let Some(Err(error)) = source.fd().map(|fd| self.watch(id, fd, interest)) {
            let removed = self.inner.channels.borrow_mut().remove(id);
            self.discard(removed);
            return Err(error);
        }
        self.set_wanted(id, Readiness::satisfying(interest));
        Ok(source)
    }

    /// Same as [`register`](EventLoop::register), for a value that returns to the caller with an
    /// error: a descriptor, or what `watched` returns the descriptor of. `make` must not call user
    /// code.
    pub(crate) fn register_adopted<S: Source + 'static, D>(
        &self,
        adopted: D,
        watched: impl FnOnce(&D) -> Option<BorrowedFd<'_>>,
        interest: Interest,
        make: impl FnOnce(ChannelId, D) -> Rc<S>,
    ) -> Result<Rc<S>, Refused<D, io::Error>> {
        let id = self.inner.channels.borrow().next_id();
        let watched = match self.inner.dropping.get() {
            true => Err(io::Error::other("the event loop is being dropped")),
            false => watched(&adopted).map_or(Ok(()), |fd| self.watch(id, fd, interest)),
        };
        if let Err(error) = watched {
            return Err(Refused::new(adopted, error));
        }
        let source = make(id, adopted);
        let inserted = self.inner.channels.borrow_mut().insert_with(|_| source.clone() as Rc<dyn Source>);
        debug_assert_eq!(inserted, id);
        self.set_wanted(id, Readiness::satisfying(interest));
        Ok(source)
    }

    /// Starts watching the descriptor of a source that was registered without interest.
    pub(crate) fn watch(&self, id: ChannelId, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.check_process()?;
        if interest.is_empty() { Ok(()) } else { self.inner.poller.register(fd, id.to_key(), interest) }
    }

    /// Changes the interest in a source's descriptor, or makes the poller report its readiness
    /// again.
    pub(crate) fn rewatch(&self, id: ChannelId, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.check_process()?;
        self.inner.poller.reregister(fd, id.to_key(), interest)
    }

    /// Removes a descriptor from the poller, whether or not other descriptors refer to the same
    /// open file.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // A forked child has the descriptor, but the registration belongs to its parent.
        if self.is_inherited() { Ok(()) } else { self.inner.poller.deregister(fd) }
    }

    pub(crate) fn set_wanted(&self, id: ChannelId, wanted: Readiness) {
        self.schedule(|channels| channels.set_wanted(id, wanted));
    }

    /// Adds `changed` to the interest of a channel, or removes it.
    pub(crate) fn change_wanted(&self, id: ChannelId, changed: Readiness, is_wanted: bool) {
        self.schedule(|channels| channels.change_wanted(id, changed, is_wanted));
    }

    pub(crate) fn add_ready(&self, id: ChannelId, ready: Readiness) {
        self.schedule(|channels| channels.add_ready(id, ready));
    }

    /// Makes a change after which a channel may have to run.
    fn schedule(&self, change: impl FnOnce(&mut ChannelTable<Rc<dyn Source>>)) {
        let mut channels = self.inner.channels.borrow_mut();
        change(&mut channels);
        if channels.has_active() {
            self.signal_work();
        }
    }

    pub(crate) fn clear_ready(&self, id: ChannelId, cleared: Readiness) {
        self.inner.channels.borrow_mut().clear_ready(id, cleared);
    }

    /// Whether the id still names a source.
    pub(crate) fn is_registered(&self, id: ChannelId) -> bool {
        self.inner.channels.borrow().get(id).is_some()
    }

    /// Removes the source from the loop at once, without calling it. The source lives until the
    /// current call into it returns. A panic in a user's destructor does not reach the caller.
    pub(crate) fn remove(&self, id: ChannelId) {
        let removed = self.unregister(id);
        self.discard(removed);
    }

    /// Removes the source from the table and its descriptor from the poller. Otherwise a duplicate
    /// of the descriptor (by dup(2), in another process) would keep the registration until it is
    /// closed, and each of its events would wake the loop.
    pub(super) fn unregister(&self, id: ChannelId) -> Option<Rc<dyn Source>> {
        let source = self.inner.channels.borrow_mut().remove(id)?;
        if let Some(fd) = source.fd().filter(|_| source.may_be_duplicated()) {
            if let Err(error) = self.unwatch(fd) {
                logger::recurring("a descriptor that stays in the poller", |suppressed| {
                    log::warn!("cannot take a descriptor out of the poller: {error}{suppressed}");
                });
            }
        }
        Some(source)
    }

    /// Schedules the source's [`on_close`](Source::on_close) for phase 6, and then its drop.
    pub(crate) fn close_later(&self, id: ChannelId) {
        self.inner.closing.borrow_mut().push(id);
        self.signal_work();
    }

    /// Calls the source's [`on_notified`](Source::on_notified), if it is still registered.
    pub(crate) fn notify(&self, id: ChannelId) {
        let source = self.inner.channels.borrow().get(id).cloned();
        if let Some(source) = source {
            source.on_notified(self);
        }
    }

    /// Sends `message` to the source's [`on_control`](Source::on_control). Returns whether the
    /// source exists.
    pub(crate) fn send_control(&self, id: ChannelId, message: &mut dyn Any) -> bool {
        let source = self.inner.channels.borrow().get(id).cloned();
        source.map(|source| source.on_control(self, message)).is_some()
    }

    /// Passes a call of user code to the source's [`on_call`](Source::on_call). Returns whether the
    /// source exists.
    pub(crate) fn call_source(&self, id: ChannelId, call: &mut dyn Any) -> bool {
        let source = self.inner.channels.borrow().get(id).cloned();
        source.map(|source| source.on_call(self, call)).is_some()
    }

    /// Returns a source and its cached readiness.
    #[inline]
    pub(crate) fn source(&self, id: ChannelId) -> Option<(Rc<dyn Source>, Readiness)> {
        let channels = self.inner.channels.borrow();
        channels.get_ready(id).map(|(source, ready)| (Rc::clone(source), ready))
    }

    /// Lends the loop's input buffer, empty. [`return_input`](EventLoop::return_input) takes it
    /// back. A buffer lost to a panic, or kept by a handler, is replaced.
    pub(crate) fn lend_input(&self) -> Box<Buffer> {
        let size = self.inner.input_size;
        let returned = self.inner.input.take().filter(|input| input.capacity() >= size);
        returned.unwrap_or_else(|| Box::new(Buffer::with_capacity(size)))
    }

    /// The size of the loop's input buffer.
    pub(crate) fn input_size(&self) -> usize {
        self.inner.input_size
    }

    pub(crate) fn return_input(&self, mut input: Box<Buffer>) {
        input.clear();
        self.inner.input.set(Some(input));
    }

    /// Lends the loop's output buffer, empty. [`return_output`](EventLoop::return_output) takes it
    /// back. If it is lent already, the call returns a new buffer.
    #[inline]
    pub(crate) fn lend_output(&self) -> Box<Buffer> {
        self.inner.output.take().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn return_output(&self, mut output: Box<Buffer>) {
        output.clear();
        self.inner.output.set(Some(output));
    }
}

/// The number of spare buffers that a loop keeps, and the largest one: twice what the filters of a
/// connection encode at once, since a buffer at least doubles when it grows.
const MAX_SPARES: usize = 4;
const MAX_SPARE: usize = 256 * 1024;

impl EventLoop {
    /// Lends an empty buffer. [`return_spare`](EventLoop::return_spare) takes it back; one that is
    /// not returned is replaced.
    pub(crate) fn lend_spare(&self) -> Buffer {
        self.inner.spare_buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn return_spare(&self, mut buffer: Buffer) {
        buffer.clear();
        let mut spares = self.inner.spare_buffers.borrow_mut();
        if spares.len() < MAX_SPARES && buffer.capacity() <= MAX_SPARE {
            spares.push(buffer);
        }
    }
}

/// The channel that wakes the loop: an eventfd that other threads write to.
pub(super) struct Wakeup {
    id: ChannelId,
    shared: Arc<Shared>,
}

impl Wakeup {
    pub(super) fn new(id: ChannelId, shared: Arc<Shared>) -> Wakeup {
        Wakeup { id, shared }
    }
}

impl Source for Wakeup {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.wakeup.as_fd())
    }

    /// Reads the counter to zero. The read precedes the take of the tasks in phase 5. So a wake-up
    /// written after this read belongs to a task that the take may miss, and ends the next wait.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let read = self.shared.wakeup.read();
        event_loop.clear_ready(self.id, Readiness::READABLE);
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => logger::recurring("reading the wake-up counter", |suppressed| {
                log::error!("cannot read the wake-up counter: {error}{suppressed}");
            }),
        }
    }

    fn describe(&self) -> Description {
        Description::of("the wake-up of a loop")
    }

    fn on_panic(&self, _event_loop: &EventLoop, _id: ChannelId) {}
}

/// A weak reference to the loop, for its channels and servers: they do not keep it alive.
#[derive(Clone)]
pub(crate) struct WeakLoop(Weak<Inner>);

impl WeakLoop {
    /// Calls `f` with the loop, if it still exists and belongs to this process.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&EventLoop) -> R) -> Option<R> {
        let event_loop = EventLoop { inner: self.0.upgrade()? };
        (!event_loop.is_inherited()).then(|| f(&event_loop))
    }

    /// Whether the loop still exists, and belongs to the process that this one was forked from.
    pub(crate) fn is_inherited(&self) -> bool {
        self.0.upgrade().is_some_and(|inner| EventLoop { inner }.is_inherited())
    }
}

impl EventLoop {
    pub(crate) fn downgrade(&self) -> WeakLoop {
        WeakLoop(Rc::downgrade(&self.inner))
    }
}
