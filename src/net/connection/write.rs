//! The output side of a connection.
//!
//! If nothing is queued, bytes go to the kernel immediately; otherwise they are appended to the
//! queue. The queue is bounded, and a send that would exceed the limit is refused as a whole, so a
//! stream never has a gap. A connection with nothing queued has no queue.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::queue::{Queue, WriteOutcome};
use super::read::ReadBlocks;
use super::{ConnectionCore, ConnectionState, OUTPUT};
use crate::buffer::Buffer;
use crate::event_loop::{EventLoop, Refused};
use crate::net::result::SendError;
use crate::net::sys::fd_passing::is_too_many_refs;
use crate::net::sys::stream::{self, Transferred};
use crate::readiness::Readiness;

/// Bytes to be sent, in one of the forms that callers pass.
pub(super) trait Payload {
    fn len(&self) -> usize;

    /// Offers all of the bytes to the kernel, in one call.
    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred>;

    /// Queues the bytes after the first `sent`; there is at least one.
    fn queue(self, queue: &mut Queue, sent: usize);

    /// Appends a copy of the bytes. Returns `false` if the payload is more than bytes.
    fn append_to(&self, output: &mut Buffer) -> bool;
}

impl Payload for &[u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred> {
        stream::send(socket, self)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        queue.push(&self[sent..]);
    }

    #[inline]
    fn append_to(&self, output: &mut Buffer) -> bool {
        output.append(self);
        true
    }
}

impl Payload for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred> {
        stream::send(socket, self)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        queue.push_owned(self, sent);
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        output.append(self);
        true
    }
}

/// Bytes that can be queued without a copy.
pub(super) enum Bytes {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Bytes {
    /// The memory that they take, as counted by [`Queue::memory`].
    pub(super) fn memory(&self) -> usize {
        match self {
            Bytes::Owned(bytes) => bytes.capacity(),
            Bytes::Shared(bytes) => bytes.len() / Arc::strong_count(bytes),
        }
    }
}

impl Payload for Bytes {
    fn len(&self) -> usize {
        match self {
            Bytes::Owned(bytes) => bytes.len(),
            Bytes::Shared(bytes) => bytes.len(),
        }
    }

    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred> {
        match self {
            Bytes::Owned(bytes) => stream::send(socket, bytes),
            Bytes::Shared(bytes) => stream::send(socket, bytes),
        }
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        match self {
            Bytes::Owned(bytes) => queue.push_owned(bytes, sent),
            Bytes::Shared(bytes) => queue.push_shared(bytes, sent),
        }
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        match self {
            Bytes::Owned(bytes) => output.append(bytes),
            Bytes::Shared(bytes) => output.append(bytes),
        }
        true
    }
}

impl Payload for &[IoSlice<'_>] {
    fn len(&self) -> usize {
        self.iter().map(|slice| slice.len()).sum()
    }

    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred> {
        stream::send_vectored(socket, self)
    }

    fn queue(self, queue: &mut Queue, mut sent: usize) {
        for slice in self {
            let skipped = sent.min(slice.len());
            queue.push(&slice[skipped..]);
            sent -= skipped;
        }
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        self.iter().for_each(|slice| output.append(slice));
        true
    }
}

/// A connection with nothing queued may send at most this much without a check of the memory
/// budget.
const SMALL_SEND: usize = 64 * 1024;

/// The events that flushing the output has raised for the handler.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Flushed {
    /// The low-water mark was reached, after the high-water mark.
    pub(in crate::net) low: bool,
    /// The queue has been sent completely, or a call of `on_drained` was requested.
    pub(in crate::net) drained: bool,
}

/// The position relative to the water marks (with hysteresis).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum HighWater {
    /// Not above the high-water mark since the low-water mark was last reached.
    #[default]
    Below,
    /// Above the high-water mark; `on_high_water` is due.
    Deferred,
    Delivered,
}

impl ConnectionCore {
    /// Sends `payload`, or returns it with the error. None of it has been sent then.
    #[inline]
    pub(super) fn send<P: Payload>(
        &self,
        event_loop: &EventLoop,
        payload: P,
    ) -> Result<(), Refused<P, SendError>> {
        let group = self.membership.group();
        // A small send on an empty queue, as of an echo, skips the check.
        let may_be_kept = payload.len() > SMALL_SEND || self.unsent.borrow().is_some();
        if may_be_kept
            && self.state.get() == ConnectionState::Open
            && group.budget().is_exhausted_by(payload.len())
        {
            return Err(Refused::new(payload, SendError::Full));
        }
        self.send_within(event_loop, payload, group.limits.max_unsent)
    }

    /// Same as [`send`](ConnectionCore::send), with a limit given by the caller.
    #[inline]
    pub(super) fn send_within<P: Payload>(
        &self,
        event_loop: &EventLoop,
        payload: P,
        max_unsent: usize,
    ) -> Result<(), Refused<P, SendError>> {
        if self.collect(event_loop, &payload, max_unsent) {
            return Ok(());
        }
        // After the collection: output that was sent just now may have found the peer gone.
        if let Err(reason) = self.check_output() {
            return Err(Refused::new(payload, reason));
        }
        let len = payload.len();
        let mut unsent = self.unsent.borrow_mut();
        let queued = unsent.as_ref().map_or(0, |queue| queue.in_memory());
        if len > max_unsent.saturating_sub(queued) {
            return Err(Refused::new(payload, SendError::Full));
        }
        let mut sent = 0;
        if unsent.is_none() {
            match payload.write(self.fd.as_fd()) {
                Ok(Transferred::Bytes(n)) => {
                    self.record_activity(event_loop);
                    if n == len {
                        return Ok(());
                    }
                    sent = n;
                }
                Ok(Transferred::WouldBlock) => {}
                Err(error) if is_too_many_refs(&error) => {
                    return Err(Refused::new(payload, SendError::Full));
                }
                Err(error) => {
                    drop(unsent);
                    self.fail_output(event_loop, error);
                    return Err(Refused::new(payload, SendError::Closed));
                }
            }
            // The kernel's buffer is full; a WRITABLE edge follows when it has space.
            event_loop.clear_ready(self.id, OUTPUT);
        }
        let queue = unsent.get_or_insert_default();
        payload.queue(queue, sent);
        self.count_reply(queue, len - sent);
        drop(unsent);
        self.on_queue_grown(event_loop);
        Ok(())
    }

    /// # Errors
    /// Why the connection takes no output, if it takes none.
    #[inline]
    pub(super) fn check_output(&self) -> Result<(), SendError> {
        match self.state.get() {
            ConnectionState::Open => Ok(()),
            ConnectionState::Closing if !self.has_output_failed() => Err(SendError::ShutDown),
            ConnectionState::Connecting | ConnectionState::Closing | ConnectionState::Closed => {
                Err(SendError::Closed)
            }
        }
    }

    /// Records whether the last `bytes` of the queue are replies.
    pub(super) fn count_reply(&self, queue: &mut Queue, bytes: usize) {
        if self.replying.get() {
            queue.replies.add(bytes);
        } else {
            queue.replies.add_unsolicited(bytes);
        }
    }

    /// Runs `give`, which gives the handler input. Bytes that the handler sends meanwhile are
    /// replies.
    pub(in crate::net) fn while_replying(&self, give: impl FnOnce()) {
        self.replying.set(true);
        give();
        // Skipped by a panic, which closes the connection.
        self.replying.set(false);
    }

    pub(super) fn on_queue_grown(&self, event_loop: &EventLoop) {
        self.report_memory();
        self.publish_queued();
        // A relayed connection has its own back-pressure: its input leaves on the other connection.
        if !self.is_linked() {
            let limits = &self.membership.group().limits;
            // Unsolicited output is excluded: two peers that both send before they read would
            // deadlock.
            if limits.pauses_for_replies
                && !self.discarding.get()
                && self.unsent_replies() > self.reply_marks().0
            {
                self.block_reading(ReadBlocks::HIGH_WATER);
            }
            if self.queued() > limits.high_water && self.high_water.get() == HighWater::Below {
                // The handler itself may be sending, so its callback is deferred.
                self.high_water.set(HighWater::Deferred);
                event_loop.add_ready(self.id, Readiness::SELF_WAKE);
            }
        }
        self.update_wanted(event_loop);
    }

    /// The high-water and low-water marks for replies: those of the limits, or 1/16 of them while
    /// the memory budget is scarce.
    pub(super) fn reply_marks(&self) -> (usize, usize) {
        let group = self.membership.group();
        let divisor = if group.budget().is_scarce() { 16 } else { 1 };
        (group.limits.high_water / divisor, group.limits.low_water / divisor)
    }

    /// The number of queued bytes that are replies.
    fn unsent_replies(&self) -> usize {
        self.unsent.borrow().as_ref().map_or(0, |queue| queue.replies.unsent())
    }

    /// The number of queued bytes, including those in files.
    pub(super) fn queued(&self) -> usize {
        self.unsent.borrow().as_ref().map_or(0, |queue| queue.len())
    }

    /// The number of bytes that were accepted and not taken by the kernel: queued or dropped.
    pub(super) fn unsent(&self) -> usize {
        self.queued().saturating_add(self.lost.get())
    }

    /// The number of queued bytes that are in memory.
    pub(super) fn unsent_in_memory(&self) -> usize {
        self.unsent.borrow().as_ref().map_or(0, |queue| queue.in_memory())
    }

    /// Returns whether `on_high_water` is due now.
    pub(in crate::net) fn take_deferred_high_water(&self) -> bool {
        let is_news = self.high_water.get() == HighWater::Deferred && !self.is_linked();
        if is_news {
            self.high_water.set(HighWater::Delivered);
        }
        is_news
    }

    /// Whether there is output to flush, or `on_drained` was requested. Mostly false when the
    /// connection becomes ready: a socket is nearly always writable when it becomes readable.
    ///
    /// Always false until the next retry if the kernel accepts no descriptors: each send that it
    /// rejects makes the socket writable once more, so the loop would spin.
    #[inline]
    pub(in crate::net) fn has_output(&self) -> bool {
        (self.wants_drained.get() || self.unsent.borrow().is_some()) && !self.is_fd_retry_armed.get()
    }

    /// Writes as much of the queue as the kernel takes.
    pub(super) fn write_queue(&self, event_loop: &EventLoop) -> io::Result<()> {
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return Ok(()) };
        let before = queue.len();
        let wrote = queue.write_to(self.fd.as_fd());
        if queue.len() < before {
            queue.replies.take(before - queue.len());
            self.note_moved(before - queue.len());
            self.record_activity(event_loop);
        }
        match wrote? {
            WriteOutcome::Blocked => event_loop.clear_ready(self.id, OUTPUT),
            WriteOutcome::FdsBlocked => {
                event_loop.clear_ready(self.id, OUTPUT);
                self.retry_fds_later(event_loop);
            }
            WriteOutcome::Done => {}
        }
        if queue.is_empty() {
            *unsent = None;
        }
        Ok(())
    }

    /// Sends as much of the queue as the kernel takes, and returns the events for the handler.
    pub(in crate::net) fn flush(&self, event_loop: &EventLoop) -> Flushed {
        if self.unsent.borrow().is_none() {
            let drained = self.wants_drained.replace(false);
            self.update_wanted(event_loop);
            return Flushed { low: false, drained };
        }
        if let Err(error) = self.write_queue(event_loop) {
            self.fail_output(event_loop, error);
            return Flushed::default();
        }
        self.report_memory();
        self.publish_queued();
        let left = self.queued();
        let low_water = self.membership.group().limits.low_water;
        let low = left <= low_water && self.high_water.replace(HighWater::Below) == HighWater::Delivered;
        if self.unsent_replies() <= self.reply_marks().1 && self.unblock_reading(ReadBlocks::HIGH_WATER) {
            // Redelivers the input that the handler left while its replies could not be sent. After
            // the peer's FIN an incomplete message has already been delivered for the last time.
            if !self.peer_finished.get() {
                self.redeliver_unread(event_loop);
            }
        }
        self.resume_linked(event_loop);
        if left == 0 {
            self.wants_drained.set(false);
            if self.state.get() == ConnectionState::Closing {
                self.send_fin(event_loop);
            }
        }
        self.update_wanted(event_loop);
        Flushed { low, drained: left == 0 }
    }

    pub(super) fn shutdown(&self, event_loop: &EventLoop) {
        if !self.drain_last_sends(event_loop) {
            return;
        }
        self.state.set(ConnectionState::Closing);
        if self.unsent.borrow().is_none() {
            self.send_fin(event_loop);
        }
    }

    /// Sends the FIN of a connection that is about to be reset, if everything is sent and it is not
    /// relayed. A peer that has received everything then reads a normal end of input; for any other
    /// peer the reset overtakes the FIN. A connection that was shut down when the stop began ends
    /// in the same way, so peers see no difference if the stop was noticed late.
    pub(super) fn send_fin_before_reset(&self, event_loop: &EventLoop) {
        // A forked child leaves the socket untouched.
        if self.membership.group().is_inherited() {
            return;
        }
        let is_whole =
            self.drain_last_sends(event_loop) && self.unsent.borrow().is_none() && !self.is_relaying();
        // An error means that the peer has closed; the reset follows in any case.
        self.fin_sent
            .set(self.fin_sent.get() || (is_whole && stream::shutdown_write(self.fd.as_fd()).is_ok()));
    }

    /// Drains the mailbox, whose bytes go out before the FIN, and refuses further sends. Returns
    /// whether the connection is still open.
    fn drain_last_sends(&self, event_loop: &EventLoop) -> bool {
        if self.state.get() != ConnectionState::Open {
            return false;
        }
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.refuse_sends(SendError::ShutDown);
            self.read_mailbox(event_loop);
        }
        self.send_collected(event_loop);
        // The mailbox may have contained a shutdown or close.
        self.state.get() == ConnectionState::Open
    }

    /// Sends the FIN, after all other output.
    fn send_fin(&self, event_loop: &EventLoop) {
        if self.ends_by_reset() {
            return self.finish_delivery(event_loop);
        }
        if self.peer_finished.get() {
            // No more input can arrive and none is unread, so the close sends the FIN as well,
            // unless it has to wait for something.
            self.close_if_finished(event_loop);
            if self.state.get() == ConnectionState::Closed {
                return;
            }
        }
        match stream::shutdown_write(self.fd.as_fd()) {
            Ok(()) => {
                self.fin_sent.set(true);
                self.close_if_finished(event_loop);
                self.finish_delivery(event_loop);
            }
            Err(error) => self.fail_output(event_loop, error),
        }
    }
}
