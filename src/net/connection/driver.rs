//! [`ConnectionDriver`]: opens a connection, reads its input, and calls its handler.
//!
//! Input is read into the loop's shared buffer. Only the bytes that a handler leaves there are
//! copied into a buffer of the connection's own.

mod adopted;
mod calls;
mod filtered;
mod outgoing;
mod pairs;
mod streams;

use std::any::{Any, TypeId, type_name};
use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

pub use self::adopted::ConnectionBuilder;
pub(in crate::net) use self::outgoing::{Dialer, Outgoing, Waiting, dial};
pub(in crate::net) use super::calls::Call;
use super::handler::ConnectionHandler;
use super::mailbox::Taken;
use crate::buffer::Buffer;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{Description, EventLoop, Source};
use crate::net::connection::{
    ConnectionCore, ConnectionState, INPUT, PendingConnection, Received, TcpConnection,
};
use crate::net::disposal::close_descriptors;
use crate::net::group::Stage;
use crate::net::result::CloseReason;
use crate::net::sys::fd_passing::close_unopened;
use crate::readiness::{Interest, Readiness};

/// The interest registered with the poller. PRIORITY (urgent data) is registered because
/// [`ConnectionCore::receive`] needs to know of it; no connection waits for it.
fn watched() -> Interest {
    Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY
}

/// A connection and its handler: the source in the loop's slot.
struct ConnectionDriver<H> {
    /// `None` until the factory has created it.
    handler: RefCell<Option<Contained<H>>>,
    /// Set for a connection that this end initiates or adopts.
    outgoing: Option<Box<Outgoing<H>>>,
    /// Declared last, so that it drops last: the connection counts as open until its handler has
    /// been dropped.
    core: ConnectionCore,
}

/// Registers an accepted socket with the loop, and opens the connection. `make` is kept if the
/// connection has filters, as these may perform a handshake first.
///
/// `make` and the handler are user code. A panic in either closes this connection and has no other
/// effect.
pub(in crate::net) fn establish<H: ConnectionHandler>(
    event_loop: &EventLoop,
    pending: PendingConnection,
    make: &(impl Fn(&TcpConnection<'_>) -> H + Clone + 'static),
) {
    let group = pending.membership.group();
    if group.stage() != Stage::Serving {
        return close_unopened(pending.fd, &pending.peer);
    }
    let outgoing = match group.filters.is_empty() {
        true => None,
        false => Some(Box::new(Outgoing::accepted(make.clone()))),
    };
    let peer = pending.peer.clone();
    let registered = event_loop.register(watched(), |id| {
        let core = ConnectionCore::new(id, pending, ConnectionState::Open, has_handler::<H>);
        Rc::new(ConnectionDriver { core, handler: RefCell::new(None), outgoing })
    });
    let connection = match registered {
        Ok(connection) => connection,
        Err(error) => {
            return logger::recurring("cannot watch a connection", |left_out| {
                log::warn!("cannot watch a connection from {peer}: {error}{left_out}");
            });
        }
    };
    connection.core.update_wanted(event_loop);
    match &connection.outgoing {
        None => {
            connection.core.start_idle_timeout(event_loop);
            connection.open(event_loop, make);
        }
        Some(_) => connection.begin(event_loop),
    }
}

/// Whether `H` is a handler of the type, or contains one.
pub(in crate::net) fn has_handler<H: ConnectionHandler>(wanted: TypeId) -> bool {
    H::locate(wanted).is_some()
}

impl<H: ConnectionHandler> ConnectionDriver<H> {
    /// Creates the handler of an established connection.
    fn open(&self, event_loop: &EventLoop, make: impl FnOnce(&TcpConnection<'_>) -> H) {
        let opened = event_loop.catch_in("a factory or on_open", self, || {
            let conn = TcpConnection::new(event_loop, &self.core);
            *self.handler.borrow_mut() = Some(Contained::new(make(&conn)));
            // The factory may have closed the connection or stopped its server.
            if self.core.state() != ConnectionState::Closed {
                self.call(event_loop, |handler, conn| handler.on_open(conn));
            }
        });
        self.core.refuse_unwanted_descriptors();
        if opened.is_none() {
            self.core.close(event_loop, CloseReason::Panicked);
        }
        // Without a handler, because the factory has panicked, they wait for the next session.
        let outgoing = self.outgoing.iter().filter(|_| self.handler.borrow().is_some());
        for waiting in outgoing.flat_map(|outgoing| outgoing.dialer.on_opened()) {
            self.core.add_call(match waiting {
                Waiting::Call(call) => call,
                Waiting::Bytes(bytes) => Call::new(|_: &mut H, conn| conn.send_accepted(bytes)),
            });
        }
        self.run_requests(event_loop);
    }

    /// The connecting socket has become writable, or has failed.
    #[cold]
    fn finish_connecting(&self, event_loop: &EventLoop) {
        if self.core.finish_connecting(event_loop) {
            self.begin(event_loop);
        }
    }

    /// Delivers the events that were raised inside a callback: the adoption of the connection, the
    /// high-water mark, the server's stop.
    #[cold]
    fn deliver_deferred(&self, event_loop: &EventLoop) {
        let core = &self.core;
        event_loop.clear_ready(core.id(), Readiness::SELF_WAKE);
        self.open_adopted(event_loop);
        if core.has_filters() {
            self.advance_handshake(event_loop);
        }
        if core.take_deferred_high_water() {
            self.call(event_loop, |handler, conn| handler.on_high_water(conn, conn.unsent()));
        }
        if core.take_deferred_stop() {
            if core.is_in_handshake() {
                return core.close(event_loop, CloseReason::Stopped);
            }
            self.call(event_loop, |handler, conn| handler.on_stop(conn));
            // A relay may continue past the stop: only its two peers know how much data is still to
            // come. So may a byte stream, of which only its task knows.
            if !core.is_still_linked() && !core.is_stream() {
                core.drain_after_work(event_loop);
            }
        }
    }

    /// Calls the handler, unless it has returned an error before. An error that it returns closes
    /// the connection.
    fn call(
        &self,
        event_loop: &EventLoop,
        callback: impl FnOnce(&mut H, &TcpConnection<'_>) -> io::Result<()>,
    ) {
        if self.core.has_handler_failed() {
            return;
        }
        let mut handler = self.handler.borrow_mut();
        let Some(handler) = handler.as_mut() else { return };
        let conn = TcpConnection::new(event_loop, &self.core);
        if let Err(error) = self.core.collecting(event_loop, || callback(handler, &conn)) {
            self.core.end_with_error(event_loop, error);
        }
    }

    /// Same as [`call`](ConnectionDriver::call), for input from the peer: what the handler sends
    /// counts as replies.
    fn call_with_input(
        &self,
        event_loop: &EventLoop,
        callback: impl FnOnce(&mut H, &TcpConnection<'_>) -> io::Result<()>,
    ) {
        // Output of calls from outside is unsolicited.
        self.core.send_collected(event_loop);
        self.core.while_replying(|| self.call(event_loop, callback));
    }

    fn flush(&self, event_loop: &EventLoop) {
        let flushed = self.core.flush(event_loop);
        if self.core.has_filters() {
            self.advance_handshake(event_loop);
        }
        if self.core.was_ever_linked() {
            return;
        }
        let was_closed = self.core.state() == ConnectionState::Closed;
        if flushed.low {
            self.call(event_loop, |handler, conn| handler.on_low_water(conn));
        }
        // Skipped if `on_low_water` has closed the connection.
        if flushed.drained && was_closed == (self.core.state() == ConnectionState::Closed) {
            self.call(event_loop, |handler, conn| handler.on_drained(conn));
        }
    }

    fn read(&self, event_loop: &EventLoop, ready: Readiness) {
        let mut input = event_loop.lend_input();
        match self.core.receive(event_loop, ready, &mut input) {
            Received::Input => self.deliver(event_loop, &mut input),
            Received::InputAndDescriptors(descriptors) => {
                // A linked connection has no handler for descriptors, and does not forward them.
                if self.core.was_ever_linked() {
                    close_descriptors(descriptors);
                } else {
                    self.call_with_input(event_loop, |handler, conn| {
                        handler.on_descriptors(conn, descriptors)
                    });
                }
                if self.core.state() != ConnectionState::Closed {
                    self.deliver(event_loop, &mut input);
                }
            }
            Received::End => self.end_input(event_loop),
            Received::Nothing => {}
        }
        event_loop.return_input(input);
    }

    fn deliver(&self, event_loop: &EventLoop, input: &mut Buffer) {
        match self.core.has_filters() {
            false => self.deliver_decoded(event_loop, input),
            true => self.deliver_filtered(event_loop, input),
        }
    }

    /// Gives the handler earlier unread input followed by `input`, and keeps what it leaves.
    #[inline]
    fn deliver_decoded(&self, event_loop: &EventLoop, input: &mut Buffer) {
        if self.core.was_ever_linked() {
            return self.core.forward(event_loop, input);
        }
        match self.core.take_unread() {
            None => {
                self.call_with_input(event_loop, |handler, conn| handler.on_message(conn, input));
                if !input.is_empty() {
                    let mut unread = Box::new(Buffer::new());
                    unread.append(input.readable());
                    self.core.keep_unread(event_loop, unread);
                }
            }
            Some(mut unread) => {
                unread.append(input.readable());
                let offered = unread.len();
                self.call_with_input(event_loop, |handler, conn| handler.on_message(conn, &mut unread));
                self.core.note_moved(offered.saturating_sub(unread.len()));
                if unread.is_empty() {
                    self.core.report_memory();
                } else {
                    self.core.keep_unread(event_loop, unread);
                }
            }
        }
    }

    fn end_input(&self, event_loop: &EventLoop) {
        if self.core.has_filters() && !self.decode_end(event_loop) {
            return;
        }
        if self.core.was_ever_linked() {
            return self.core.forward(event_loop, &mut Buffer::new());
        }
        if !self.core.is_draining() {
            self.call(event_loop, |handler, conn| handler.on_peer_shutdown(conn));
        }
        self.core.close_if_finished(event_loop);
    }
}

impl<H: ConnectionHandler> Source for ConnectionDriver<H> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.core.watched_fd()
    }

    /// The socket belongs to this connection alone. Unless its descriptor was lent to the user,
    /// closing it removes it from the poller, which saves one system call per connection.
    fn may_be_duplicated(&self) -> bool {
        self.core.may_be_duplicated()
    }

    /// Flushes output before it reads: output that leaves may resume reading in the same turn.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness) {
        let core = &self.core;
        if ready.intersects(Readiness::SELF_WAKE) {
            self.deliver_deferred(event_loop);
        }
        // A deferred event may have led the handler to close the connection; its queue is lost
        // then.
        if ready.is_writable() && core.has_output() && core.state() != ConnectionState::Closed {
            self.flush(event_loop);
        }
        match core.state() {
            ConnectionState::Open | ConnectionState::Closing => {}
            ConnectionState::Connecting => return self.finish_connecting(event_loop),
            ConnectionState::Closed => return,
        }
        if core.is_reading() && ready.intersects(INPUT) {
            self.read(event_loop, ready);
        } else if !core.report_to_stream(event_loop, ready) && ready.is_error() {
            core.check_error(event_loop);
        }
    }

    fn core(&self) -> Option<&dyn Any> {
        Some(&self.core)
    }

    fn on_polled(&self, event_loop: &EventLoop) {
        self.core.on_polled(event_loop);
    }

    fn on_notified(&self, event_loop: &EventLoop) {
        let core = &self.core;
        // The caller relies on the effect of its request, so this does not wait for calls.
        core.read_mailbox(event_loop, Taken::AllButCalls);
        core.run_calls_later(event_loop);
        match core.stage() {
            Stage::Serving => {}
            Stage::Draining => core.defer_stop(event_loop),
            Stage::Aborting | Stage::Resetting => core.abort(event_loop),
        }
    }

    fn on_deadline(&self, event_loop: &EventLoop) {
        let passed = self.core.take_passed_deadlines(event_loop);
        let is_open = || self.core.state() != ConnectionState::Closed;
        if passed.frame && self.core.is_in_handshake() {
            return self.core.fail_handshake(event_loop);
        }
        if passed.frame && !self.core.was_ever_linked() {
            self.call(event_loop, |handler, conn| handler.on_frame_timeout(conn));
        }
        if passed.handler && is_open() {
            self.call(event_loop, |handler, conn| handler.on_deadline(conn));
        }
        if passed.idle && is_open() {
            self.call(event_loop, |handler, conn| handler.on_idle(conn));
        }
    }

    fn on_call(&self, event_loop: &EventLoop, call: &mut dyn Any) {
        let Some(call) = call.downcast_mut::<Option<Call>>() else { return };
        self.core.on_calls_task();
        // Earlier requests of handles come first.
        self.run_requests(event_loop);
        let Some(call) = call.take() else { return };
        let is_first = self.core.waiting_calls() == 0 && self.core.state() != ConnectionState::Closed;
        if is_first && self.is_callable() {
            self.run_call(event_loop, call);
        } else {
            self.core.add_call(call);
        }
        self.run_requests(event_loop);
    }

    fn on_control(&self, event_loop: &EventLoop, message: &mut dyn Any) {
        self.core.on_control(event_loop, message);
    }

    fn on_trim(&self) -> bool {
        self.core.trim_unread()
    }

    fn describe(&self) -> Description {
        self.core.describe().handler(type_name::<H>())
    }

    fn on_panic(&self, event_loop: &EventLoop, _id: ChannelId) {
        self.core.close(event_loop, CloseReason::Panicked);
    }

    fn on_loop_end(&self, event_loop: &EventLoop) {
        match self.core.stage() {
            Stage::Serving | Stage::Draining => self.core.close(event_loop, CloseReason::LoopEnded),
            // A server's own loop ends with the server; the stop notification may still be in its
            // queue.
            Stage::Aborting | Stage::Resetting => self.core.abort(event_loop),
        }
    }

    fn on_close(&self, event_loop: &EventLoop) {
        while let Some(call) = self.core.next_kept_call() {
            self.run_call(event_loop, call);
        }
        let reason = self.core.take_reason();
        let call_on_close = || {
            if let Some(handler) = self.handler.borrow_mut().as_mut() {
                handler.on_close(&TcpConnection::new(event_loop, &self.core), &reason);
            }
        };
        match &self.outgoing {
            None => call_on_close(),
            Some(outgoing) => {
                self.report_failed_handshake(&reason, &*outgoing.dialer);
                // The dialer is notified even if `on_close` panics.
                event_loop.catch_in("a close callback", self, call_on_close);
                Rc::clone(&outgoing.dialer).on_end(event_loop, self.core.id(), reason);
            }
        }
    }
}
