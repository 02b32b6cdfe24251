//! One TCP connection: its state, what it reads, and what its handler is told.
//!
//! The I/O loop that runs a connection owns it, in a slot; others hold its id. [`Connection`] is what the slot carries:
//! the handler, and a [`Core`] that does not depend on the handler's type. What the handler gets to see is a
//! [`TcpConnection`], which lasts for one call.
//!
//! Input comes through the loop's one buffer, and only what a handler leaves there is copied into a buffer of the
//! connection's own. An idle connection owns neither an input nor an output buffer.

mod face;
mod mailbox;
mod output;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

pub use face::TcpConnection;
pub use mailbox::ConnectionHandle;

use super::group::{Membership, Stage};
use super::handler::{CloseReason, ConnectionHandler};
use super::socket::{self, Transferred};
use crate::buffer::Buffer;
use crate::channel_table::ChannelId;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use mailbox::Mailbox;

const INPUT: Readiness = Readiness::answering(Interest::READABLE);
const OUTPUT: Readiness = Readiness::answering(Interest::WRITABLE);

/// How far a connection is.
///
/// | state | may send | leaves it when |
/// |---|---|---|
/// | `Connecting` | no | the connection is made, or fails |
/// | `Open` | yes | `shutdown`: `Closing`; `close`, an error: `Closed` |
/// | `Closing` | no | the queue is sent, then the FIN, and the peer's FIN has come: `Closed`; `close`, an error: `Closed` |
/// | `Closed` | no | never |
///
/// The peer's FIN alone changes no state: it ends the input, and what is accepted for sending is still sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Not made yet.
    Connecting,
    /// Made; either end may send.
    Open,
    /// Shut down by this end: what is queued is sent, then the FIN.
    Closing,
    /// Over.
    Closed,
}

/// All of a connection but its handler.
pub(super) struct Core {
    id: ChannelId,
    fd: OwnedFd,
    peer: SocketAddr,
    membership: Membership,
    state: Cell<State>,
    /// The handler does not want to read for now.
    paused: Cell<bool>,
    /// The peer does not read what it is sent, so no more is read from it.
    held_back: Cell<bool>,
    /// The peer's FIN has been read: there is no more input.
    peer_finished: Cell<bool>,
    /// Input is thrown away: the server is stopping.
    discarding: Cell<bool>,
    /// Input that was left in `unread` when reading paused is to be offered again.
    offer_again: Cell<bool>,
    /// The handler wants its `on_drained` even if nothing is queued.
    wants_drained: Cell<bool>,
    /// Input that the handler has left for later.
    unread: Cell<Buffer>,
    /// Bytes that were accepted for sending and that the kernel has not taken. Never more than the limit.
    unsent: RefCell<Buffer>,
    reason: Cell<Option<CloseReason>>,
    /// Made when somebody first asks for a handle.
    mailbox: OnceCell<Arc<Mailbox>>,
}

/// What a connection's slot carries.
struct Connection<H> {
    core: Core,
    /// `None` until the factory has made it.
    handler: RefCell<Option<H>>,
}

/// Takes an accepted socket into the loop, and opens the connection.
///
/// `make` and the handler are the user's code: a panic there costs this connection, and nothing else.
pub(super) fn establish<H: ConnectionHandler>(
    event_loop: &EventLoop,
    fd: OwnedFd,
    peer: SocketAddr,
    membership: Membership,
    make: impl FnOnce(&TcpConnection<'_>) -> H,
) {
    if membership.group().stage() != Stage::Serving {
        return;
    }
    let registered = event_loop.register(Interest::READABLE | Interest::WRITABLE, |id| {
        Rc::new(Connection { core: Core::new(id, fd, peer, membership), handler: RefCell::new(None) })
    });
    let connection = match registered {
        Ok(connection) => connection,
        Err(error) => return log::warn!("cannot watch a connection from {peer}: {error}"),
    };
    let core = &connection.core;
    core.update_wanted(event_loop);
    let opened = event_loop.catch("a connection's factory or on_open", || {
        let conn = TcpConnection::new(event_loop, core);
        *connection.handler.borrow_mut() = Some(make(&conn));
        connection.call(event_loop, |handler, conn| handler.on_open(conn));
    });
    if opened.is_none() {
        connection.on_panic(event_loop);
    }
}

impl Core {
    fn new(id: ChannelId, fd: OwnedFd, peer: SocketAddr, mut membership: Membership) -> Core {
        membership.enlist(id);
        Core {
            id,
            fd,
            peer,
            membership,
            state: Cell::new(State::Open),
            paused: Cell::new(false),
            held_back: Cell::new(false),
            peer_finished: Cell::new(false),
            discarding: Cell::new(false),
            offer_again: Cell::new(false),
            wants_drained: Cell::new(false),
            unread: Cell::default(),
            unsent: RefCell::default(),
            reason: Cell::new(None),
            mailbox: OnceCell::new(),
        }
    }

    fn is_reading(&self) -> bool {
        !self.paused.get() && !self.held_back.get() && !self.peer_finished.get()
    }

    /// Tells the loop what the connection waits for. An error always concerns it, whatever else is paused.
    fn update_wanted(&self, event_loop: &EventLoop) {
        if self.state.get() == State::Closed {
            return;
        }
        let mut wanted = Readiness::ERROR;
        if self.is_reading() {
            wanted |= INPUT;
        }
        if self.wants_drained.get() || !self.unsent.borrow().is_empty() {
            wanted |= OUTPUT;
        }
        event_loop.set_wanted(self.id, wanted);
    }

    /// The only way to `Closed`. The handler hears of it in phase 6, when no callback is under way.
    fn close(&self, event_loop: &EventLoop, reason: CloseReason) {
        if self.state.replace(State::Closed) == State::Closed {
            return;
        }
        self.reason.set(Some(reason));
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.close();
        }
        event_loop.set_wanted(self.id, Readiness::NONE);
        event_loop.close_later(self.id);
    }

    /// Ends the connection if both ends have finished and all is sent.
    fn close_if_finished(&self, event_loop: &EventLoop) {
        if self.state.get() == State::Closing && self.peer_finished.get() && self.unsent.borrow().is_empty() {
            self.close(event_loop, CloseReason::Finished);
        }
    }

    /// Closes with the error that the socket holds; without one the report was about an error met before.
    fn check_error(&self, event_loop: &EventLoop) {
        match socket::take_error(&self.fd) {
            Ok(None) => event_loop.clear_ready(self.id, Readiness::ERROR),
            Ok(Some(error)) | Err(error) => self.close(event_loop, CloseReason::Error(error)),
        }
    }

    /// Begins the end that a stopping server asks for: what is queued is sent, what comes is thrown away.
    fn drain(&self, event_loop: &EventLoop) {
        if self.discarding.replace(true) {
            return;
        }
        self.paused.set(false);
        self.held_back.set(false);
        self.unread.take();
        self.shutdown(event_loop);
        self.update_wanted(event_loop);
    }
}

impl<H: ConnectionHandler> Connection<H> {
    /// Calls the handler, and closes the connection if it says that something is wrong.
    fn call(
        &self,
        event_loop: &EventLoop,
        callback: impl FnOnce(&mut H, &TcpConnection<'_>) -> io::Result<()>,
    ) {
        let mut handler = self.handler.borrow_mut();
        let Some(handler) = handler.as_mut() else { return };
        if let Err(error) = callback(handler, &TcpConnection::new(event_loop, &self.core)) {
            self.core.close(event_loop, CloseReason::Error(error));
        }
    }

    /// Reads once, at most a buffer full, so that a busy peer does not keep the others waiting. If there is more, the
    /// connection stays ready and has its next turn with the next turn of the loop.
    fn read(&self, event_loop: &EventLoop, ready: Readiness) {
        let core = &self.core;
        let mut input = event_loop.lend_input();
        let space = input.writable_mut();
        let room = space.len();
        match socket::receive(core.fd.as_fd(), space) {
            Ok(Transferred::Bytes(0)) => self.end_input(event_loop),
            Ok(Transferred::Bytes(n)) => {
                // A short read has emptied the socket, which saves the read that would say so; a later arrival raises a
                // new edge. Not so once the end of input or an error has been reported: that edge is spent, and only
                // reading on finds it.
                if n < room && !ready.is_read_closed() && !ready.is_error() {
                    event_loop.clear_ready(core.id, Readiness::READABLE);
                }
                input.commit(n);
                self.deliver(event_loop, &mut input);
            }
            Ok(Transferred::WouldBlock) => {
                event_loop.clear_ready(core.id, INPUT & !Readiness::ERROR);
                if ready.is_error() {
                    core.check_error(event_loop);
                }
                if core.offer_again.get() {
                    self.deliver(event_loop, &mut input);
                }
            }
            Err(error) => core.close(event_loop, CloseReason::Error(error)),
        }
        event_loop.return_input(input);
    }

    /// Offers `input`, behind what was left of earlier input, to the handler, and keeps what it leaves.
    fn deliver(&self, event_loop: &EventLoop, input: &mut Buffer) {
        let core = &self.core;
        core.offer_again.set(false);
        if core.discarding.get() {
            return;
        }
        let mut unread = core.unread.take();
        if unread.is_empty() {
            self.call(event_loop, |handler, conn| handler.on_message(conn, input));
            unread.append(input.readable());
        } else {
            unread.append(input.readable());
            self.call(event_loop, |handler, conn| handler.on_message(conn, &mut unread));
        }
        if unread.len() > core.membership.group().limits.max_unread {
            let message = "the handler leaves more input unread than the limit allows";
            core.close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::StorageFull, message)));
        }
        if !unread.is_empty() {
            core.unread.set(unread);
        }
    }

    fn end_input(&self, event_loop: &EventLoop) {
        let core = &self.core;
        core.peer_finished.set(true);
        core.update_wanted(event_loop);
        if core.state.get() == State::Open || !core.discarding.get() {
            self.call(event_loop, |handler, conn| handler.on_peer_shutdown(conn));
        }
        core.close_if_finished(event_loop);
    }
}

impl<H: ConnectionHandler> Source for Connection<H> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.core.fd.as_fd()
    }

    /// Output first: what it frees may let input flow again in this very turn.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness) {
        let core = &self.core;
        if ready.is_writable() && core.flush(event_loop) {
            self.call(event_loop, |handler, conn| handler.on_drained(conn));
        }
        if core.state.get() == State::Closed {
            return;
        }
        if core.is_reading() && ready.intersects(INPUT) {
            self.read(event_loop, ready);
        } else if ready.is_error() {
            core.check_error(event_loop);
        }
    }

    fn on_notified(&self, event_loop: &EventLoop) {
        let core = &self.core;
        core.read_mailbox(event_loop);
        match core.membership.group().stage() {
            Stage::Serving => {}
            Stage::Draining => core.drain(event_loop),
            Stage::Cutting => core.close(event_loop, CloseReason::Stopped),
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        self.core.close(event_loop, CloseReason::Panicked);
    }

    fn on_loop_end(&self, event_loop: &EventLoop) {
        self.core.close(event_loop, CloseReason::LoopEnded);
    }

    fn on_close(&self, event_loop: &EventLoop) {
        let reason = self.core.reason.take().unwrap_or(CloseReason::Closed);
        if let Some(handler) = self.handler.borrow_mut().as_mut() {
            handler.on_close(&TcpConnection::new(event_loop, &self.core), &reason);
        }
    }
}
