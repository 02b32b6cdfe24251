//! What a connection sends.
//!
//! Bytes go to the kernel at once if nothing is queued before them, and else behind the queue. The queue is bounded: what
//! would pass the limit is refused whole, so that a stream never has a hole in it. A connection that has nothing queued has no
//! queue.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::queue::{Queue, WriteOutcome};
use super::{ConnectionCore, ConnectionState, OUTPUT};
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendError, SendStatus};
use crate::net::sys::fd_passing::are_too_many;
use crate::net::sys::stream::{self, Transferred};
use crate::readiness::Readiness;

/// Bytes to be sent, in one of the forms in which they may come.
pub(super) trait Payload {
    fn len(&self) -> usize;

    /// Offers all of them to the kernel, in one call.
    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred>;

    /// Queues what is left when so many have been `sent`, which is not all.
    fn queue(self, queue: &mut Queue, sent: usize);
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
}

/// Bytes that are nobody else's to change.
pub(super) enum Bytes {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Bytes {
    /// How much memory they take, as [`Queue::memory`] counts it.
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
}

/// How much a connection with nothing queued may send without a look at what all connections hold together.
const SMALL_SEND: usize = 64 * 1024;

/// What a turn of sending has led to that the handler may want to know.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Flushed {
    /// After the high-water mark, the low-water mark.
    pub(in crate::net) low: bool,
    /// All that was queued is sent, or a call of `on_drained` was asked for.
    pub(in crate::net) drained: bool,
}

/// Where a connection is between its marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum HighWater {
    /// Not above the high-water mark, or not since it was at the low one.
    #[default]
    No,
    /// The handler is yet to be told.
    Deferred,
    Delivered,
}

impl ConnectionCore {
    /// Sends `payload`, or gives it back with the reason. Nothing of it has been sent then.
    #[inline]
    pub(super) fn send<P: Payload>(
        &self,
        event_loop: &EventLoop,
        payload: P,
    ) -> Result<SendStatus, (SendError, P)> {
        let group = self.membership.group();
        // A small send on an empty queue, as that of an echo, does not look.
        let may_be_kept = payload.len() > SMALL_SEND || self.unsent.borrow().is_some();
        if may_be_kept
            && self.state.get() == ConnectionState::Open
            && group.budget().is_exhausted_by(payload.len())
        {
            return Err((SendError::Full, payload));
        }
        self.send_within(event_loop, payload, group.limits.max_unsent)
    }

    /// As [`send`](ConnectionCore::send), with a limit of the caller's.
    #[inline]
    pub(super) fn send_within<P: Payload>(
        &self,
        event_loop: &EventLoop,
        payload: P,
        max_unsent: usize,
    ) -> Result<SendStatus, (SendError, P)> {
        if self.state.get() != ConnectionState::Open {
            return Err((SendError::Closed, payload));
        }
        let len = payload.len();
        let mut unsent = self.unsent.borrow_mut();
        let queued = unsent.as_ref().map_or(0, |queue| queue.in_memory());
        if len > max_unsent.saturating_sub(queued) {
            return Err((SendError::Full, payload));
        }
        let mut sent = 0;
        if unsent.is_none() {
            match payload.write(self.fd.as_fd()) {
                Ok(Transferred::Bytes(n)) => {
                    self.record_activity(event_loop);
                    if n == len {
                        return Ok(SendStatus::Written);
                    }
                    sent = n;
                }
                Ok(Transferred::WouldBlock) => {}
                Err(error) if are_too_many(&error) => return Err((SendError::Full, payload)),
                Err(error) => {
                    drop(unsent);
                    self.fail_output(event_loop, error);
                    return Err((SendError::Closed, payload));
                }
            }
            // The kernel's buffer is full, and it will say when that is over.
            event_loop.clear_ready(self.id, OUTPUT);
        }
        let queue = unsent.get_or_insert_default();
        payload.queue(queue, sent);
        self.count_reply(queue, len - sent);
        drop(unsent);
        self.on_queue_grown(event_loop);
        Ok(SendStatus::Queued)
    }

    /// Notes what kind of output the last `bytes` of the queue are.
    fn count_reply(&self, queue: &mut Queue, bytes: usize) {
        if self.replying.get() {
            queue.replies.add(bytes);
        } else {
            queue.replies.add_unsolicited(bytes);
        }
    }

    /// Has `give` give the handler input. What the handler sends meanwhile are replies.
    pub(in crate::net) fn while_replying(&self, give: impl FnOnce()) {
        self.replying.set(true);
        give();
        // A panic leaves this out, and closes the connection.
        self.replying.set(false);
    }

    /// Sends a part of a file behind what is queued.
    pub(super) fn send_file(
        &self,
        event_loop: &EventLoop,
        file: OwnedFd,
        offset: u64,
        length: u64,
    ) -> Result<SendStatus, SendError> {
        if self.state.get() != ConnectionState::Open {
            return Err(SendError::Closed);
        }
        if length == 0 {
            return Ok(if self.unsent.borrow().is_none() { SendStatus::Written } else { SendStatus::Queued });
        }
        let mut unsent = self.unsent.borrow_mut();
        let is_first = unsent.is_none();
        if unsent.as_ref().is_some_and(|queue| !queue.can_queue_file()) {
            return Err(SendError::Full);
        }
        let queue = unsent.get_or_insert_default();
        queue.push_file(file, offset, length);
        self.count_reply(queue, usize::try_from(length).unwrap_or(usize::MAX));
        drop(unsent);
        let wrote = if is_first { self.write_queue(event_loop) } else { Ok(()) };
        if let Err(error) = wrote {
            self.pop_last_file();
            // Some of it may have been sent, so that the peer was promised the rest.
            if !stream::is_disconnected(&self.fd, &error) {
                self.reset_when_closed();
            }
            self.fail_output(event_loop, error);
            return Err(SendError::Closed);
        }
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return Ok(SendStatus::Written) };
        let room = self.membership.group().limits.max_unsent.saturating_sub(queue.in_memory());
        let kept = queue.read_small_file(room);
        drop(unsent);
        if let Err(error) = kept {
            self.close(event_loop, CloseReason::Error(error));
            self.pop_last_file();
            return Err(SendError::Closed);
        }
        self.on_queue_grown(event_loop);
        Ok(SendStatus::Queued)
    }

    /// A file with which the output has ended was not accepted, so what is left of it does not count as unsent.
    fn pop_last_file(&self) {
        let mut unsent = self.unsent.borrow_mut();
        if let Some(queue) = unsent.as_mut() {
            queue.pop_last_file();
            if queue.is_empty() {
                *unsent = None;
            }
        }
    }

    fn on_queue_grown(&self, event_loop: &EventLoop) {
        self.report_memory();
        self.publish_queued();
        // A linked connection's input has another way out, and its own way of waiting.
        if !self.is_linked() {
            let limits = &self.membership.group().limits;
            // Unsolicited output has no part in this: two peers that both send before they read would wait for each other.
            if limits.pauses_for_replies && self.unsent_replies() > self.reply_marks().0 {
                self.throttled.set(!self.discarding.get());
            }
            if self.queued() > limits.high_water && self.high_water.get() == HighWater::No {
                // The send may be the handler's own, so its call comes later.
                self.high_water.set(HighWater::Deferred);
                event_loop.add_ready(self.id, Readiness::NOTE);
            }
        }
        self.update_wanted(event_loop);
    }

    /// Above how many replies the connection reads no more, and at how few it reads again: the water marks, and little of them while
    /// memory is scarce.
    pub(super) fn reply_marks(&self) -> (usize, usize) {
        let group = self.membership.group();
        let part = if group.budget().is_scarce() { 16 } else { 1 };
        (group.limits.high_water / part, group.limits.low_water / part)
    }

    /// How many of the queued bytes are replies.
    fn unsent_replies(&self) -> usize {
        self.unsent.borrow().as_ref().map_or(0, |queue| queue.replies.unsent())
    }

    /// How many bytes are queued, those in files included.
    pub(super) fn queued(&self) -> usize {
        self.unsent.borrow().as_ref().map_or(0, |queue| queue.len())
    }

    /// How many bytes were accepted and have not been taken by the kernel: those that are queued, and those that were dropped.
    pub(super) fn unsent(&self) -> usize {
        self.queued().saturating_add(self.lost.get())
    }

    /// How many of them take memory.
    pub(super) fn unsent_in_memory(&self) -> usize {
        self.unsent.borrow().as_ref().map_or(0, |queue| queue.in_memory())
    }

    /// Answers whether the handler is to be told, now, that the high-water mark has been passed.
    pub(in crate::net) fn take_deferred_high_water(&self) -> bool {
        let is_news = self.high_water.get() == HighWater::Deferred && !self.is_linked();
        if is_news {
            self.high_water.set(HighWater::Delivered);
        }
        is_news
    }

    /// Whether there is anything to flush, or to say. Usually not: a socket is nearly always writable when it becomes
    /// readable.
    #[inline]
    pub(in crate::net) fn has_output(&self) -> bool {
        self.wants_drained.get() || self.unsent.borrow().is_some()
    }

    /// Has the kernel take what it takes of the queue.
    fn write_queue(&self, event_loop: &EventLoop) -> io::Result<()> {
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

    /// Sends what is queued, as far as the kernel takes it.
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
        let low = left <= low_water && self.high_water.replace(HighWater::No) == HighWater::Delivered;
        if self.unsent_replies() <= self.reply_marks().1 && self.throttled.replace(false) {
            // What the handler has left because its answers had nowhere to go. Input that was not complete at the peer's end
            // has been offered for the last time.
            if !self.peer_finished.get() {
                self.redeliver_unread(event_loop);
            }
        }
        self.resume_linked(event_loop);
        if left == 0 {
            self.wants_drained.set(false);
            if self.state.get() == ConnectionState::Closing {
                self.finish(event_loop);
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
            self.finish(event_loop);
        }
    }

    /// Sends the FIN of a connection that is about to be reset, if all is sent and nothing is linked. A peer that has received all then
    /// reads an end in order; for one that has not, the reset overtakes the FIN. A connection that was shut down at the begin of the stop
    /// ends in the same way, so that it makes no difference to peers whether the stop was noted in time.
    pub(super) fn send_fin_before_reset(&self, event_loop: &EventLoop) {
        // A forked child leaves the socket as it is.
        if self.membership.group().is_inherited() {
            return;
        }
        let is_whole =
            self.drain_last_sends(event_loop) && self.unsent.borrow().is_none() && !self.is_relaying();
        // An error means that the peer has gone, and the reset follows in either case.
        self.fin_sent.set(self.fin_sent.get() || (is_whole && stream::finish(self.fd.as_fd()).is_ok()));
    }

    /// Takes what other threads have sent, which goes out before the FIN, and refuses more. Returns whether the connection is open then.
    fn drain_last_sends(&self, event_loop: &EventLoop) -> bool {
        if self.state.get() != ConnectionState::Open {
            return false;
        }
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.refuse_sends();
            self.read_mailbox(event_loop);
        }
        // One of those requests may have been to shut down or to close.
        self.state.get() == ConnectionState::Open
    }

    /// Sends the FIN, all else being sent.
    fn finish(&self, event_loop: &EventLoop) {
        if self.ends_by_reset() {
            return self.finish_delivery(event_loop);
        }
        if self.peer_finished.get() {
            // Nothing can come any more, and nothing is left to be read, so the close sends the FIN as well, unless there is
            // something that it has to wait for.
            self.close_if_finished(event_loop);
            if self.state.get() == ConnectionState::Closed {
                return;
            }
        }
        match stream::finish(self.fd.as_fd()) {
            Ok(()) => {
                self.fin_sent.set(true);
                self.close_if_finished(event_loop);
                self.finish_delivery(event_loop);
            }
            Err(error) => self.fail_output(event_loop, error),
        }
    }
}
