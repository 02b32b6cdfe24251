//! Relays: the input of one connection is the output of another, in both directions.
//!
//! The two connections are on the same loop. Each knows only the other's id, and they communicate
//! through the loop by [`RelayMessage`]s, which are delivered synchronously. Input is passed on in
//! the buffer that it was read into, so bytes that the kernel takes at once are not copied. A
//! connection whose linked connection has too many unsent bytes is not read until these have
//! drained. Each direction waits only for its own output, so the two directions cannot deadlock.

use std::io;
use std::mem;
use std::time::Duration;

use super::handle::ConnectionHandle;
use super::read::ReadBlocks;
use super::{ConnectionCore, ConnectionState};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::net::result::CloseReason;
use crate::readiness::Readiness;

/// One connection's side of a link.
#[derive(Clone, Copy)]
pub(super) struct Relay {
    with: ChannelId,
    /// The linked connection has paused reading; resume it when the unsent bytes have drained.
    linked_paused: bool,
    /// The end of the input has been forwarded to the linked connection.
    eof_forwarded: bool,
    /// The link has ended. The connection is closing, and its handler only gets `on_close`.
    unlinked: bool,
}

/// A message from one linked connection to the other.
pub(super) enum RelayMessage {
    /// Requests a link. The receiver sets `linked` if it accepts.
    Link { with: ChannelId, linked: bool },
    /// Bytes to send. The receiver takes all of them, and sets `pause` to stop further reads.
    Data { bytes: Buffer, pause: bool },
    /// The unsent bytes have drained: reading may resume.
    Resume,
    /// The input has ended.
    Eof,
    /// The link has ended.
    Unlinked(LinkEnd),
}

/// How the linked connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// Normally: it takes no more bytes, and sends none.
    Finished,
    /// It is closing gracefully, with this much time until the deadline.
    Gracefully(Duration),
    /// By its owner.
    Closed,
    /// By an error, after all of its input and the end of input were forwarded.
    Delivered,
    /// By an error, with its input cut short.
    Broken,
    /// At a deadline, or with its loop: nothing is awaited any longer.
    Aborted,
}

impl From<&CloseReason> for LinkEnd {
    fn from(reason: &CloseReason) -> LinkEnd {
        match reason {
            CloseReason::Finished => LinkEnd::Finished,
            CloseReason::Closed | CloseReason::RelayEnded | CloseReason::Idle | CloseReason::TimedOut => {
                LinkEnd::Closed
            }
            CloseReason::Error(_)
            | CloseReason::Panicked
            | CloseReason::ReplyDropped
            | CloseReason::Reset => LinkEnd::Broken,
            CloseReason::DeadlinePassed
            | CloseReason::MemoryLimit
            | CloseReason::Stopped
            | CloseReason::LoopEnded => LinkEnd::Aborted,
        }
    }
}

impl ConnectionCore {
    /// Links the connection with another one of this loop.
    pub(super) fn relay_to(&self, event_loop: &EventLoop, other: &ConnectionHandle) -> io::Result<()> {
        let refuse = |kind, message| Err(io::Error::new(kind, message));
        if !other.event_loop().is_in_loop_thread() {
            return refuse(io::ErrorKind::InvalidInput, "the other connection is on another loop");
        }
        if other.channel() == self.id {
            return refuse(io::ErrorKind::InvalidInput, "a connection cannot be linked to itself");
        }
        let mut message = RelayMessage::Link { with: self.id, linked: false };
        let refused = !self.can_be_linked()
            || !event_loop.send_control(other.channel(), &mut message)
            || matches!(message, RelayMessage::Link { linked: false, .. });
        if refused {
            return refuse(
                io::ErrorKind::NotConnected,
                "one of the connections is not open, has shut its input down, or is already linked",
            );
        }
        self.link(event_loop, other.channel());
        Ok(())
    }

    /// A connection whose output has failed can be linked too: its remaining input is forwarded,
    /// and bytes from the linked connection are dropped.
    fn can_be_linked(&self) -> bool {
        let has_input = self.state.get() == ConnectionState::Closing && self.has_output_failed();
        let has_ends = self.state.get() == ConnectionState::Open || has_input;
        has_ends && self.relay.get().is_none() && !self.discards_input()
    }

    fn link(&self, event_loop: &EventLoop, with: ChannelId) {
        // Relayed bytes go after it.
        self.send_collected(event_loop);
        self.relay.set(Some(Relay { with, linked_paused: false, eof_forwarded: false, unlinked: false }));
        self.read_blocks.set(ReadBlocks::NONE);
        // Earlier input, including the end of input, is forwarded first. It raises no edge.
        self.redeliver.set(true);
        event_loop.add_ready(self.id, Readiness::READABLE);
        self.update_wanted(event_loop);
    }

    /// Whether the connection is, or was, linked: its handler gets no input any more.
    pub(in crate::net) fn is_linked(&self) -> bool {
        self.relay.get().is_some()
    }

    /// Whether the connection is still linked.
    pub(in crate::net) fn is_relaying(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.unlinked)
    }

    /// Whether the end of input has not been forwarded to the linked connection yet.
    pub(super) fn has_pending_eof(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.eof_forwarded)
    }

    fn change_relay(&self, change: impl FnOnce(&mut Relay)) {
        if let Some(mut relay) = self.relay.get() {
            change(&mut relay);
            self.relay.set(Some(relay));
        }
    }

    /// Forwards earlier unread input, then `input`, and then the end of input.
    pub(in crate::net) fn forward(&self, event_loop: &EventLoop, input: &mut Buffer) {
        if let Some(mut unread) = self.take_unread() {
            self.forward_bytes(event_loop, &mut unread);
            self.report_memory();
        }
        self.forward_bytes(event_loop, input);
        let Some(relay) = self.relay.get() else { return };
        if self.peer_finished.get() && !relay.eof_forwarded {
            self.change_relay(|relay| relay.eof_forwarded = true);
            event_loop.send_control(relay.with, &mut RelayMessage::Eof);
        }
        self.close_if_finished(event_loop);
    }

    fn forward_bytes(&self, event_loop: &EventLoop, bytes: &mut Buffer) {
        let Some(relay) = self.relay.get() else { return };
        if bytes.is_empty() {
            return;
        }
        let mut message = RelayMessage::Data { bytes: mem::take(bytes), pause: false };
        event_loop.send_control(relay.with, &mut message);
        let RelayMessage::Data { bytes: returned, pause } = message else { return };
        // The loop's own buffer, now empty.
        *bytes = returned;
        if pause && self.is_relaying() {
            self.block_reading(ReadBlocks::RELAY);
            self.update_wanted(event_loop);
        }
    }

    /// Receives a message from the linked connection, or from one that requests a link. Calls no
    /// user code.
    pub(super) fn on_relay_message(&self, event_loop: &EventLoop, message: &mut RelayMessage) {
        match message {
            RelayMessage::Link { with, linked } => {
                *linked = self.can_be_linked();
                if *linked {
                    self.link(event_loop, *with);
                }
            }
            RelayMessage::Data { bytes, pause } => {
                // `max_unsent` does not apply to a link: at most the mark and one read are queued
                // here.
                if self.send_within(event_loop, bytes.readable(), usize::MAX).is_err() {
                    // The other direction may still have bytes to deliver, so the link continues.
                    self.count_lost(bytes.len());
                }
                bytes.clear();
                *pause = self.queued() > self.relay_mark();
                self.change_relay(|relay| relay.linked_paused = *pause);
            }
            RelayMessage::Resume => {
                self.unblock_reading(ReadBlocks::RELAY);
                self.update_wanted(event_loop);
            }
            RelayMessage::Eof => self.shutdown(event_loop),
            RelayMessage::Unlinked(end) => {
                self.unlink();
                match end {
                    LinkEnd::Finished => self.drain(event_loop),
                    LinkEnd::Gracefully(within) => self.close_gracefully(event_loop, *within),
                    LinkEnd::Closed => self.close(event_loop, CloseReason::RelayEnded),
                    LinkEnd::Delivered => self.deliver_and_finish(event_loop),
                    LinkEnd::Broken => self.deliver_and_reset(event_loop),
                    LinkEnd::Aborted => self.reset(event_loop, CloseReason::RelayEnded),
                }
            }
        }
    }

    fn relay_mark(&self) -> usize {
        self.reply_marks().0.min(self.membership.group().limits.max_unsent)
    }

    /// Called after output was sent: resumes reading on the linked connection if it has paused for
    /// this.
    pub(super) fn resume_linked(&self, event_loop: &EventLoop) {
        let Some(relay) = self.relay.get() else { return };
        let low_water = self.reply_marks().1.min(self.relay_mark());
        if relay.linked_paused && self.queued() <= low_water {
            self.change_relay(|relay| relay.linked_paused = false);
            event_loop.send_control(relay.with, &mut RelayMessage::Resume);
        }
    }

    /// How the linked connection should treat a close for `reason`.
    pub(super) fn link_end_for(&self, reason: &CloseReason) -> LinkEnd {
        match LinkEnd::from(reason) {
            LinkEnd::Broken if self.relay.get().is_some_and(|relay| relay.eof_forwarded) => {
                LinkEnd::Delivered
            }
            end => end,
        }
    }

    /// Whether, with this end, the peer misses relayed bytes, or bytes that were still to come.
    pub(super) fn truncates_relay(&self, end: LinkEnd) -> bool {
        self.is_relaying()
            && match end {
                LinkEnd::Broken | LinkEnd::Aborted => true,
                LinkEnd::Delivered => !self.fin_sent.get(),
                LinkEnd::Finished | LinkEnd::Gracefully(_) | LinkEnd::Closed => false,
            }
    }

    /// Ends the link, and with it the linked connection.
    pub(super) fn end_link(&self, event_loop: &EventLoop, end: LinkEnd) {
        if let Some(relay) = self.relay.get().filter(|_| self.is_relaying()) {
            self.unlink();
            event_loop.send_control(relay.with, &mut RelayMessage::Unlinked(end));
        }
    }

    /// No further message goes to the linked connection, and no bytes are expected from it.
    fn unlink(&self) {
        self.change_relay(|relay| {
            relay.unlinked = true;
            relay.eof_forwarded = true;
        });
        self.unblock_reading(ReadBlocks::RELAY);
    }
}
