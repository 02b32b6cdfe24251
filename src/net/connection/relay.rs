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
use super::{ConnectionState, Core};
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
    waits: bool,
    /// The other is to be told when this one has little unsent again.
    is_waited_for: bool,
    /// The other has been told that the input is at its end.
    has_finished: bool,
    /// The link is no more. What is left is a connection on its way to its end, of which its handler hears nothing else.
    is_over: bool,
}

/// What one connection says to the one that it is linked with.
pub(super) enum Word {
    /// Be linked with this one. Answered, if it is to be.
    Link { with: ChannelId, linked: bool },
    /// Send these. What is left in the buffer cannot be sent; `wait` is the answer that these must be the last for now.
    Send { bytes: Buffer, wait: bool },
    /// There is room again.
    GoOn,
    /// That was all.
    Finish,
    /// The link is no more.
    Ended(Ended),
}

/// How the other connection of a link has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// In order: it takes no more, and nothing comes from it.
    InOrder,
    /// It is about to, and has so long for that.
    Gracefully(Duration),
    /// By its owner.
    Closed,
    /// By an error, after it had passed on all of its input and the end of that.
    Delivered,
    /// By an error, with its input unfinished.
    Broken,
    /// At the end of its time, or with its loop: nothing is waited for any longer.
    Cut,
}

impl From<&CloseReason> for Ended {
    fn from(reason: &CloseReason) -> Ended {
        match reason {
            CloseReason::Finished => Ended::InOrder,
            CloseReason::Closed | CloseReason::RelayEnded | CloseReason::Idle => Ended::Closed,
            CloseReason::Error(_) | CloseReason::Panicked => Ended::Broken,
            CloseReason::DeadlinePassed
            | CloseReason::MemoryLimit
            | CloseReason::Stopped
            | CloseReason::LoopEnded => Ended::Cut,
        }
    }
}

impl Core {
    /// Links the connection with another one of this loop.
    pub(super) fn relay_to(&self, event_loop: &EventLoop, other: &ConnectionHandle) -> io::Result<()> {
        let refuse = |kind, message| Err(io::Error::new(kind, message));
        if !other.event_loop().is_in_loop_thread() {
            return refuse(io::ErrorKind::InvalidInput, "the other connection is on another loop");
        }
        if other.id() == self.id {
            return refuse(io::ErrorKind::InvalidInput, "a connection cannot be linked with itself");
        }
        let mut word = Word::Link { with: self.id, linked: false };
        let refused = !self.can_be_linked()
            || !event_loop.tell(other.id(), &mut word)
            || matches!(word, Word::Link { linked: false, .. });
        if refused {
            return refuse(io::ErrorKind::NotConnected, "one of the two is not open, or is linked already");
        }
        self.link(event_loop, other.id());
        Ok(())
    }

    /// Also after its output has failed: its input is then passed on, and what comes from the other is dropped.
    fn can_be_linked(&self) -> bool {
        let has_input = self.state.get() == ConnectionState::Closing && self.has_failed();
        (self.state.get() == ConnectionState::Open || has_input) && self.relay.get().is_none()
    }

    fn link(&self, event_loop: &EventLoop, with: ChannelId) {
        self.relay.set(Some(Relay {
            with,
            waits: false,
            is_waited_for: false,
            has_finished: false,
            is_over: false,
        }));
        self.paused.set(false);
        self.held_back.set(false);
        // What has been read before, be it the end, goes first; and no edge will come for it.
        self.offer_again.set(true);
        event_loop.add_ready(self.id, Readiness::READABLE);
        self.update_wanted(event_loop);
    }

    /// Whether the connection is, or was, linked with another: its handler hears of its close only.
    pub(in crate::net) fn is_linked(&self) -> bool {
        self.relay.get().is_some()
    }

    /// Whether it is linked with another still.
    pub(in crate::net) fn is_relaying(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.is_over)
    }

    /// Whether no input is read because the other connection of the link has too much unsent.
    pub(super) fn waits_for_other(&self) -> bool {
        self.relay.get().is_some_and(|relay| relay.waits)
    }

    /// Whether there may still be something that the other connection of a link has not been told.
    pub(super) fn owes_to_other(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.has_finished)
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
            self.pass(event_loop, &mut unread);
            self.count_buffered();
        }
        self.pass(event_loop, input);
        let Some(relay) = self.relay.get() else { return };
        if self.peer_finished.get() && !relay.has_finished {
            self.change_relay(|relay| relay.has_finished = true);
            event_loop.tell(relay.with, &mut Word::Finish);
        }
        self.close_if_finished(event_loop);
    }

    fn pass(&self, event_loop: &EventLoop, bytes: &mut Buffer) {
        let Some(relay) = self.relay.get() else { return };
        if bytes.is_empty() {
            return;
        }
        let mut word = Word::Send { bytes: mem::take(bytes), wait: false };
        event_loop.tell(relay.with, &mut word);
        let Word::Send { bytes: returned, wait } = word else { return };
        // It is the loop's own buffer, and empty now.
        *bytes = returned;
        if wait && self.is_relaying() {
            self.change_relay(|relay| relay.waits = true);
            self.update_wanted(event_loop);
        }
    }

    /// What the other connection says, or what one says that wants to be linked. Calls nobody.
    pub(super) fn hear(&self, event_loop: &EventLoop, word: &mut Word) {
        match word {
            Word::Link { with, linked } => {
                *linked = self.can_be_linked();
                if *linked {
                    self.link(event_loop, *with);
                }
            }
            Word::Send { bytes, wait } => {
                // The limit is no concern of a link: the mark and a buffer full are the most that comes to lie here.
                if self.send_within(event_loop, bytes.readable(), usize::MAX).is_err() {
                    // The other direction may still have much to deliver, so the two go on.
                    self.count_lost(bytes.len());
                }
                bytes.clear();
                *wait = self.queued() > self.relay_mark();
                self.change_relay(|relay| relay.is_waited_for = *wait);
            }
            Word::GoOn => {
                self.change_relay(|relay| relay.waits = false);
                self.update_wanted(event_loop);
            }
            Word::Finish => self.shutdown(event_loop),
            Word::Ended(ended) => {
                self.forget_other();
                match ended {
                    Ended::InOrder => self.drain(event_loop),
                    Ended::Gracefully(within) => self.close_gracefully(event_loop, *within),
                    Ended::Closed => self.close(event_loop, CloseReason::RelayEnded),
                    Ended::Delivered => self.deliver_and_finish(event_loop),
                    Ended::Broken => self.deliver_and_reset(event_loop),
                    Ended::Cut => self.reset(event_loop, CloseReason::RelayEnded),
                }
            }
        }
    }

    fn relay_mark(&self) -> usize {
        self.marks_of_replies().0.min(self.membership.group().limits.max_unsent)
    }

    /// After something has been sent: has the other connection read on, if it waits for that.
    pub(super) fn let_other_go_on(&self, event_loop: &EventLoop) {
        let Some(relay) = self.relay.get() else { return };
        let low_water = self.marks_of_replies().1.min(self.relay_mark());
        if relay.is_waited_for && self.queued() <= low_water {
            self.change_relay(|relay| relay.is_waited_for = false);
            event_loop.tell(relay.with, &mut Word::GoOn);
        }
    }

    /// What the other connection of the link is to make of a close for `reason`.
    pub(super) fn ended_by(&self, reason: &CloseReason) -> Ended {
        match Ended::from(reason) {
            Ended::Broken if self.relay.get().is_some_and(|relay| relay.has_finished) => Ended::Delivered,
            ended => ended,
        }
    }

    /// Whether the peer misses something of what came through the link, or was still to come, when it ends like this.
    pub(super) fn cuts_off_relay(&self, ended: Ended) -> bool {
        self.is_relaying()
            && match ended {
                Ended::Broken | Ended::Cut => true,
                Ended::Delivered => !self.fin_sent.get(),
                Ended::InOrder | Ended::Gracefully(_) | Ended::Closed => false,
            }
    }

    /// Ends the link, and has the other connection end.
    pub(super) fn end_link(&self, event_loop: &EventLoop, ended: Ended) {
        if let Some(relay) = self.relay.get().filter(|_| self.is_relaying()) {
            self.forget_other();
            event_loop.tell(relay.with, &mut Word::Ended(ended));
        }
    }

    /// The other connection is told nothing more, and nothing comes from it.
    fn forget_other(&self) {
        self.change_relay(|relay| {
            relay.is_over = true;
            relay.has_finished = true;
            relay.waits = false;
        });
    }
}
