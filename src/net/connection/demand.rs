//! Connections as byte streams: input is received when it is demanded.
//!
//! A connection that is read by a future receives directly into the future's buffer: no byte is
//! copied, and none is in the connection while the future does other work. The kernel's buffer then
//! fills and slows the peer down. The loop only reports that there is input; the cached readiness
//! says so without a system call, so a message costs one recv(2) as with callbacks.
//!
//! With filters the loop receives and decodes, since filters are user code that must not run inside
//! a future. It decodes one input, and then waits until the stream has taken it.

use std::cell::{Cell, RefCell};
use std::io;
#[cfg(any(feature = "tokio", feature = "hyper"))]
use std::mem::MaybeUninit;
use std::task::{Context, Poll, Waker};

use super::read::{ReadBlocks, Received};
use super::{ConnectionCore, ConnectionState, INPUT};
use crate::buffer::Buffer;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::tasks::wait_list::{WaitList, wake_by_ref};
use crate::event_loop::{EventLoop, WeakLoop};
use crate::net::disposal::close_descriptors;
use crate::net::result::{CloseReason, SendError};
#[cfg(any(feature = "tokio", feature = "hyper"))]
use crate::net::sys::transport::write_copy;
use crate::readiness::Readiness;

/// After this number of operations that were ready at once, a stream lets other work of the loop
/// run. A peer that sends without a pause cannot keep a future from returning.
const OPERATIONS: u8 = 32;

/// The least space that is offered to a read into a buffer, in bytes.
const LEAST_SPACE: usize = 4 * 1024;

/// What a stream, its connection and its handler share. All three are on one loop.
///
/// In the order of its declaration, for the reason given at [`ConnectionCore`].
#[repr(C)]
pub(in crate::net) struct StreamState {
    event_loop: WeakLoop,
    /// Set when the connection opens.
    id: Cell<Option<ChannelId>>,
    /// The connection's interest includes input.
    is_watching: Cell<bool>,
    /// The end of the decoded input was reported.
    pub(in crate::net) input_ended: Cell<bool>,
    /// How many operations were ready at once since the last one that was not.
    operations: Cell<u8>,
    pub(in crate::net) is_stopping: Cell<bool>,
    /// The stream waits for stops, and continues to read after one.
    pub(in crate::net) handles_stop: Cell<bool>,
    pub(in crate::net) reader: Listener,
    pub(in crate::net) writer: Listener,
    pub(in crate::net) stop: WaitList,
    /// Set when the connection has closed, to its error.
    pub(in crate::net) end: RefCell<Option<Result<(), io::Error>>>,
    /// Input that was not read before the connection closed.
    pub(in crate::net) left: RefCell<Option<Box<Buffer>>>,
}

impl StreamState {
    pub(in crate::net) fn new(event_loop: &EventLoop) -> StreamState {
        StreamState {
            event_loop: event_loop.downgrade(),
            id: Cell::new(None),
            reader: Listener::default(),
            writer: Listener::default(),
            stop: WaitList::default(),
            is_watching: Cell::new(false),
            input_ended: Cell::new(false),
            is_stopping: Cell::new(false),
            handles_stop: Cell::new(false),
            operations: Cell::new(0),
            end: RefCell::new(None),
            left: RefCell::new(None),
        }
    }

    /// Calls `f` with the connection and its readiness. `None` before it is open, after it has
    /// closed, and in a forked child.
    #[inline]
    pub(in crate::net) fn with<R>(
        &self,
        f: impl FnOnce(&EventLoop, &ConnectionCore, Readiness) -> R,
    ) -> Option<R> {
        let id = self.id.get()?;
        let with = |event_loop: &EventLoop| {
            let (source, ready) = event_loop.source(id)?;
            let core = source.core()?.downcast_ref::<ConnectionCore>()?;
            Some(f(event_loop, core, ready))
        };
        self.event_loop.with(with)?
    }

    /// The result of the connection, once it has closed. `true` if no result will come.
    pub(in crate::net) fn result(&self) -> Option<io::Result<()>> {
        match &*self.end.borrow() {
            Some(Ok(())) => Some(Ok(())),
            Some(Err(error)) => Some(Err(copy(error))),
            // The loop has ended, or belongs to the parent of this process.
            None if self.event_loop.with(|_| ()).is_none() => Some(Err(SendError::Closed.into())),
            None => None,
        }
    }

    /// Takes input that was left when the connection closed.
    pub(in crate::net) fn take_left(&self, into: &mut Target<'_>) -> usize {
        let mut left = self.left.borrow_mut();
        let taken = left.as_mut().map_or(0, |left| into.take_from(left));
        if left.as_ref().is_some_and(|left| left.is_empty()) {
            *left = None;
        }
        taken
    }

    /// Whether the caller has to return to its executor first, which polls it again at once.
    pub(super) fn must_yield(&self, context: &Context<'_>) -> bool {
        let operations = self.operations.get() + 1;
        let is_due = operations > OPERATIONS;
        self.operations.set(if is_due { 0 } else { operations });
        if is_due {
            context.waker().wake_by_ref();
        }
        is_due
    }

    pub(in crate::net) fn notify_all(&self) {
        // In a forked child, a waker may take a lock that a thread of the parent held.
        if self.event_loop.is_inherited() {
            return;
        }
        self.reader.notify();
        self.writer.notify();
    }
}

/// A future that waits, or none.
#[derive(Default)]
pub(in crate::net) struct Listener {
    /// Kept after a wake-up: the next wait mostly has the same one.
    waker: Cell<Option<Contained<Waker>>>,
    is_waiting: Cell<bool>,
}

impl Listener {
    pub(in crate::net) fn listen(&self, context: &Context<'_>) {
        let present = self.waker.take().filter(|waker| waker.will_wake(context.waker()));
        let waker = present.unwrap_or_else(|| Contained::new(context.waker().clone()));
        self.waker.set(Some(waker));
        self.is_waiting.set(true);
    }

    /// Wakes the future that waits. Returns whether there is one.
    pub(in crate::net) fn notify(&self) -> bool {
        if !self.is_waiting.replace(false) {
            return false;
        }
        if let Some(waker) = self.waker.take() {
            // May be of any executor, and set another one.
            wake_by_ref(&waker);
            let newer = self.waker.take();
            self.waker.set(Some(newer.unwrap_or(waker)));
        }
        true
    }
}

/// Where a read stores its bytes.
pub(in crate::net) enum Target<'a> {
    Slice(&'a mut [u8]),
    /// Appended.
    Buffer(&'a mut Buffer),
    /// Memory that need not be initialised. A read that returns `n` has initialised its first `n`
    /// bytes, and has not made any byte uninitialised. Unsafe code relies on both.
    #[cfg(any(feature = "tokio", feature = "hyper"))]
    Uninit(&'a mut [MaybeUninit<u8>]),
}

impl Target<'_> {
    fn is_full(&self) -> bool {
        match self {
            Target::Slice(slice) => slice.is_empty(),
            Target::Buffer(_) => false,
            #[cfg(any(feature = "tokio", feature = "hyper"))]
            Target::Uninit(space) => space.is_empty(),
        }
    }

    fn take_from(&mut self, from: &mut Buffer) -> usize {
        match self {
            Target::Slice(slice) => {
                let n = slice.len().min(from.len());
                slice[..n].copy_from_slice(from.take(n));
                n
            }
            Target::Buffer(buffer) => {
                let n = from.len();
                buffer.append_buffer(from);
                n
            }
            #[cfg(any(feature = "tokio", feature = "hyper"))]
            Target::Uninit(space) => {
                let n = space.len().min(from.len());
                write_copy(space, from.take(n));
                n
            }
        }
    }

    /// Makes space in a buffer. One without storage borrows some from the loop.
    fn prepare(&mut self, event_loop: &EventLoop) {
        let Target::Buffer(buffer) = self else { return };
        if buffer.capacity() == 0 {
            **buffer = event_loop.lend_spare();
            buffer.reserve(event_loop.input_size());
        } else if buffer.writable_mut().len() < LEAST_SPACE {
            buffer.reserve(LEAST_SPACE);
        }
    }

    /// The read has to wait. Gives the storage of an empty buffer back, so that a stream that waits
    /// holds none.
    fn release(&mut self, event_loop: &EventLoop) {
        let Target::Buffer(buffer) = self else { return };
        if buffer.is_empty() && buffer.capacity() == event_loop.input_size() {
            event_loop.return_spare(std::mem::take(buffer));
        }
    }

    /// Receives once. `count` becomes the number of bytes.
    fn receive(
        &mut self,
        core: &ConnectionCore,
        event_loop: &EventLoop,
        ready: Readiness,
        count: &mut usize,
    ) -> Received {
        match self {
            Target::Slice(slice) => core.receive_into(event_loop, ready, slice, count),
            Target::Buffer(buffer) => {
                let received = core.receive_into(event_loop, ready, buffer.writable_mut(), count);
                buffer.commit(*count);
                received
            }
            #[cfg(any(feature = "tokio", feature = "hyper"))]
            Target::Uninit(space) => core.receive_uninit(event_loop, ready, space, count),
        }
    }
}

/// An error for another caller. The first one may have a source, which cannot be copied.
pub(in crate::net) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl ConnectionCore {
    /// The connection has opened: from now on it reads on demand.
    pub(in crate::net) fn attach(&self, event_loop: &EventLoop, stream: &std::rc::Rc<StreamState>) {
        stream.id.set(Some(self.id));
        _ = self.stream.set(std::rc::Rc::clone(stream));
        self.block_reading(ReadBlocks::DEMAND);
        self.update_wanted(event_loop);
        stream.notify_all();
    }

    pub(in crate::net) fn is_stream(&self) -> bool {
        self.stream.get().is_some()
    }

    pub(super) fn is_watched_by_stream(&self) -> bool {
        self.stream.get().is_some_and(|stream| stream.is_watching.get())
    }

    /// Reports a readiness to the stream. Returns whether a reader is woken, which then finds the
    /// error too, if there is one. The input is no longer watched.
    #[inline]
    pub(in crate::net) fn report_to_stream(&self, event_loop: &EventLoop, ready: Readiness) -> bool {
        self.stream.get().is_some_and(|stream| self.report(event_loop, ready, stream))
    }

    /// Wakes the reader of a stream.
    pub(super) fn notify_reader(&self) {
        if let Some(stream) = self.stream.get() {
            stream.reader.notify();
        }
    }

    fn report(&self, event_loop: &EventLoop, ready: Readiness, stream: &StreamState) -> bool {
        if self.has_output_failed() {
            stream.writer.notify();
        }
        if !ready.intersects(INPUT) {
            return false;
        }
        // The reader watches again when it has to wait. Until it has read, the input would keep the
        // connection active, and the loop would turn once more for each message. A waker may poll
        // the reader at once, so it is called last.
        if stream.is_watching.replace(false) {
            self.watch_input(event_loop, false);
        }
        stream.reader.notify()
    }

    /// Same as [`update_wanted`](ConnectionCore::update_wanted), after a change of what the stream
    /// watches.
    fn watch_input(&self, event_loop: &EventLoop, watch: bool) {
        match self.state.get() {
            ConnectionState::Open if self.is_blocked() => {
                event_loop.change_wanted(self.id, INPUT & !Readiness::ERROR, watch);
            }
            _ => self.update_wanted(event_loop),
        }
    }

    /// Decoded input has arrived: the next is received when this one has been read.
    pub(in crate::net) fn hold_decoded(&self, event_loop: &EventLoop) {
        self.block_reading(ReadBlocks::DEMAND);
        self.update_wanted(event_loop);
    }

    /// Receives once.
    pub(in crate::net) fn poll_receive(
        &self,
        event_loop: &EventLoop,
        stream: &StreamState,
        ready: Readiness,
        context: &Context<'_>,
        into: &mut Target<'_>,
    ) -> Poll<io::Result<usize>> {
        if into.is_full() {
            return Poll::Ready(Ok(0));
        }
        if self.state.get() == ConnectionState::Closed {
            stream.reader.listen(context);
            return Poll::Pending;
        }
        if let Some(mut unread) = self.unread.take() {
            let n = into.take_from(&mut unread);
            self.note_moved(n);
            if !unread.is_empty() {
                self.unread.set(Some(unread));
            }
            self.report_memory();
            return Poll::Ready(Ok(n));
        }
        if self.discards_input() || self.peer_finished.get() || stream.input_ended.get() {
            return Poll::Ready(Ok(0));
        }
        if self.has_filters() {
            stream.reader.listen(context);
            self.unblock_reading(ReadBlocks::DEMAND);
            self.update_wanted(event_loop);
            return Poll::Pending;
        }
        let is_blocked = self.read_blocks.get().without(ReadBlocks::DEMAND) != ReadBlocks::NONE;
        if ready.intersects(INPUT) && !is_blocked {
            if stream.must_yield(context) {
                return Poll::Pending;
            }
            into.prepare(event_loop);
            let mut n = 0;
            match into.receive(self, event_loop, ready, &mut n) {
                Received::Input => return Poll::Ready(Ok(n)),
                Received::InputAndDescriptors(descriptors) => {
                    close_descriptors(descriptors);
                    return Poll::Ready(Ok(n));
                }
                Received::End => {
                    self.close_if_finished(event_loop);
                    return Poll::Ready(Ok(0));
                }
                Received::Nothing => {}
            }
        }
        into.release(event_loop);
        stream.operations.set(0);
        self.send_before_wait(event_loop);
        stream.reader.listen(context);
        if !stream.is_watching.replace(true) {
            self.watch_input(event_loop, true);
        }
        Poll::Pending
    }

    /// The stream was dropped: closes the connection after all accepted output.
    pub(in crate::net) fn release_stream(&self, event_loop: &EventLoop) {
        match self.membership.group().limits.drain_timeout {
            _ if self.has_close_deadline() => {}
            limit if limit.is_zero() => self.close(event_loop, CloseReason::Closed),
            limit => self.close_gracefully(event_loop, limit),
        }
    }

    /// The task of the stream has panicked.
    pub(in crate::net) fn reset_after_panic(&self, event_loop: &EventLoop) {
        self.reset(event_loop, CloseReason::Panicked);
    }

    /// The task of the stream has returned an error.
    pub(in crate::net) fn end_stream_with(&self, event_loop: &EventLoop, error: io::Error) {
        self.end_with_error(event_loop, error);
    }
}
