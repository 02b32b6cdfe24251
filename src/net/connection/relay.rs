//! Two connections linked with each other: what comes in on one goes out on the other.
//!
//! The two are on one loop, and each knows the other's id and nothing else. What they have to say to each other they say through the
//! loop, as a [`Word`] that is heard at once. Input is passed on in the very buffer it was read into, so that what the kernel takes
//! is not copied. One whose other end has too much unsent is not read until that has gone down again; since each direction waits
//! for nothing but its own way out, the two cannot block each other.

use std::io;
use std::mem;
use std::time::Duration;

use super::handle::ConnectionHandle;
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
    /// The other has so much unsent that nothing more is read for it.
    read_paused: bool,
    /// The other is to be told when this one has little unsent again.
    peer_paused: bool,
    /// The other has been told that the input is at its end.
    eof_forwarded: bool,
    /// The link is no more. What is left is a connection on its way to its end, of which its handler hears nothing else.
    unlinked: bool,
}

/// What one connection says to the one that it is linked with.
pub(super) enum RelayMessage {
    /// Be linked with this one. Answered, if it is to be.
    Link { with: ChannelId, linked: bool },
    /// Send these. What is left in the buffer cannot be sent; `wait` is the answer that these must be the last for now.
    Data { bytes: Buffer, pause: bool },
    /// There is room again.
    Resume,
    /// That was all.
    Eof,
    /// The link is no more.
    Unlinked(LinkEnd),
}

/// How the other connection of a link has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// In order: it takes no more, and nothing comes from it.
    Finished,
    /// It is about to, and has so long for that.
    Gracefully(Duration),
    /// By its owner.
    Closed,
    /// By an error, after it had passed on all of its input and the end of that.
    Delivered,
    /// By an error, with its input unfinished.
    Broken,
    /// At the end of its time, or with its loop: nothing is waited for any longer.
    Aborted,
}

impl From<&CloseReason> for LinkEnd {
    fn from(reason: &CloseReason) -> LinkEnd {
        match reason {
            CloseReason::Finished => LinkEnd::Finished,
            CloseReason::Closed | CloseReason::RelayEnded | CloseReason::Idle => LinkEnd::Closed,
            CloseReason::Error(_) | CloseReason::Panicked => LinkEnd::Broken,
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
        if other.id() == self.id {
            return refuse(io::ErrorKind::InvalidInput, "a connection cannot be linked with itself");
        }
        let mut message = RelayMessage::Link { with: self.id, linked: false };
        let refused = !self.can_be_linked()
            || !event_loop.tell(other.id(), &mut message)
            || matches!(message, RelayMessage::Link { linked: false, .. });
        if refused {
            return refuse(io::ErrorKind::NotConnected, "one of the two is not open, or is linked already");
        }
        self.link(event_loop, other.id());
        Ok(())
    }

    /// Also after its output has failed: its input is then passed on, and what comes from the other is dropped.
    fn can_be_linked(&self) -> bool {
        let has_input = self.state.get() == ConnectionState::Closing && self.has_output_failed();
        (self.state.get() == ConnectionState::Open || has_input) && self.relay.get().is_none()
    }

    fn link(&self, event_loop: &EventLoop, with: ChannelId) {
        self.relay.set(Some(Relay {
            with,
            read_paused: false,
            peer_paused: false,
            eof_forwarded: false,
            unlinked: false,
        }));
        self.paused.set(false);
        self.throttled.set(false);
        // What has been read before, be it the end, goes first; and no edge will come for it.
        self.redeliver.set(true);
        event_loop.add_ready(self.id, Readiness::READABLE);
        self.update_wanted(event_loop);
    }

    /// Whether the connection is, or was, linked with another: its handler hears of its close only.
    pub(in crate::net) fn is_linked(&self) -> bool {
        self.relay.get().is_some()
    }

    /// Whether it is linked with another still.
    pub(in crate::net) fn is_relaying(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.unlinked)
    }

    /// Whether no input is read because the other connection of the link has too much unsent.
    pub(super) fn is_read_paused_by_relay(&self) -> bool {
        self.relay.get().is_some_and(|relay| relay.read_paused)
    }

    /// Whether there may still be something that the other connection of a link has not been told.
    pub(super) fn has_pending_eof(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.eof_forwarded)
    }

    fn change_relay(&self, change: impl FnOnce(&mut Relay)) {
        if let Some(mut relay) = self.relay.get() {
            change(&mut relay);
            self.relay.set(Some(relay));
        }
    }

    /// Passes on what has come, behind what was left unread before, and then the end.
    pub(in crate::net) fn forward(&self, event_loop: &EventLoop, input: &mut Buffer) {
        if let Some(mut unread) = self.take_unread() {
            self.forward_bytes(event_loop, &mut unread);
            self.report_memory();
        }
        self.forward_bytes(event_loop, input);
        let Some(relay) = self.relay.get() else { return };
        if self.peer_finished.get() && !relay.eof_forwarded {
            self.change_relay(|relay| relay.eof_forwarded = true);
            event_loop.tell(relay.with, &mut RelayMessage::Eof);
        }
        self.close_if_finished(event_loop);
    }

    fn forward_bytes(&self, event_loop: &EventLoop, bytes: &mut Buffer) {
        let Some(relay) = self.relay.get() else { return };
        if bytes.is_empty() {
            return;
        }
        let mut message = RelayMessage::Data { bytes: mem::take(bytes), pause: false };
        event_loop.tell(relay.with, &mut message);
        let RelayMessage::Data { bytes: returned, pause } = message else { return };
        // It is the loop's own buffer, and empty now.
        *bytes = returned;
        if pause && self.is_relaying() {
            self.change_relay(|relay| relay.read_paused = true);
            self.update_wanted(event_loop);
        }
    }

    /// What the other connection says, or what one says that wants to be linked. Calls nobody.
    pub(super) fn on_relay_message(&self, event_loop: &EventLoop, message: &mut RelayMessage) {
        match message {
            RelayMessage::Link { with, linked } => {
                *linked = self.can_be_linked();
                if *linked {
                    self.link(event_loop, *with);
                }
            }
            RelayMessage::Data { bytes, pause } => {
                // The limit is no concern of a link: the mark and a buffer full are the most that comes to lie here.
                if self.send_within(event_loop, bytes.readable(), usize::MAX).is_err() {
                    // The other direction may still have much to deliver, so the two go on.
                    self.count_lost(bytes.len());
                }
                bytes.clear();
                *pause = self.queued() > self.relay_mark();
                self.change_relay(|relay| relay.peer_paused = *pause);
            }
            RelayMessage::Resume => {
                self.change_relay(|relay| relay.read_paused = false);
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

    /// After something has been sent: has the other connection read on, if it waits for that.
    pub(super) fn resume_linked(&self, event_loop: &EventLoop) {
        let Some(relay) = self.relay.get() else { return };
        let low_water = self.reply_marks().1.min(self.relay_mark());
        if relay.peer_paused && self.queued() <= low_water {
            self.change_relay(|relay| relay.peer_paused = false);
            event_loop.tell(relay.with, &mut RelayMessage::Resume);
        }
    }

    /// What the other connection of the link is to make of a close for `reason`.
    pub(super) fn link_end_for(&self, reason: &CloseReason) -> LinkEnd {
        match LinkEnd::from(reason) {
            LinkEnd::Broken if self.relay.get().is_some_and(|relay| relay.eof_forwarded) => {
                LinkEnd::Delivered
            }
            end => end,
        }
    }

    /// Whether the peer misses something of what came through the link, or was still to come, when it ends like this.
    pub(super) fn truncates_relay(&self, end: LinkEnd) -> bool {
        self.is_relaying()
            && match end {
                LinkEnd::Broken | LinkEnd::Aborted => true,
                LinkEnd::Delivered => !self.fin_sent.get(),
                LinkEnd::Finished | LinkEnd::Gracefully(_) | LinkEnd::Closed => false,
            }
    }

    /// Ends the link, and has the other connection end.
    pub(super) fn end_link(&self, event_loop: &EventLoop, end: LinkEnd) {
        if let Some(relay) = self.relay.get().filter(|_| self.is_relaying()) {
            self.unlink();
            event_loop.tell(relay.with, &mut RelayMessage::Unlinked(end));
        }
    }

    /// The other connection is told nothing more, and nothing comes from it.
    fn unlink(&self) {
        self.change_relay(|relay| {
            relay.unlinked = true;
            relay.eof_forwarded = true;
            relay.read_paused = false;
        });
    }
}
