//! One TCP or Unix-socket connection: its state machine, its limits, and its close.
//!
//! A connection consists of four types. [`ConnectionCore`] contains everything except the handler;
//! it is not generic, so it is compiled once. `ConnectionDriver<H>` adds the handler; the loop owns
//! it. A [`TcpConnection`] is the view that a callback receives; it exists for one call. A
//! [`ConnectionHandle`] belongs to other code, on any thread; it only queues requests. All other
//! modules refer to a connection by its id.
//!
//! An idle connection owns neither an input buffer nor an output queue.

mod calls;
mod coalescing;
mod deadlines;
mod delivery;
pub(in crate::net) mod demand;
pub(in crate::net) mod driver;
mod failure;
mod fd_passing;
mod filters;
mod graceful_close;
pub(in crate::net) mod group_send;
mod handle;
pub(crate) mod handler;
#[cfg(feature = "inspector")]
pub(crate) mod inspection;
mod mailbox;
mod ordered_replies;
mod outstanding_work;
mod payload;
mod queue;
mod read;
mod relay;
mod replies;
mod send_file;
mod shutdown;
mod state;
mod stop;
mod stream_output;
mod tcp_connection;
mod write;

use std::any::{Any, TypeId};
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

pub use handle::ConnectionHandle;
pub use ordered_replies::ReplySlot;
pub use outstanding_work::KeepOpen;
pub(super) use read::Received;
use read::{InputUse, ReadBlocks};
pub use state::{ConnectionId, ConnectionState};
pub use tcp_connection::TcpConnection;

use super::address::Address;
use super::group::Membership;
use super::result::CloseReason;
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::net::group::budget::Condemned;
use crate::net::sys::stream;
use crate::net::sys::transport::Transport;
use crate::readiness::{Interest, Readiness};
use calls::WaitingCalls;
use coalescing::SendCollected;
use deadlines::Deadlines;
use delivery::Delivery;
use demand::StreamState;
use fd_passing::{FdPassing, LastFd, RetryFds};
use filters::{FilterWoken, Filtering};
use graceful_close::{CloseTimer, GracefulClose};
use group_send::GroupSend;
use mailbox::Mailbox;
use queue::Queue;
use relay::{Relay, RelayMessage};
use stop::Stop;
use tcp_connection::{tasks::TaskEnd, timers::Timers};
use write::HighWater;

pub(super) const INPUT: Readiness = Readiness::satisfying(Interest::READABLE);
const OUTPUT: Readiness = Readiness::satisfying(Interest::WRITABLE);

/// A socket, accepted or connecting, that has not reached the loop that will serve it.
pub(super) struct PendingConnection {
    pub(super) fd: OwnedFd,
    pub(super) peer: Address,
    pub(super) membership: Membership,
}

/// A connection without its handler.
///
/// In the order of its declaration: what each message uses comes first, in as few cache lines as
/// possible. Between two messages of a connection the kernel and other connections have evicted
/// these lines.
#[repr(C)]
pub(super) struct ConnectionCore {
    id: ChannelId,
    state: Cell<ConnectionState>,
    /// The reasons for which the connection does not read.
    read_blocks: Cell<ReadBlocks>,
    /// Reading was resumed, by another thread or by a failed output, since the handler was last
    /// given input.
    resume_pending: Cell<bool>,
    /// Requests of handles are running, and their bytes still count as queued.
    is_draining_mailbox: Cell<bool>,
    /// A callback that delivers input is running, so the bytes that it sends are replies.
    replying: Cell<bool>,
    /// Whether the unsent bytes have passed the high-water mark, and whether the handler was
    /// notified.
    high_water: Cell<HighWater>,
    /// The peer's FIN has been read; there is no more input.
    peer_finished: Cell<bool>,
    stop: Cell<Stop>,
    /// Whether input is delivered or discarded.
    input_use: Cell<InputUse>,
    /// Input left in `unread` by the handler is due to be delivered again.
    redeliver: Cell<bool>,
    /// `on_drained` was requested, even if nothing is queued.
    wants_drained: Cell<bool>,
    /// Since the last trim, `unread` had much more storage than content at some time.
    unread_is_spacious: Cell<bool>,
    /// A callback of the connection is running, so its output is collected.
    is_collecting: Cell<bool>,
    /// A task that sends the collected output is queued.
    is_send_queued: Cell<bool>,
    /// A write has failed: nothing more is sent, and earlier input is still delivered.
    output_failed: Cell<bool>,
    /// The peer of a Unix socket has closed with unread data in its receive queue.
    left_unread: Cell<bool>,
    /// The handler has returned an error: of its callbacks only `on_close` is still called.
    handler_failed: Cell<bool>,
    /// The connection shuts down when no work is outstanding.
    is_shutdown_due: Cell<bool>,
    /// The FIN has been sent, or at least handed to the kernel.
    fin_sent: Cell<bool>,
    /// The descriptor was lent to the user, who may have duplicated it.
    lent: Cell<bool>,
    /// A timer for another attempt to send descriptors is armed.
    is_fd_retry_armed: Cell<bool>,
    /// What happens to descriptors that the peer sends.
    passing: Cell<FdPassing>,
    /// Set if the connection is a byte stream, which reads on demand.
    stream: OnceCell<Rc<StreamState>>,
    transport: Transport,
    /// Output that was accepted and not yet taken by the kernel. Never an empty queue.
    unsent: RefCell<Option<Box<Queue>>>,
    /// Output that has been collected. Only while nothing is queued.
    collected: Cell<Option<Box<Buffer>>>,
    /// Input that the handler did not consume. Never an empty buffer.
    unread: Cell<Option<Box<Buffer>>>,
    /// Set if the connection has filters, or is to have them when it is established.
    filtering: OnceCell<Box<Filtering>>,
    /// Created by the first request for a handle.
    mailbox: OnceCell<Arc<Mailbox>>,
    /// Declared after `transport`, so that it drops later and closes the last descriptor of the
    /// socket.
    last_fd: LastFd,
    /// The link with another connection, also after it has ended.
    relay: Cell<Option<Relay>>,
    deadlines: Deadlines,
    membership: Membership,
    connection_id: ConnectionId,
    #[cfg(feature = "inspector")]
    created: std::time::Instant,
    /// Whether the handler is, or contains, a handler of a type.
    has_handler: fn(TypeId) -> bool,
    /// Set when the connection is established.
    peer: OnceCell<Address>,
    /// The memory that the connection has reported to its account, without the handles' mailbox.
    reported_memory: Cell<usize>,
    /// The error to close with when the input has ended.
    first_error: Cell<Option<io::Error>>,
    /// Bytes that were accepted for sending and then dropped.
    lost: Cell<usize>,
    reason: Cell<Option<Contained<CloseReason>>>,
    timers: Cell<Option<Box<Timers>>>,
    /// Calls of the handler that wait until no callback is running.
    waiting_calls: Cell<Option<Box<WaitingCalls>>>,
    /// Set after a link has ended, while the relayed bytes are still being delivered.
    delivery: Cell<Option<Box<Delivery>>>,
    /// The graceful close in progress.
    graceful: Cell<Option<Box<GracefulClose>>>,
}

impl ConnectionCore {
    pub(super) fn new(
        id: ChannelId,
        pending: PendingConnection,
        state: ConnectionState,
        has_handler: fn(TypeId) -> bool,
    ) -> ConnectionCore {
        let PendingConnection { fd, peer, membership } = pending;
        ConnectionCore::with_transport(id, Transport::Socket(fd), peer, membership, state, has_handler)
    }

    pub(super) fn with_transport(
        id: ChannelId,
        transport: Transport,
        peer: Address,
        mut membership: Membership,
        state: ConnectionState,
        has_handler: fn(TypeId) -> bool,
    ) -> ConnectionCore {
        membership.enlist(id);
        // The peer may differ from the target of the connect (0.0.0.0 connects to 127.0.0.1), so it
        // is read after the connect. A Unix path is kept as the client passed it: the kernel would
        // return the path that the server bound, which may be relative to another directory.
        let passing = if peer.is_unix() { FdPassing::Discarded } else { FdPassing::None };
        let is_known = state != ConnectionState::Connecting || peer.is_unix();
        let peer = if is_known { OnceCell::from(peer) } else { OnceCell::new() };
        let is_filtered = !membership.group().filters.is_empty();
        let filtering = if is_filtered { OnceCell::from(Filtering::expected()) } else { OnceCell::new() };
        ConnectionCore {
            id,
            connection_id: ConnectionId::next(),
            #[cfg(feature = "inspector")]
            created: std::time::Instant::now(),
            has_handler,
            transport,
            last_fd: LastFd::default(),
            lent: Cell::new(false),
            peer,
            membership,
            state: Cell::new(state),
            passing: Cell::new(passing),
            is_fd_retry_armed: Cell::new(false),
            read_blocks: Cell::new(ReadBlocks::NONE),
            resume_pending: Cell::new(false),
            is_draining_mailbox: Cell::new(false),
            replying: Cell::new(false),
            high_water: Cell::default(),
            reported_memory: Cell::new(0),
            peer_finished: Cell::new(false),
            stop: Cell::new(Stop::No),
            input_use: Cell::new(InputUse::Delivered),
            redeliver: Cell::new(false),
            wants_drained: Cell::new(false),
            unread_is_spacious: Cell::new(false),
            unread: Cell::default(),
            stream: OnceCell::new(),
            filtering,
            unsent: RefCell::default(),
            is_collecting: Cell::new(false),
            is_send_queued: Cell::new(false),
            collected: Cell::default(),
            output_failed: Cell::new(false),
            first_error: Cell::new(None),
            lost: Cell::new(0),
            left_unread: Cell::new(false),
            reason: Cell::new(None),
            deadlines: Deadlines::default(),
            timers: Cell::default(),
            waiting_calls: Cell::default(),
            handler_failed: Cell::new(false),
            is_shutdown_due: Cell::new(false),
            fin_sent: Cell::new(false),
            relay: Cell::new(None),
            delivery: Cell::default(),
            graceful: Cell::new(None),
            mailbox: OnceCell::new(),
        }
    }

    /// Restricts a new connection to the directions that its descriptors have. Without an output it
    /// is shut down from the start, without an input the input has ended.
    fn limit_directions(&self, has_input: bool, has_output: bool) {
        self.peer_finished.set(!has_input);
        if !has_output {
            self.state.set(ConnectionState::Closing);
            self.fin_sent.set(true);
        }
    }

    /// Passes the connection's interest to the loop. Errors are always included, even while reading
    /// is paused.
    pub(super) fn update_wanted(&self, event_loop: &EventLoop) {
        match self.state.get() {
            ConnectionState::Open | ConnectionState::Closing => {}
            // A connecting socket becomes writable on success and on failure.
            ConnectionState::Connecting => return event_loop.set_wanted(self.id, OUTPUT),
            ConnectionState::Closed => return,
        }
        let mut wanted = Readiness::ERROR | Readiness::SELF_WAKE;
        if self.is_reading() || self.is_watched_by_stream() {
            wanted |= INPUT;
        }
        if self.has_output() {
            wanted |= OUTPUT;
        }
        event_loop.set_wanted(self.id, wanted);
    }

    /// Returns `true` if the connection has just been established; it is `Open` then. A failed
    /// connect closes it with the error.
    pub(super) fn finish_connecting(&self, event_loop: &EventLoop) -> bool {
        match self.transport.socket().and_then(stream::finish_connecting) {
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

    /// The only transition to `Closed`. The handler's `on_close` runs in phase 6, outside any
    /// callback.
    ///
    /// The first error is reported instead of a later one, and instead of a normal end. If accepted
    /// or relayed bytes are lost, the connection is reset: after a FIN the peer would take a
    /// truncated stream for a complete one.
    ///
    /// Each part of the connection releases its own state here: timers, graceful close, delivery,
    /// mailbox, link.
    pub(super) fn close(&self, event_loop: &EventLoop, reason: CloseReason) {
        let reason = Contained::new(reason);
        // The payloads of groups on their way to this loop were accepted, and so was the output
        // that the current callback has sent.
        if self.takes_payloads() {
            event_loop.run_deliveries();
        }
        self.send_collected(event_loop);
        self.send_last_bytes(event_loop, &reason);
        if self.state.replace(ConnectionState::Closed) == ConnectionState::Closed {
            return;
        }
        // The replaced reason may hold a user's value, so it is dropped at the end.
        let (reason, _replaced) = match self.first_error_instead_of(&reason) {
            Some(first) => (Contained::new(first), Some(reason)),
            None => (reason, None),
        };
        let link_end = self.link_end_for(&reason);
        self.reason.set(Some(reason));
        self.cancel_deadlines(event_loop);
        self.cancel_timers(event_loop);
        self.cancel_graceful_close(event_loop);
        self.cancel_delivery(event_loop);
        if let Some(mailbox) = self.mailbox.get() {
            // Bytes in requests that other threads have queued count as unsent, also in `on_close`.
            let undone = mailbox.close();
            self.count_lost(undone.bytes);
            self.keep_undone_calls(undone.calls);
        }
        // The FIN is sent only after all accepted bytes and reserved replies, so after a FIN
        // nothing is missing.
        let is_truncated = (self.lost.get() > 0 || self.unsent.borrow().is_some()) && !self.fin_sent.get();
        if is_truncated || self.truncates_relay(link_end) {
            self.reset_when_closed();
        }
        event_loop.set_wanted(self.id, Readiness::NONE);
        event_loop.close_later(self.id);
        self.end_link(event_loop, link_end);
    }

    /// Receives a control message from this thread. Calls no user code.
    pub(super) fn on_control(&self, event_loop: &EventLoop, message: &mut dyn Any) {
        if let Some(message) = message.downcast_mut::<RelayMessage>() {
            self.on_relay_message(event_loop, message);
        } else if let Some(timer) = message.downcast_ref::<CloseTimer>() {
            self.on_close_timer(event_loop, timer);
        } else if let Some(send) = message.downcast_mut::<GroupSend>() {
            self.on_group_send(event_loop, send);
        } else if message.is::<FilterWoken>() {
            self.on_filter_woken(event_loop);
        } else if message.is::<SendCollected>() {
            self.on_send_collected(event_loop);
        } else if message.is::<RetryFds>() {
            self.retry_fds(event_loop);
        } else if message.is::<Condemned>() {
            self.close_for_memory(event_loop);
        } else if let Some(end) = message.downcast_mut::<TaskEnd>() {
            self.on_task_end(event_loop, end);
        }
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    /// The peer of an established connection.
    fn peer_address(&self) -> &Address {
        self.peer.get().expect("a connection is not used before it is established")
    }

    /// The peer; `None` while the connection is not established.
    pub(super) fn known_peer(&self) -> Option<&Address> {
        self.peer.get()
    }

    /// Lends the descriptor to the user, if there is one.
    pub(super) fn lend_fd(&self) -> Option<BorrowedFd<'_>> {
        self.lent.set(true);
        self.transport.fd()
    }

    /// The descriptor that the connection's channel watches.
    pub(super) fn watched_fd(&self) -> Option<BorrowedFd<'_>> {
        self.transport.watched_fd()
    }

    /// Whether a duplicate of the descriptor may exist, now or when the connection is dropped.
    pub(super) fn may_be_duplicated(&self) -> bool {
        self.lent.get() || self.passing.get() != FdPassing::None
    }

    pub(super) fn state(&self) -> ConnectionState {
        self.state.get()
    }

    /// Whether the connection only flushes its output, and no longer gives input to the handler.
    pub(super) fn is_draining(&self) -> bool {
        self.input_use.get() == InputUse::Draining
    }

    /// Whether input is discarded, except its end.
    fn discards_input(&self) -> bool {
        self.input_use.get() != InputUse::Delivered
    }

    pub(super) fn take_reason(&self) -> Contained<CloseReason> {
        self.reason.take().unwrap_or_else(|| Contained::new(CloseReason::Closed))
    }
}

impl Drop for ConnectionCore {
    fn drop(&mut self) {
        // Dropped connections must leave no bytes in the account.
        if let Some(mailbox) = self.mailbox.get() {
            // Calls that are left have no handler.
            drop(mailbox.close());
        }
        self.close_unread_descriptors();
    }
}
