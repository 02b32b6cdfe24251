//! The input side of a connection.

use std::io;
#[cfg(any(feature = "tokio", feature = "hyper"))]
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use super::fd_passing::FdPassing;
use super::{ConnectionCore, ConnectionState, INPUT};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::net::address::Address;
use crate::net::disposal::close_descriptors;
use crate::net::filter::FilterContext;
use crate::net::result::CloseReason;
use crate::net::sys::transport::Transferred;
#[cfg(any(feature = "tokio", feature = "hyper"))]
use crate::net::sys::transport::write_copy;
use crate::readiness::Readiness;

/// A buffer of unread input with at most this much storage is never trimmed.
const TRIM_ABOVE: usize = 4 * 1024;

/// Whether the buffer has much more storage than its content needs.
fn is_spacious(unread: &Buffer) -> bool {
    unread.capacity() > TRIM_ABOVE && unread.len() <= unread.capacity() / 8
}

/// The reasons for which a connection does not read. It reads while the set is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadBlocks(u8);

impl ReadBlocks {
    pub(super) const NONE: ReadBlocks = ReadBlocks(0);
    /// The user has paused reading.
    pub(super) const USER: ReadBlocks = ReadBlocks(1 << 0);
    /// The unsent replies have passed the high-water mark: the peer does not read them.
    pub(super) const HIGH_WATER: ReadBlocks = ReadBlocks(1 << 1);
    /// The linked connection has too many unsent bytes.
    pub(super) const RELAY: ReadBlocks = ReadBlocks(1 << 2);
    /// As many replies as the limit allows are reserved and not filled.
    pub(super) const REPLIES: ReadBlocks = ReadBlocks(1 << 3);
    /// A filter was added, and output from before it is not sent yet.
    pub(super) const UPGRADE: ReadBlocks = ReadBlocks(1 << 4);
    /// A filter waits for something that is not input.
    pub(super) const FILTER: ReadBlocks = ReadBlocks(1 << 5);
    /// A byte stream reads on demand, and does not wait for decoded input.
    pub(super) const DEMAND: ReadBlocks = ReadBlocks(1 << 6);

    pub(super) fn is_empty(self) -> bool {
        self == ReadBlocks::NONE
    }

    fn contains(self, reason: ReadBlocks) -> bool {
        self.0 & reason.0 != 0
    }

    fn with(self, reason: ReadBlocks) -> ReadBlocks {
        ReadBlocks(self.0 | reason.0)
    }

    pub(super) fn without(self, reason: ReadBlocks) -> ReadBlocks {
        ReadBlocks(self.0 & !reason.0)
    }
}

/// What happens to input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputUse {
    Delivered,
    /// The user has shut the input down: it is discarded, and the output continues.
    Shut,
    /// The connection drains before it closes: input is discarded.
    Draining,
}

/// The result of one attempt to read.
pub(in crate::net) enum Received {
    /// There is input for the handler, new or left over.
    Input,
    /// Input, and the descriptors received with it; never an empty list.
    InputAndDescriptors(Vec<OwnedFd>),
    /// The peer's FIN: there is no more input.
    End,
    /// Nothing for the handler.
    Nothing,
}

impl ConnectionCore {
    /// Whether reading is enabled and there may be input: on the socket, or due to be delivered
    /// again.
    pub(in crate::net) fn is_reading(&self) -> bool {
        self.read_blocks.get().is_empty() && (self.redeliver.get() || !self.peer_finished.get())
    }

    /// Whether reading is paused, for any reason.
    pub(in crate::net) fn is_blocked(&self) -> bool {
        !self.read_blocks.get().is_empty()
    }

    pub(super) fn is_blocked_by(&self, reason: ReadBlocks) -> bool {
        self.read_blocks.get().contains(reason)
    }

    /// Stops reading for `reason`, unless the input is discarded. The caller updates the interest.
    pub(super) fn block_reading(&self, reason: ReadBlocks) {
        if self.discards_input() {
            return;
        }
        self.read_blocks.set(self.read_blocks.get().with(reason));
    }

    /// Removes `reason`, and returns whether it was set. The caller updates the interest.
    pub(super) fn unblock_reading(&self, reason: ReadBlocks) -> bool {
        let blocks = self.read_blocks.get();
        self.read_blocks.set(blocks.without(reason));
        blocks.contains(reason)
    }

    /// Reads once into `input`, at most its capacity, so that a busy peer does not starve the
    /// others. If there is more, the connection stays ready and continues in the next turn of the
    /// loop.
    pub(in crate::net) fn receive(
        &self,
        event_loop: &EventLoop,
        ready: Readiness,
        input: &mut Buffer,
    ) -> Received {
        if self.redeliver.replace(false) {
            self.update_wanted(event_loop);
            return Received::Input;
        }
        let mut n = 0;
        let received = self.receive_into(event_loop, ready, input.writable_mut(), &mut n);
        input.commit(n);
        received
    }

    /// Same as [`receive`](ConnectionCore::receive), into `space`, which is not empty. `count`
    /// becomes the number of bytes.
    #[inline(always)]
    pub(super) fn receive_into(
        &self,
        event_loop: &EventLoop,
        ready: Readiness,
        space: &mut [u8],
        count: &mut usize,
    ) -> Received {
        let capacity = space.len();
        let mut descriptors = Vec::new();
        let received = match self.passing.get() {
            FdPassing::None => self.transport.receive(space),
            passing => self.transport.receive_passing(space, passing.limit(), &mut descriptors),
        };
        self.on_received(event_loop, ready, capacity, received, descriptors, count)
    }

    /// Same as [`receive_into`](ConnectionCore::receive_into), into memory that need not be
    /// initialised. Its first `count` bytes become initialised.
    #[cfg(any(feature = "tokio", feature = "hyper"))]
    pub(super) fn receive_uninit(
        &self,
        event_loop: &EventLoop,
        ready: Readiness,
        space: &mut [MaybeUninit<u8>],
        count: &mut usize,
    ) -> Received {
        if self.passing.get() != FdPassing::None {
            let mut input = event_loop.lend_input();
            let bytes = input.writable_mut();
            let most = bytes.len().min(space.len());
            let received = self.receive_into(event_loop, ready, &mut bytes[..most], count);
            write_copy(space, &bytes[..*count]);
            event_loop.return_input(input);
            return received;
        }
        let capacity = space.len();
        let received = self.transport.receive_uninit(space);
        self.on_received(event_loop, ready, capacity, received, Vec::new(), count)
    }

    /// Evaluates the result of a read of at most `capacity` bytes.
    #[inline(always)]
    fn on_received(
        &self,
        event_loop: &EventLoop,
        ready: Readiness,
        capacity: usize,
        received: io::Result<Transferred>,
        descriptors: Vec<OwnedFd>,
        count: &mut usize,
    ) -> Received {
        match received {
            Ok(Transferred::Bytes(0)) if self.has_taken_reset() => {
                // Closes with the error of the earlier write.
                self.close(event_loop, CloseReason::Finished);
                Received::Nothing
            }
            Ok(Transferred::Bytes(0)) => {
                if ready.is_error() {
                    self.record_error_after_eof();
                }
                self.peer_finished.set(true);
                self.update_wanted(event_loop);
                Received::End
            }
            Ok(Transferred::Bytes(n)) => {
                // A short read has drained the socket, which saves the read that would return
                // EAGAIN; later data raises a new edge. There are three exceptions. If an end of
                // input or an error was reported, its edge is spent, and only further reads reach
                // it. If there is urgent data, a read stops before it (tcp(7)).
                // On a Unix socket a read stops after attached descriptors, even if they are not
                // received; on a terminal, after a line.
                let is_all =
                    !ready.intersects(Readiness::READ_CLOSED | Readiness::ERROR | Readiness::PRIORITY);
                if n < capacity && is_all && self.known_peer().is_some_and(Address::is_inet) {
                    event_loop.clear_ready(self.id, Readiness::READABLE);
                }
                *count = n;
                self.record_activity(event_loop);
                // A handshake continues while the connection drains.
                match (self.discards_input() && !self.is_in_handshake(), descriptors.is_empty()) {
                    (true, _) => {
                        close_descriptors(descriptors);
                        self.count_discarded(event_loop, n);
                        Received::Nothing
                    }
                    (false, true) => Received::Input,
                    (false, false) => Received::InputAndDescriptors(descriptors),
                }
            }
            Ok(Transferred::WouldBlock) => {
                self.on_socket_drained();
                event_loop.clear_ready(self.id, (INPUT & !Readiness::ERROR) | Readiness::PRIORITY);
                if ready.is_error() {
                    self.check_error(event_loop);
                }
                Received::Nothing
            }
            Err(error) => {
                self.record_left_unread(&error);
                self.close(event_loop, CloseReason::Error(error));
                Received::Nothing
            }
        }
    }

    /// Takes the unread input, to deliver it to the handler now.
    pub(in crate::net) fn take_unread(&self) -> Option<Box<Buffer>> {
        self.resume_pending.set(false);
        self.unread.take()
    }

    pub(in crate::net) fn has_unread(&self) -> bool {
        self.unread_len() > 0
    }

    /// Whether the end of the input has been received.
    pub(in crate::net) fn has_peer_finished(&self) -> bool {
        self.peer_finished.get()
    }

    /// The number of unread bytes.
    pub(super) fn unread_len(&self) -> usize {
        let unread = self.unread.take();
        let len = unread.as_ref().map_or(0, |unread| unread.len());
        self.unread.set(unread);
        len
    }

    /// The memory that the unread bytes take.
    fn unread_memory(&self) -> usize {
        let unread = self.unread.take();
        let memory = unread.as_ref().map_or(0, |unread| unread.capacity());
        self.unread.set(unread);
        memory
    }

    /// Keeps the input that the handler has not consumed, which is not empty, within the limit.
    pub(in crate::net) fn keep_unread(&self, event_loop: &EventLoop, unread: Box<Buffer>) {
        self.keep_within(event_loop, unread, self.membership.group().limits.max_unread);
    }

    /// Same as [`keep_unread`](ConnectionCore::keep_unread), for input that filters have decoded
    /// and the handler was not offered. A low limit does not apply to it.
    pub(in crate::net) fn keep_unoffered(&self, event_loop: &EventLoop, unread: Box<Buffer>) {
        let limit = self.membership.group().limits.max_unread.max(2 * FilterContext::PIECE);
        self.keep_within(event_loop, unread, limit);
    }

    fn keep_within(&self, event_loop: &EventLoop, unread: Box<Buffer>, limit: usize) {
        // The handler may have ended its input in this callback.
        if self.discards_input() {
            return;
        }
        if unread.len() > limit {
            let message = "the handler leaves more unread input than the limit allows";
            self.close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::StorageFull, message)));
        }
        if is_spacious(&unread) && !self.unread_is_spacious.replace(true) {
            event_loop.request_trim(self.id);
        }
        self.unread.set(Some(unread));
        self.report_memory();
        if self.resume_pending.replace(false) {
            self.redeliver_unread(event_loop);
            self.update_wanted(event_loop);
        }
        // Last, because a waker may poll the reader at once, which then takes this input.
        self.notify_reader();
    }

    /// Moves the unread input to storage of its own size if its storage is much larger, and was not
    /// used since the last call. Returns `true` if it was used, and the trim is to be repeated: a
    /// stream of large messages keeps its storage.
    pub(in crate::net) fn trim_unread(&self) -> bool {
        if self.unread_is_spacious.replace(false) {
            return true;
        }
        if let Some(mut unread) = self.unread.take() {
            if is_spacious(&unread) {
                let mut small = Buffer::new();
                small.append(unread.readable());
                *unread = small;
            }
            self.unread.set(Some(unread));
            self.report_memory();
        }
        false
    }

    /// Reports the memory that the connection takes to its account, if it has changed. Not called
    /// for a message that is consumed at once and whose reply is sent at once.
    pub(in crate::net) fn report_memory(&self) {
        let queue = self.unsent.borrow().as_ref().map_or(0, |queue| queue.memory());
        let now = queue + self.unread_memory() + self.undecoded_memory();
        let before = self.reported_memory.replace(now);
        if now > before {
            self.membership.account().add(now - before);
        } else if now < before {
            self.membership.account().subtract(before - now);
        }
    }

    /// Records progress: `bytes` of the buffered data have left the connection.
    pub(in crate::net) fn note_moved(&self, bytes: usize) {
        if let Some(account) = self.membership.opened_account().filter(|_| bytes > 0) {
            account.record_moved(bytes);
        }
    }

    /// Closes the connection because the memory budget of the process or the group is exceeded, and
    /// this connection holds the most memory with the least progress.
    pub(super) fn close_for_memory(&self, event_loop: &EventLoop) {
        if self.state.get() != ConnectionState::Closed {
            self.membership.group().admission.count_closed_for_memory();
            self.reset(event_loop, CloseReason::MemoryLimit);
        }
    }

    pub(super) fn pause_reading(&self, event_loop: &EventLoop) {
        self.block_reading(ReadBlocks::USER);
        self.update_wanted(event_loop);
    }

    pub(super) fn resume_reading(&self, event_loop: &EventLoop) {
        if !self.unblock_reading(ReadBlocks::USER) {
            return;
        }
        self.redeliver_unread(event_loop);
        self.update_wanted(event_loop);
        // The close for this error was delayed until now.
        if self.has_error() {
            event_loop.add_ready(self.id, Readiness::READABLE | Readiness::ERROR);
        }
    }

    /// Same as [`resume_reading`](ConnectionCore::resume_reading), for another thread. The request
    /// may be read while the handler that paused is still in its callback, since sending drains the
    /// mailbox. It then takes effect after the callback: what the handler leaves is delivered
    /// again.
    pub(super) fn resume_reading_remotely(&self, event_loop: &EventLoop) {
        if self.is_blocked_by(ReadBlocks::USER) {
            self.resume_pending.set(true);
        }
        self.resume_reading(event_loop);
    }

    /// Schedules the unread input for another delivery, before anything new is read.
    pub(super) fn redeliver_unread(&self, event_loop: &EventLoop) {
        let unread = self.unread.take();
        if unread.is_some() {
            self.unread.set(unread);
            self.end_after_unread();
            // These bytes raise no edge, so the connection is marked readable.
            self.redeliver.set(true);
            event_loop.add_ready(self.id, Readiness::READABLE);
        }
    }
}
