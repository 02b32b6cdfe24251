//! One connection, of TCP or of a Unix socket: its state, its limits, and how it ends.
//!
//! The loop that runs a connection owns it, in a slot; others hold its id. [`ConnectionCore`] is all of it but the handler. What the
//! handler gets to see is a [`TcpConnection`], which lasts for one call; what other threads hold is a
//! [`ConnectionHandle`]. An idle connection owns neither an input nor an output buffer.

mod delivery;
pub(in crate::net) mod driver;
mod failure;
mod fd_passing;
mod graceful_close;
mod handle;
pub(in crate::net) mod handler;
mod idle;
mod queue;
mod read;
mod relay;
mod replies;
mod tcp_connection;
mod write;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use handle::ConnectionHandle;
pub(super) use read::Received;
pub use tcp_connection::TcpConnection;

use super::address::Address;
use super::group::{Membership, Stage};
use super::result::CloseReason;
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::timers::timer_queue::TimerKey;
use crate::net::group::budget::Condemned;
use crate::net::sys::stream;
use crate::readiness::{Interest, Readiness};
use delivery::Delivery;
use fd_passing::{FdPassing, LastFd, RetryFds};
use graceful_close::{CloseTimer, GracefulClose};
use handle::Mailbox;
use queue::Queue;
use relay::{Relay, RelayMessage};
use write::HighWater;

pub(super) const INPUT: Readiness = Readiness::answering(Interest::READABLE);
const OUTPUT: Readiness = Readiness::answering(Interest::WRITABLE);

/// How far a connection is.
///
/// | state | may send | leaves it when |
/// |---|---|---|
/// | `Connecting` | no | the connection is made, or fails |
/// | `Open` | yes | `shutdown`, `close_gracefully`, a write that fails: `Closing`; `close`, an error of reading: `Closed` |
/// | `Closing` | no | the queue is sent, then the FIN, and the peer's FIN has come: `Closed`; `close`, an error, a deadline: `Closed` |
/// | `Closed` | no | never |
///
/// The peer's FIN alone changes no state: it ends the input, and what is accepted for sending is still sent.
///
/// Likewise a write that fails because the peer has closed or reset the connection ends the output only. What was queued is dropped and
/// stays counted as [unsent](TcpConnection::unsent), later sends are refused, and what the peer had sent before is still delivered. When
/// the input has ended the connection closes, with the first error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not made yet.
    Connecting,
    /// Made; either end may send.
    Open,
    /// Shut down by this end: what is queued is sent, then the FIN. Or the output has failed, and the input is still delivered.
    Closing,
    /// Over.
    Closed,
}

/// A socket, accepted or being connected, on its way to the loop that will serve it.
pub(super) struct PendingConnection {
    pub(super) fd: OwnedFd,
    pub(super) peer: Address,
    pub(super) membership: Membership,
}

/// Whether the connection has heard that its server is being stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// Its handler is to be told.
    Deferred,
    Delivered,
}

/// All of a connection but its handler.
pub(super) struct ConnectionCore {
    id: ChannelId,
    fd: OwnedFd,
    /// Behind `fd`, so that this is the last descriptor of the socket.
    last_fd: LastFd,
    /// The descriptor was lent to the user, who may have duplicated it.
    lent: Cell<bool>,
    /// Known as soon as the connection is made.
    peer: OnceCell<Address>,
    membership: Membership,
    state: Cell<ConnectionState>,
    /// What becomes of descriptors that the peer sends.
    passing: Cell<FdPassing>,
    /// Descriptors that could not be sent are to be tried again.
    is_fd_retry_armed: Cell<bool>,
    /// The handler does not want to read for now.
    paused: Cell<bool>,
    /// Another thread has had reading go on since the handler was last offered input.
    resume_pending: Cell<bool>,
    /// The peer does not read the replies to its input, so no more is read from it.
    throttled: Cell<bool>,
    /// The handler is being given input: what it sends are replies.
    replying: Cell<bool>,
    /// Whether there is more unsent than there should be, and whether the handler knows.
    high_water: Cell<HighWater>,
    /// How much memory the connection's account has it hold, handles' mailbox left out.
    reported_memory: Cell<usize>,
    /// The peer's FIN has been read: there is no more input.
    peer_finished: Cell<bool>,
    stop: Cell<Stop>,
    /// Input is thrown away: the group is stopping.
    discarding: Cell<bool>,
    /// Input that was left in `unread` when reading paused is to be offered again.
    redeliver: Cell<bool>,
    /// The handler wants its `on_drained` even if nothing is queued.
    wants_drained: Cell<bool>,
    /// Input that the handler has left for later; never an empty buffer.
    unread: Cell<Option<Box<Buffer>>>,
    /// The storage of `unread` was found much larger than what is in it, since the loop last had it trimmed.
    unread_is_spacious: Cell<bool>,
    /// What was accepted for sending and what the kernel has not taken; never an empty queue.
    unsent: RefCell<Option<Box<Queue>>>,
    /// A write has failed, so nothing more is sent; what arrived before is still delivered.
    output_failed: Cell<bool>,
    /// The error to close with when the input has ended.
    first_error: Cell<Option<io::Error>>,
    /// Bytes that were accepted for sending and dropped.
    lost: Cell<usize>,
    /// The peer of a Unix socket has closed without having read all.
    left_unread: Cell<bool>,
    reason: Cell<Option<Contained<CloseReason>>>,
    /// When bytes last came or went.
    last_active: Cell<Option<Instant>>,
    /// How long the connection may be idle, if that is limited.
    idle_timeout: Cell<Option<Duration>>,
    idle_timer: Cell<Option<TimerKey>>,
    /// The FIN has been sent, or at least handed to the kernel.
    fin_sent: Cell<bool>,
    /// What comes in goes out on another connection, and the other way round.
    relay: Cell<Option<Relay>>,
    /// The link is over, and what came through it is still to arrive.
    delivery: Cell<Option<Box<Delivery>>>,
    /// The close in order that is under way.
    graceful: Cell<Option<Box<GracefulClose>>>,
    /// Made when somebody first asks for a handle.
    mailbox: OnceCell<Arc<Mailbox>>,
}

impl ConnectionCore {
    pub(super) fn new(id: ChannelId, pending: PendingConnection, state: ConnectionState) -> ConnectionCore {
        let PendingConnection { fd, peer, mut membership } = pending;
        membership.enlist(id);
        // What is being connected to may stand for another address, as 0.0.0.0 does. That of a Unix socket is kept as the client
        // gave it: the kernel would return the path as the server bound it, which may be relative to another directory.
        let passing = if peer.is_unix() { FdPassing::Discarded } else { FdPassing::None };
        let is_known = state != ConnectionState::Connecting || peer.is_unix();
        let peer = if is_known { OnceCell::from(peer) } else { OnceCell::new() };
        ConnectionCore {
            id,
            fd,
            last_fd: LastFd::default(),
            lent: Cell::new(false),
            peer,
            membership,
            state: Cell::new(state),
            passing: Cell::new(passing),
            is_fd_retry_armed: Cell::new(false),
            paused: Cell::new(false),
            resume_pending: Cell::new(false),
            throttled: Cell::new(false),
            replying: Cell::new(false),
            high_water: Cell::default(),
            reported_memory: Cell::new(0),
            peer_finished: Cell::new(false),
            stop: Cell::new(Stop::No),
            discarding: Cell::new(false),
            redeliver: Cell::new(false),
            wants_drained: Cell::new(false),
            unread_is_spacious: Cell::new(false),
            unread: Cell::default(),
            unsent: RefCell::default(),
            output_failed: Cell::new(false),
            first_error: Cell::new(None),
            lost: Cell::new(0),
            left_unread: Cell::new(false),
            reason: Cell::new(None),
            last_active: Cell::new(None),
            idle_timeout: Cell::new(None),
            idle_timer: Cell::new(None),
            fin_sent: Cell::new(false),
            relay: Cell::new(None),
            delivery: Cell::default(),
            graceful: Cell::new(None),
            mailbox: OnceCell::new(),
        }
    }

    /// Tells the loop what the connection waits for. An error always concerns it, whatever else is paused.
    pub(super) fn update_wanted(&self, event_loop: &EventLoop) {
        match self.state.get() {
            ConnectionState::Open | ConnectionState::Closing => {}
            // Writable is what a socket becomes when it is connected, and when that has failed.
            ConnectionState::Connecting => return event_loop.set_wanted(self.id, OUTPUT),
            ConnectionState::Closed => return,
        }
        let mut wanted = Readiness::ERROR | Readiness::NOTE;
        if self.is_reading() {
            wanted |= INPUT;
        }
        if self.has_output() {
            wanted |= OUTPUT;
        }
        event_loop.set_wanted(self.id, wanted);
    }

    /// Answers whether the connection is made now, and thereby open. One that could not be made is closed with the error.
    pub(super) fn finish_connecting(&self, event_loop: &EventLoop) -> bool {
        match stream::finish_connecting(&self.fd) {
            Ok(Some(peer)) => {
                self.peer.get_or_init(|| peer);
                self.state.set(ConnectionState::Open);
                self.update_wanted(event_loop);
                return true;
            }
            Ok(None) => event_loop.clear_ready(self.id, OUTPUT),
            Err(error) => self.close(event_loop, CloseReason::Error(error)),
        }
        false
    }

    /// The only way to `Closed`. The handler's `on_close` is called in phase 6, when no callback is under way.
    ///
    /// An earlier error takes the place of a later one, and of an end in order. If anything is lost that was accepted for sending, or that
    /// was to be relayed, the connection is reset: behind an orderly end the peer would take what it has for the whole.
    pub(super) fn close(&self, event_loop: &EventLoop, reason: CloseReason) {
        let reason = Contained::new(reason);
        if self.state.replace(ConnectionState::Closed) == ConnectionState::Closed {
            return;
        }
        // The one that is replaced may be the user's, and is dropped when all is done.
        let (reason, _replaced) = match self.first_error_instead_of(&reason) {
            Some(first) => (Contained::new(first), Some(reason)),
            None => (reason, None),
        };
        let link_end = self.link_end_for(&reason);
        self.reason.set(Some(reason));
        self.cancel_idle_timer(event_loop);
        self.cancel_graceful_close(event_loop);
        self.cancel_delivery(event_loop);
        if let Some(mailbox) = self.mailbox.get() {
            // What was accepted from other threads counts as unsent, for the handler to see.
            self.count_lost(mailbox.close());
        }
        // Behind the FIN nothing is missing for the peer: the FIN was sent when all that was accepted had been.
        let is_truncated = self.unsent() > 0 && !self.fin_sent.get();
        if is_truncated || self.truncates_relay(link_end) {
            self.reset_when_closed();
        }
        event_loop.set_wanted(self.id, Readiness::NONE);
        event_loop.close_later(self.id);
        self.end_link(event_loop, link_end);
    }

    /// Ends the connection if both ends have finished and all is sent, or if the output has failed and all input is delivered.
    pub(super) fn close_if_finished(&self, event_loop: &EventLoop) {
        let input_ended = self.discarding.get() || (self.peer_finished.get() && !self.holds_input());
        let is_finished = match self.has_output_failed() {
            true => input_ended,
            false => {
                self.state.get() == ConnectionState::Closing
                    && self.peer_finished.get()
                    && self.unsent.borrow().is_none()
            }
        };
        if !is_finished || self.has_pending_eof() {
            return;
        }
        if self.ends_by_reset() {
            self.finish_delivery(event_loop);
        } else if self.has_output_failed() || !self.must_await_acknowledgement(event_loop) {
            let is_delivered = self.is_delivering();
            let reason = if is_delivered { CloseReason::RelayEnded } else { CloseReason::Finished };
            self.close(event_loop, reason);
        }
    }

    /// What somebody on this thread says to the connection. Calls nobody.
    pub(super) fn on_control(&self, event_loop: &EventLoop, message: &mut dyn Any) {
        if let Some(message) = message.downcast_mut::<RelayMessage>() {
            self.on_relay_message(event_loop, message);
        } else if let Some(timer) = message.downcast_ref::<CloseTimer>() {
            self.on_close_timer(event_loop, timer);
        } else if message.is::<RetryFds>() {
            self.retry_fds(event_loop);
        } else if message.is::<Condemned>() {
            self.close_for_memory(event_loop);
        }
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    /// The other end of a connection that is made.
    fn peer(&self) -> &Address {
        self.peer.get().expect("nobody sees a connection before it is made")
    }

    /// The descriptor, for the user.
    pub(super) fn lend_fd(&self) -> BorrowedFd<'_> {
        self.lent.set(true);
        self.fd.as_fd()
    }

    /// Whether a duplicate of the descriptor may exist, now or when the connection is dropped.
    pub(super) fn may_be_duplicated(&self) -> bool {
        self.lent.get() || self.passing.get() != FdPassing::None
    }

    pub(super) fn state(&self) -> ConnectionState {
        self.state.get()
    }

    /// How far the connection's group is on its way to its end.
    pub(super) fn stage(&self) -> Stage {
        self.membership.group().stage()
    }

    /// Whether the connection only sends what it owes, and its handler is no longer called for input.
    pub(super) fn is_draining(&self) -> bool {
        self.discarding.get()
    }

    pub(super) fn take_reason(&self) -> Contained<CloseReason> {
        self.reason.take().unwrap_or_else(|| Contained::new(CloseReason::Closed))
    }

    /// The server is being stopped. The handler is told first, and not from here, as this may be in the middle of one of its calls.
    pub(super) fn defer_stop(&self, event_loop: &EventLoop) {
        if self.stop.get() == Stop::No {
            self.stop.set(Stop::Deferred);
            event_loop.add_ready(self.id, Readiness::NOTE);
        }
    }

    /// Answers whether the end is to begin now, and the handler to be told before.
    pub(super) fn take_deferred_stop(&self) -> bool {
        let is_news = self.stop.get() == Stop::Deferred && self.state.get() != ConnectionState::Closed;
        if is_news {
            self.stop.set(Stop::Delivered);
        }
        is_news
    }

    /// Ends now with the group. When the time of a stop is up the connection is reset, whatever it still waits for, and also if the stop
    /// was not noted before. So is one whose end in order is under way, as the peer may not have all of it.
    pub(super) fn abort(&self, event_loop: &EventLoop) {
        let time_is_up = self.stage() == Stage::Resetting;
        if time_is_up {
            self.send_fin_before_reset(event_loop);
        }
        if time_is_up || self.discarding.get() {
            self.reset(event_loop, CloseReason::Stopped);
        } else {
            self.close(event_loop, CloseReason::Stopped);
        }
    }

    /// Begins an end in order: what is queued is sent, what comes is thrown away.
    pub(super) fn drain(&self, event_loop: &EventLoop) {
        if self.discarding.replace(true) {
            return;
        }
        self.paused.set(false);
        self.throttled.set(false);
        self.unread.take();
        self.report_memory();
        self.redeliver.set(false);
        self.shutdown(event_loop);
        // It may have been shut down before, and then have waited for a handler to take its input.
        self.close_if_finished(event_loop);
        self.update_wanted(event_loop);
    }
}

impl Drop for ConnectionCore {
    fn drop(&mut self) {
        // Nothing may be counted for a connection that has gone.
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.close();
        }
        self.close_unread_descriptors();
    }
}

impl AsFd for ConnectionCore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
