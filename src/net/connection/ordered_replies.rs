//! [`ReplySlot`]: replies that are computed elsewhere and leave in the order of their requests.
//!
//! A slot reserves a place in the output. Output that is sent after it is held until the slot is
//! filled. Slots are filled in any order; a filled slot that is first, and the output after it, go
//! to the output queue.

use std::fmt;

use super::handle::ConnectionHandle;
use super::mailbox::Request;
use super::read::ReadBlocks;
use super::write::HighWater;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::{EventLoop, Refused};
use crate::net::result::{CloseReason, SendError};

/// The place of one reply in a connection's output, to be filled once, from any thread.
///
/// Replies leave in the order in which their slots were
/// [reserved](super::TcpConnection::reserve_reply), and so does other output: what is sent after a
/// reservation leaves after the slot is filled. A shutdown or a graceful close waits for the slots
/// that were reserved before it. So a peer that sends requests and half-closes gets all replies.
///
/// Dropping an unfilled slot resets the connection at once, with
/// [`CloseReason::ReplyDropped`](crate::net::CloseReason::ReplyDropped): a later reply must not
/// take the place of this one. Output that is not sent yet is lost and counted, also the replies of
/// earlier slots. A refused job of [`Workers`](crate::task::Workers) still owns its slot, and a job
/// that panics drops it. [`skip`](ReplySlot::skip) gives up the place without a reply.
///
/// ```
/// use reveille::codec::FrameHandler;
/// use reveille::codec::LineCodec;
/// use reveille::TcpConnection;
/// use std::io;
///
/// struct Session;
///
/// impl FrameHandler<LineCodec> for Session {
///     fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
///         let slot = conn.reserve_reply()?;
///         let request = line.to_vec();
///         std::thread::spawn(move || {
///             let reply = format!("{} bytes\n", request.len());
///             let _ = slot.fill(reply); // refused if the connection has closed
///         });
///         Ok(())
///     }
/// }
/// ```
#[must_use = "the connection is reset if the slot is dropped unfilled"]
pub struct ReplySlot {
    /// `None` once the slot is filled.
    open: Option<Open>,
}

struct Open {
    handle: ConnectionHandle,
    number: u64,
}

impl ReplySlot {
    /// Fills the slot. The bytes leave as soon as all slots before it are filled.
    ///
    /// From any thread.
    ///
    /// # Errors
    /// - [`SendError::Closed`] if the connection is closed, or its output has failed.
    /// - [`SendError::Full`] if the connection's [unsent](ConnectionHandle::unsent) bytes would
    ///   exceed its limit.
    ///
    /// The error returns the slot and the bytes. So a refused reply can be filled later; if the
    /// slot is dropped, the connection is reset.
    pub fn fill(mut self, bytes: impl Into<Vec<u8>>) -> Result<(), Refused<(ReplySlot, Vec<u8>), SendError>> {
        let Some(Open { handle, number }) = &self.open else { unreachable!("filled once") };
        match handle.request(Request::Reply(*number, bytes.into())) {
            Ok(()) => {
                self.open = None;
                Ok(())
            }
            Err(refused) => {
                let reason = refused.reason();
                match refused.into_inner() {
                    Request::Reply(_, bytes) => Err(Refused::new((self, bytes), reason)),
                    _ => unreachable!("the request is returned unchanged"),
                }
            }
        }
    }

    /// Gives up the place: nothing is sent for it, and later replies no longer wait for it.
    pub fn skip(self) {
        // A closed connection has no place to give up.
        let _ = self.fill([]);
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        if let Some(Open { handle, .. }) = self.open.take() {
            // A closed connection is not closed again.
            let _ = handle.request(Request::DropReply);
        }
    }
}

impl fmt::Debug for ReplySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.open.as_ref().map(|open| open.number);
        f.debug_struct("ReplySlot").field("number", &number).finish_non_exhaustive()
    }
}

impl ConnectionCore {
    /// Reserves the next place in the output.
    pub(super) fn reserve_reply(&self, event_loop: &EventLoop) -> Result<ReplySlot, SendError> {
        // Collected output comes before the place.
        self.send_collected(event_loop);
        self.check_output()?;
        let max = self.membership.group().limits.max_open_replies;
        let mut unsent = self.unsent.borrow_mut();
        let open = unsent.as_ref().map_or(0, |queue| queue.places());
        if open >= max {
            return Err(SendError::Full);
        }
        let number = unsent.get_or_insert_default().reserve();
        drop(unsent);
        if open + 1 == max {
            self.block_reading(ReadBlocks::REPLIES);
        }
        Ok(ReplySlot { open: Some(Open { handle: self.handle(), number }) })
    }

    /// Keeps the reply until [`send_released_replies`](ConnectionCore::send_released_replies).
    pub(super) fn fill_reply(&self, number: u64, bytes: Vec<u8>) {
        let len = bytes.len();
        let mut unsent = self.unsent.borrow_mut();
        // Without its place, the output has failed since the reply was accepted.
        if !unsent.as_mut().is_some_and(|queue| queue.fill(number, bytes)) {
            drop(unsent);
            self.count_lost(len);
        }
    }

    /// The owner of a place has dropped it. Later replies must not take it.
    pub(super) fn drop_reply(&self, event_loop: &EventLoop) {
        if self.check_output() != Err(SendError::Closed) {
            self.reset(event_loop, CloseReason::ReplyDropped);
        }
    }

    /// Sends the filled replies before the first open place, and the output after each of them.
    pub(super) fn send_released_replies(&self, event_loop: &EventLoop) {
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return };
        // Otherwise the socket is full.
        let may_write = !queue.is_sendable();
        if !queue.release() {
            return;
        }
        let open = queue.places();
        // If the output has passed the high-water mark, `flush` sends it, because only `flush`
        // resumes reading and calls `on_low_water`.
        let awaits_low_water =
            self.is_blocked_by(ReadBlocks::HIGH_WATER) || self.high_water.get() != HighWater::Below;
        let must_flush = queue.is_sendable() && awaits_low_water;
        drop(unsent);
        if may_write && !must_flush {
            if let Err(error) = self.write_queue(event_loop) {
                return self.fail_output(event_loop, error);
            }
        }
        if open < self.membership.group().limits.max_open_replies
            && self.unblock_reading(ReadBlocks::REPLIES)
            && !self.peer_finished.get()
        {
            self.redeliver_unread(event_loop);
        }
        self.on_queue_grown(event_loop);
        if self.unsent.borrow().is_none() && self.state.get() == ConnectionState::Closing {
            self.send_fin(event_loop);
        }
    }
}
