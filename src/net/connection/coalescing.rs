//! Output that is collected while a callback runs, and leaves in one system call afterwards. The
//! output of calls from outside, of which there may be many in a turn, leaves in the task phase.
//!
//! The collected bytes are in a buffer that the loop lends, so they take no memory of the
//! connection, and a steady load allocates nothing. Only small payloads are collected. A larger one
//! is written at once, after what has been collected, because copying it costs more than the system
//! call saves. With filters it would be copied to the queue anyway, so larger ones are collected
//! too.

use std::io;

use super::payload::Payload;
use super::{ConnectionCore, ConnectionState, OUTPUT};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::net::sys::transport::Transferred;

/// The largest payload that is collected, in bytes.
const LARGEST: usize = 4 * 1024;

/// The same for borrowed bytes on a connection with filters: more than TLS decodes from one input.
const LARGEST_FILTERED: usize = 96 * 1024;

/// Collected output leaves before it exceeds this, in bytes. So a callback that sends without end
/// finds that the socket is full.
const MOST: usize = 64 * 1024;

/// Control message that sends what calls from outside have sent in this turn.
pub(super) struct SendCollected;

impl ConnectionCore {
    /// Runs `callback`, and then sends what it has sent on this connection.
    pub(in crate::net) fn collecting<R>(&self, event_loop: &EventLoop, callback: impl FnOnce() -> R) -> R {
        let was_collecting = self.is_collecting.replace(true);
        let returned = callback();
        // Skipped by a panic, which closes the connection.
        self.is_collecting.set(was_collecting);
        if !was_collecting {
            self.send_collected(event_loop);
        }
        returned
    }

    /// Same as [`collecting`](ConnectionCore::collecting), for a call from outside the connection's
    /// callbacks. What it has sent leaves in the next task phase.
    pub(in crate::net) fn collecting_for_turn<R>(
        &self,
        event_loop: &EventLoop,
        call: impl FnOnce() -> R,
    ) -> R {
        let was_collecting = self.is_collecting.replace(true);
        let returned = call();
        self.is_collecting.set(was_collecting);
        let collected = self.collected.take();
        if collected.is_some() && !was_collecting && !self.is_send_queued.replace(true) {
            let id = self.id;
            event_loop.queue_internal(move |event_loop| {
                event_loop.send_control(id, &mut SendCollected);
            });
        }
        self.collected.set(collected);
        returned
    }

    /// Same as [`collecting`](ConnectionCore::collecting), for a call from a future. What it has
    /// sent leaves when the poll of a spawned future has returned, and otherwise at once.
    pub(super) fn collecting_for_poll<R>(&self, event_loop: &EventLoop, call: impl FnOnce() -> R) -> R {
        if !event_loop.is_polling() {
            return self.collecting(event_loop, call);
        }
        let was_collecting = self.is_collecting.replace(true);
        let returned = call();
        self.is_collecting.set(was_collecting);
        let collected = self.collected.take();
        if collected.is_some() && !was_collecting && !self.is_send_queued.replace(true) {
            event_loop.call_after_poll(self.id);
        }
        self.collected.set(collected);
        returned
    }

    /// A future waits for input: what it has sent leaves now, instead of after its poll.
    pub(super) fn send_before_wait(&self, event_loop: &EventLoop) {
        // A filter is user code, which does not run inside a future.
        if self.is_send_queued.get() && !self.has_filters() && event_loop.withdraw_after_poll(self.id) {
            self.on_send_collected(event_loop);
        }
    }

    pub(in crate::net) fn on_polled(&self, event_loop: &EventLoop) {
        self.on_send_collected(event_loop);
    }

    pub(super) fn on_send_collected(&self, event_loop: &EventLoop) {
        self.is_send_queued.set(false);
        self.send_collected(event_loop);
    }

    /// Collects the payload if a callback is running, nothing is queued, and the payload is small.
    /// `max_unsent` is the limit of unsent bytes. Returns whether the payload is collected. If it
    /// is not, earlier collected output has been sent or queued.
    #[inline]
    pub(super) fn collect<P: Payload>(&self, event_loop: &EventLoop, payload: &P, max_unsent: usize) -> bool {
        if !self.is_collecting.get() || self.state.get() != ConnectionState::Open {
            // There may be output of a call from outside.
            self.send_collected(event_loop);
            return false;
        }
        let len = payload.len();
        let mut collected = self.collected.take();
        if collected.as_ref().is_some_and(|output| output.len() + len > MOST.min(max_unsent)) {
            self.collected.set(collected.take());
            self.send_collected(event_loop);
            if self.state.get() != ConnectionState::Open {
                return false;
            }
        }
        let is_small = len <= LARGEST.min(max_unsent)
            || P::IS_BORROWED && len <= LARGEST_FILTERED.min(max_unsent) && self.has_filters();
        if is_small && (collected.is_some() || self.unsent.borrow().is_none()) {
            let mut output = collected.unwrap_or_else(|| event_loop.lend_output());
            let is_collected = payload.append_to(&mut output);
            self.collected.set(Some(output));
            if is_collected {
                return true;
            }
        } else {
            self.collected.set(collected);
        }
        self.send_collected(event_loop);
        false
    }

    /// Offers the collected output to the kernel, and queues the rest.
    // Called before each input, mostly with nothing collected; that should not pay for a call.
    #[inline(always)]
    pub(in crate::net) fn send_collected(&self, event_loop: &EventLoop) {
        if let Some(output) = self.collected.take() {
            self.offer_collected(event_loop, output);
        }
    }

    #[inline(never)]
    fn offer_collected(&self, event_loop: &EventLoop, output: Box<Buffer>) {
        // The callback may have forked. The parent sends this output.
        if output.is_empty() || self.membership.group().is_inherited() {
            return event_loop.return_output(output);
        }
        if self.has_filters() {
            return self.send_collected_filtered(event_loop, output);
        }
        match self.transport.send(output.readable()) {
            Ok(Transferred::Bytes(n)) if n == output.len() => {
                self.record_activity(event_loop);
                event_loop.return_output(output);
            }
            sent => self.queue_collected(event_loop, output, sent),
        }
    }

    /// Queues what the kernel has not taken of the collected output.
    #[cold]
    fn queue_collected(
        &self,
        event_loop: &EventLoop,
        mut output: Box<Buffer>,
        sent: io::Result<Transferred>,
    ) {
        if let Ok(Transferred::Bytes(n)) = sent {
            output.consume(n);
            self.record_activity(event_loop);
        }
        let mut unsent = self.unsent.borrow_mut();
        let queue = unsent.get_or_insert_default();
        queue.push(output.readable());
        self.count_reply(queue, output.len());
        drop(unsent);
        event_loop.return_output(output);
        match sent {
            Ok(_) => {
                // The kernel's buffer is full; a WRITABLE edge follows when it has space.
                event_loop.clear_ready(self.id, OUTPUT);
                self.on_queue_grown(event_loop);
            }
            // Drops and counts the queue.
            Err(error) => self.fail_output(event_loop, error),
        }
    }
}
