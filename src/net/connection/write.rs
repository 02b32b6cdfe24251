//! The output side of a connection.
//!
//! If nothing is queued, bytes go to the kernel immediately; otherwise they are appended to the
//! queue. The queue is bounded, and a send that would exceed the limit is refused as a whole, so a
//! stream never has a gap. A connection with nothing queued has no queue.

use std::io;

use super::payload::Payload;
use super::queue::{Queue, WriteOutcome};
use super::read::ReadBlocks;
use super::{ConnectionCore, ConnectionState, OUTPUT};
use crate::event_loop::{EventLoop, Refused};
use crate::net::result::SendError;
use crate::net::sys::fd_passing::is_too_many_refs;
use crate::net::sys::transport::Transferred;
use crate::readiness::Readiness;

/// A connection with nothing queued may send at most this much without a check of the memory
/// budget.
pub(super) const SMALL_SEND: usize = 64 * 1024;

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
        let is_first = unsent.is_none();
        if is_first && !self.has_filters() {
            match payload.write(&self.transport) {
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
        if is_first && self.has_filters() {
            if let Err(error) = self.write_queue(event_loop) {
                // Drops and counts the queue.
                self.fail_output(event_loop, error);
                return Ok(());
            }
        }
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

    /// Counts what has left the queue, whose length was `before`. Returns whether anything has.
    pub(super) fn count_sent(&self, queue: &mut Queue, before: usize) -> bool {
        let sent = before - queue.len();
        if sent > 0 {
            queue.replies.take(sent);
            self.note_moved(sent);
        }
        sent > 0
    }

    pub(super) fn on_queue_grown(&self, event_loop: &EventLoop) {
        self.report_memory();
        self.publish_queued();
        // A linked connection has its own back-pressure: its input leaves on the other connection.
        if !self.was_ever_linked() {
            let limits = &self.membership.group().limits;
            // Unsolicited output is excluded: two peers that both send before they read would
            // deadlock.
            if limits.pauses_for_replies
                && !self.is_draining()
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
        let is_news = self.high_water.get() == HighWater::Deferred && !self.was_ever_linked();
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
        let is_queued = self.unsent.borrow().is_some();
        let has_output = if is_queued { self.has_sendable() } else { self.wants_drained.get() };
        has_output && !self.is_fd_retry_armed.get()
    }

    // Not inlined, so that without a queue nothing is written to the borrow flag.
    #[inline(never)]
    fn has_sendable(&self) -> bool {
        match &*self.unsent.borrow() {
            None => false,
            Some(queue) if self.is_in_handshake() => queue.has_encoded(),
            Some(queue) => queue.is_sendable(),
        }
    }

    /// Writes as much of the queue as the kernel takes.
    pub(super) fn write_queue(&self, event_loop: &EventLoop) -> io::Result<()> {
        if self.has_filters() {
            return self.write_queue_filtered(event_loop);
        }
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return Ok(()) };
        let before = queue.len();
        let wrote = queue.write_to(&self.transport);
        if self.count_sent(queue, before) {
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
        let drained = self.unsent.borrow().is_none();
        if drained {
            self.wants_drained.set(false);
            if self.state.get() == ConnectionState::Closing {
                self.send_fin(event_loop);
            }
        }
        self.update_wanted(event_loop);
        Flushed { low, drained }
    }
}
