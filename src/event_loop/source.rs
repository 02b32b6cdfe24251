//! What the loop can call back, and what it offers to those it calls.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::shared::Shared;
use super::{EventLoop, Inner};
use crate::buffer::Buffer;
use crate::event_loop::channel_table::{ChannelId, ChannelTable};
use crate::event_loop::containment::logger;
use crate::readiness::{Interest, Readiness};

/// A descriptor with somebody who answers for it. The loop owns it from registration to close.
///
/// Every method is called from the loop with nothing borrowed, and never while another one runs, with one exception:
/// [`on_notified`](Source::on_notified) and [`on_control`](Source::on_control) may come at any time on the loop's thread, and must not call
/// the user's code.
pub(crate) trait Source {
    /// The descriptor that the poller watches. `None` if there is none to be watched, or the source watches it, and takes it out of
    /// the poller, by itself.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether another descriptor may stand for the same open file. Closing the descriptor does not take it out of the poller then.
    fn may_be_duplicated(&self) -> bool {
        true
    }

    /// Phase 3: what is ready meets what is wanted. `ready` is all that is known to be ready. The source says through
    /// [`EventLoop::clear_ready`] what no longer holds, or it is run again in the next turn.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness);

    /// Somebody who knows the id has left word for this source, in a place that the two have agreed on.
    fn on_notified(&self, _event_loop: &EventLoop) {}

    /// Somebody on this thread says something to this source, in words that the two have agreed on, and may be answered in them.
    fn on_control(&self, _event_loop: &EventLoop, _word: &mut dyn Any) {}

    /// Phase 4: a deadline that was [set](EventLoop::set_deadline) for it has come.
    fn on_deadline(&self, _event_loop: &EventLoop) {}

    /// Gives up room that it does not need, after it has [requested](EventLoop::request_trim) that. Returns whether it is to be called
    /// again, since it has used the room meanwhile. Must not call the user's code or the loop.
    fn on_trim(&self) -> bool {
        false
    }

    /// Its callback has panicked.
    fn on_panic(&self, event_loop: &EventLoop);

    /// The loop is being dropped; [`on_close`](Source::on_close) follows.
    fn on_loop_end(&self, _event_loop: &EventLoop) {}

    /// The last call: the id is void already, and the descriptor goes with the source.
    fn on_close(&self, _event_loop: &EventLoop) {}
}

impl EventLoop {
    /// Takes `make`'s source into the loop, watched for `interest` and wanting just that.
    ///
    /// # Errors
    /// What the kernel says of the descriptor; the source is dropped then.
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
        self.set_wanted(id, Readiness::answering(interest));
        Ok(source)
    }

    /// Begins to watch the descriptor of a source that was registered for nothing.
    pub(crate) fn watch(&self, id: ChannelId, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.check_process()?;
        if interest.is_empty() { Ok(()) } else { self.inner.poller.register(fd, id.to_key(), interest) }
    }

    /// Watches the descriptor of a source for something else, or has what still stands reported afresh.
    pub(crate) fn rewatch(&self, id: ChannelId, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.check_process()?;
        self.inner.poller.reregister(fd, id.to_key(), interest)
    }

    /// Takes a descriptor out of the poller, whatever other descriptors stand for the same open file.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // A forked child has the descriptor, and the registration is its parent's.
        if self.is_inherited() { Ok(()) } else { self.inner.poller.deregister(fd) }
    }

    pub(crate) fn set_wanted(&self, id: ChannelId, wanted: Readiness) {
        self.schedule(|channels| channels.set_wanted(id, wanted));
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

    pub(crate) fn clear_ready(&self, id: ChannelId, gone: Readiness) {
        self.inner.channels.borrow_mut().clear_ready(id, gone);
    }

    /// Whether the id still names a source.
    pub(crate) fn is_registered(&self, id: ChannelId) -> bool {
        self.inner.channels.borrow().get(id).is_some()
    }

    /// Takes the source out of the loop at once, without a word to it. It lives on for as long as a call into it lasts. A destructor of
    /// the user's that panics does not keep the caller from going on.
    pub(crate) fn remove(&self, id: ChannelId) {
        let removed = self.unregister(id);
        self.discard(removed);
    }

    /// Takes the source out of the table and its descriptor out of the poller. Otherwise a duplicate of the descriptor (by dup(2), in
    /// another process) would keep the registration for as long as it is open, and each event of it would wake the loop.
    pub(super) fn unregister(&self, id: ChannelId) -> Option<Rc<dyn Source>> {
        let source = self.inner.channels.borrow_mut().remove(id)?;
        if let Some(fd) = source.fd().filter(|_| source.may_be_duplicated()) {
            if let Err(error) = self.unwatch(fd) {
                logger::recurring("a descriptor that stays in the poller", |left_out| {
                    log::warn!("cannot take a descriptor out of the poller: {error}{left_out}");
                });
            }
        }
        Some(source)
    }

    /// Has the source told in phase 6 that it is closed, and drops it then.
    pub(crate) fn close_later(&self, id: ChannelId) {
        self.inner.closing.borrow_mut().push(id);
        self.signal_work();
    }

    /// Passes the word that something has been left for the source. Finds nothing if the source has gone.
    pub(crate) fn notify(&self, id: ChannelId) {
        let source = self.inner.channels.borrow().get(id).cloned();
        if let Some(source) = source {
            source.on_notified(self);
        }
    }

    /// Says `word` to the source. Answers whether it is there.
    pub(crate) fn send_control(&self, id: ChannelId, word: &mut dyn Any) -> bool {
        let source = self.inner.channels.borrow().get(id).cloned();
        source.map(|source| source.on_control(self, word)).is_some()
    }

    /// Lends the loop's input buffer, empty. It comes back through [`return_input`](EventLoop::return_input); one that a
    /// panic has swallowed, or a handler has kept for itself, is made anew.
    pub(crate) fn lend_input(&self) -> Box<Buffer> {
        let size = self.inner.input_size;
        let returned = self.inner.input.take().filter(|input| input.capacity() >= size);
        returned.unwrap_or_else(|| Box::new(Buffer::with_capacity(size)))
    }

    pub(crate) fn return_input(&self, mut input: Box<Buffer>) {
        input.clear();
        self.inner.input.set(Some(input));
    }
}

/// The channel that wakes the loop: a counter that other threads add to.
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

    /// Reads the counter to zero. This comes before phase 5 takes the tasks, so a wake that is written later than this
    /// read is for a task that may be missed, and will wake the next wait.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        let read = self.shared.wakeup.read();
        event_loop.clear_ready(self.id, Readiness::READABLE);
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => logger::recurring("reading the wake-up counter", |left_out| {
                log::error!("cannot read the wake-up counter: {error}{left_out}");
            }),
        }
    }

    fn on_panic(&self, _event_loop: &EventLoop) {}
}

/// The loop as its channels and servers keep it: they can reach it, and do not keep it alive.
#[derive(Clone)]
pub(crate) struct WeakLoop(Weak<Inner>);

impl WeakLoop {
    /// Calls `f` with the loop, if it is still there, and belongs to this process.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&EventLoop) -> R) -> Option<R> {
        let event_loop = EventLoop { inner: self.0.upgrade()? };
        (!event_loop.is_inherited()).then(|| f(&event_loop))
    }
}

impl EventLoop {
    pub(crate) fn downgrade(&self) -> WeakLoop {
        WeakLoop(Rc::downgrade(&self.inner))
    }
}
