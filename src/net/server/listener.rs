//! `Listener`: accepts connections on its loop and distributes them to the loops that serve them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::acceptor::{Accepted, Acceptor};
use super::balancer::Balancer;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::logger;
use crate::event_loop::{EventLoop, LoopHandle, Source};
use crate::net::address::Address;
use crate::net::connection::PendingConnection;
use crate::net::group::admission::{AdmissionGuard, ListenerEntry};
use crate::net::group::peer_key::PeerKey;
use crate::net::group::{Group, Stage};
use crate::net::sys::fd_passing::close_unopened;
use crate::net::sys::stream;
use crate::readiness::{Interest, Readiness};

/// The back-off after accept(2) has failed for lack of a system resource.
const BACKOFF: Duration = Duration::from_millis(50);

/// The number of times per turn that the listener polls for another connection before it leaves
/// that to accept(2).
///
/// In an accept that finds nothing, the kernel creates a socket and a file first and discards them:
/// 1.7 us, against 0.26 us for a poll. Six polls cost about as much as one such accept. So a burst
/// of connections costs at most one more accept, and a single connection one poll.
const MAX_PROBES: usize = 6;

/// The maximum number of connections that the listener of an ending loop hands over to other loops.
const MAX_HANDOVER: usize = 4096;

pub(in crate::net) type EstablishOnThisLoop = dyn Fn(&EventLoop, PendingConnection);
pub(in crate::net) type EstablishOnAnyLoop = dyn Fn(&EventLoop, PendingConnection) + Send + Sync;

/// Creates a connection from an accepted socket, on the loop it is called with.
#[derive(Clone)]
pub(in crate::net) enum Establish {
    ThisLoop(Rc<EstablishOnThisLoop>),
    AnyLoop(Arc<EstablishOnAnyLoop>),
}

pub(in crate::net) struct Listener {
    id: ChannelId,
    /// `None` once the listener is closed. That may happen during a callback, while the loop still
    /// holds the source.
    acceptor: RefCell<Option<Acceptor>>,
    /// The maximum number of connections accepted in one turn, so that a burst does not delay the
    /// open ones.
    accepts_per_turn: usize,
    group: Arc<Group>,
    /// Shared by the listeners of a loop.
    balancer: Rc<Balancer>,
    establish: Establish,
    /// Whether a [back-off](BACKOFF) is in progress. Nothing is accepted until its timer fires, and
    /// notifications are ignored.
    is_backing_off: Cell<bool>,
}

/// What the listener does after one attempt to accept.
enum Next {
    /// A connection was accepted or lost. There may be more.
    Continue,
    /// The backlog is empty.
    Drained,
    /// Accepting is paused or at the limit until the next notification.
    Suspend,
    /// Accepting fails for lack of a system resource.
    BackOff,
}

/// Control message of the back-off timer.
struct BackoffElapsed;

/// Control message of a server that stops listening.
struct Close;

/// A connection on its way to the loop that the balancer picked. If that loop ends first, the
/// connection is returned to the listener.
struct Delivery {
    /// `None` once it has arrived.
    pending: Option<PendingConnection>,
    peer_key: PeerKey,
    listener: LoopHandle,
    id: ChannelId,
}

/// Control message that returns an undelivered connection.
struct Returned {
    pending: Option<PendingConnection>,
    peer_key: PeerKey,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let mut returned = Returned { pending: Some(pending), peer_key: self.peer_key };
            let id = self.id;
            // Deferred: the listener's loop may be in the middle of posting this.
            self.listener.post_internal(move |event_loop| _ = event_loop.send_control(id, &mut returned));
        }
    }
}

impl Listener {
    /// Starts accepting on `event_loop`. If the server is on another loop, it keeps `duplicate`, a
    /// duplicate of the socket with which it can stop the listening from its own thread.
    pub(in crate::net) fn start(
        event_loop: &EventLoop,
        acceptor: Acceptor,
        accepts_per_turn: usize,
        group: &Arc<Group>,
        balancer: Rc<Balancer>,
        establish: Establish,
        duplicate: Option<OwnedFd>,
    ) -> io::Result<()> {
        let listener = event_loop.register(Interest::EMPTY, |id| {
            group.add_listener();
            Rc::new(Listener {
                id,
                acceptor: RefCell::new(Some(acceptor)),
                accepts_per_turn,
                group: Arc::clone(group),
                balancer,
                establish,
                is_backing_off: Cell::new(false),
            })
        })?;
        if let Err(error) = listener.watch(event_loop) {
            event_loop.remove(listener.id);
            return Err(error);
        }
        group.admission.add_listener(event_loop.handle(), listener.id, duplicate);
        Ok(())
    }

    fn watch(&self, event_loop: &EventLoop) -> io::Result<()> {
        if let Some(acceptor) = &*self.acceptor.borrow() {
            event_loop.watch(self.id, acceptor.as_fd(), Interest::READABLE)?;
        }
        event_loop.set_wanted(self.id, Readiness::satisfying(Interest::READABLE));
        Ok(())
    }

    /// Closes all listeners of a group. When this returns, no client can connect and the address
    /// can be bound again. May be called from inside a callback, also of a connection that is about
    /// to open.
    ///
    /// The listener of this thread's loop is closed directly. The others belong to their loops, and
    /// waiting for those might deadlock. So their sockets are shut down through the duplicates,
    /// which ends the listening, and each loop closes its own listener in its next turn.
    pub(in crate::net) fn close_all(group: &Group) {
        for ListenerEntry { event_loop, id, socket } in group.admission.take_listeners() {
            let stopped = socket.map(stream::stop_listening);
            event_loop.run_internal(move |event_loop| {
                event_loop.send_control(id, &mut Close);
                event_loop.remove(id);
            });
            if let Some(Err(error)) = stopped {
                logger::call(|| log::warn!("cannot shut down the listening socket of another loop: {error}"));
            }
        }
    }

    fn close(&self, event_loop: &EventLoop) {
        if let Some(acceptor) = self.acceptor.take() {
            self.group.admission.remove_listener(self.id);
            let unwatched = event_loop.unwatch(acceptor.as_fd());
            self.finish(acceptor);
            if let Err(error) = unwatched {
                logger::call(|| log::warn!("cannot remove a listening socket from the poller: {error}"));
            }
        }
    }

    /// Closes the socket and then removes the listener from the group's count, so that the address
    /// is free when the last listener has ended.
    fn finish(&self, acceptor: Acceptor) {
        drop(acceptor);
        self.group.remove_listener();
    }

    fn may_have_more(&self) -> bool {
        self.acceptor.borrow().as_ref().is_some_and(Acceptor::may_have_more)
    }

    /// Accepts one connection. Calls no user code.
    fn accept(&self) -> Accepted {
        self.acceptor.borrow().as_ref().map_or(Accepted::Drained, Acceptor::accept)
    }

    fn dispatch(
        &self,
        event_loop: &EventLoop,
        fd: OwnedFd,
        peer: Address,
        peer_key: PeerKey,
        admitted: AdmissionGuard,
    ) {
        let shard = match &self.establish {
            Establish::ThisLoop(_) => Some(0),
            Establish::AnyLoop(_) => self.balancer.pick(&self.group, peer_key),
        };
        let Some(shard) = shard else {
            self.group.admission.release(&admitted);
            close_unopened(fd, &peer);
            return warn_no_loop_left();
        };
        let membership = self.group.join(shard, admitted);
        self.send_to_loop(event_loop, PendingConnection { fd, peer, membership }, peer_key);
    }

    /// Opens the connection on the loop that its membership names.
    fn send_to_loop(&self, event_loop: &EventLoop, pending: PendingConnection, peer_key: PeerKey) {
        let target = pending.membership.event_loop().clone();
        match &self.establish {
            Establish::ThisLoop(establish) => establish(event_loop, pending),
            Establish::AnyLoop(establish) if target.is_in_loop_thread() => establish(event_loop, pending),
            Establish::AnyLoop(establish) => {
                let (listener, id) = (event_loop.handle(), self.id);
                let mut delivery = Delivery { pending: Some(pending), peer_key, listener, id };
                let establish = Arc::clone(establish);
                // A refused task is dropped together with the delivery. A pool's loop runs only
                // once, so a quitting one is about to end.
                target.post_internal(move |event_loop| {
                    let pending = if event_loop.is_quitting() { None } else { delivery.pending.take() };
                    if let Some(pending) = pending {
                        establish(event_loop, pending);
                    }
                });
            }
        }
    }

    /// Dispatches a connection again whose loop has ended before the connection arrived.
    fn redispatch(&self, event_loop: &EventLoop, mut pending: PendingConnection, peer_key: PeerKey) {
        if self.group.stage() != Stage::Serving {
            return close_unopened(pending.fd, &pending.peer);
        }
        self.group.mark_ended(pending.membership.shard());
        match self.balancer.pick(&self.group, peer_key) {
            None => {
                close_unopened(pending.fd, &pending.peer);
                warn_no_loop_left();
            }
            Some(shard) => {
                pending.membership.move_to(shard);
                self.send_to_loop(event_loop, pending, peer_key);
            }
        }
    }

    /// Accepts and dispatches the next connection, if there is one and admission allows it.
    fn accept_next(&self, event_loop: &EventLoop) -> Next {
        let admission = &self.group.admission;
        // Checked before each accept: the previous connection's callback may have paused the
        // server, and the connection may have used the last permit.
        if admission.is_paused() {
            return Next::Suspend;
        }
        let Some(permit) = admission.try_acquire() else { return Next::Suspend };
        match self.accept() {
            Accepted::Connection(fd, peer) => {
                let peer_key = admission.peer_key(&fd, &peer);
                match admission.admit(permit, peer_key, || event_loop.now()) {
                    Some(admitted) => self.dispatch(event_loop, fd, peer, peer_key, admitted),
                    None => close_unopened(fd, &peer),
                }
            }
            Accepted::Drained => return Next::Drained,
            Accepted::Rejected(error) => {
                admission.count_rejected_without_descriptor();
                logger::recurring("a rejected connection", |left_out| {
                    log::warn!("a connection was rejected for lack of a file descriptor: {error}{left_out}");
                });
            }
            Accepted::Lost(error) => {
                logger::recurring("a connection that could not be accepted", |left_out| {
                    log::warn!("a connection could not be accepted: {error}{left_out}");
                });
            }
            // The server has shut the socket down from its own thread, and this loop is about to
            // close the listener.
            Accepted::Exhausted(_) if self.group.stage() != Stage::Serving => return Next::Suspend,
            Accepted::Exhausted(error) => {
                logger::recurring("accepting backs off", |left_out| {
                    log::warn!("accepting pauses for {BACKOFF:?}: {error}{left_out}");
                });
                return Next::BackOff;
            }
        }
        Next::Continue
    }

    /// Stops accepting until the next [notification](Source::on_notified). The cached readiness is
    /// kept, so accepting resumes without a new edge.
    fn disable(&self, event_loop: &EventLoop) {
        event_loop.set_wanted(self.id, Readiness::NONE);
    }

    fn back_off(&self, event_loop: &EventLoop) {
        self.is_backing_off.set(true);
        self.disable(event_loop);
        let id = self.id;
        event_loop.run_after(BACKOFF, move |event_loop| _ = event_loop.send_control(id, &mut BackoffElapsed));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            self.finish(acceptor);
        }
    }
}

impl Source for Listener {
    /// `None`: the listener registers and unregisters the socket itself, since it also closes it.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        for accepted in 0..self.accepts_per_turn {
            // A connection that arrives after the poll causes a new edge.
            if (1..=MAX_PROBES).contains(&accepted) && !self.may_have_more() {
                return event_loop.clear_ready(self.id, Readiness::READABLE);
            }
            match self.accept_next(event_loop) {
                Next::Continue if !event_loop.is_registered(self.id) => return, // A callback dropped the server.
                Next::Continue => {}
                Next::Drained => return event_loop.clear_ready(self.id, Readiness::READABLE),
                Next::Suspend => return self.disable(event_loop),
                Next::BackOff => return self.back_off(event_loop),
            }
        }
    }

    /// Hands the connections in the backlog over to the remaining loops, if each loop has a
    /// listener. Connections that arrive later are reset.
    fn on_loop_end(&self, event_loop: &EventLoop) {
        let Balancer::Own(shard) = *self.balancer else { return };
        // `is_alive` also logs the end of the loop.
        if self.group.stage() != Stage::Serving || self.group.is_alive(shard) {
            return;
        }
        for _ in 0..MAX_HANDOVER {
            if self.group.live_loops() == 0 || !matches!(self.accept_next(event_loop), Next::Continue) {
                return;
            }
        }
    }

    /// A permit was released or accepting was resumed: restores read interest; `on_ready` rechecks.
    /// Ignored during a back-off: otherwise every notification would retry, fail, and arm one more
    /// timer.
    fn on_notified(&self, event_loop: &EventLoop) {
        if !self.is_backing_off.get() {
            event_loop.set_wanted(self.id, Readiness::satisfying(Interest::READABLE));
        }
    }

    fn on_control(&self, event_loop: &EventLoop, message: &mut dyn Any) {
        if message.is::<BackoffElapsed>() {
            self.is_backing_off.set(false);
            self.on_notified(event_loop);
        } else if message.is::<Close>() {
            self.close(event_loop);
        } else if let Some(Returned { pending, peer_key }) = message.downcast_mut() {
            if let Some(pending) = pending.take() {
                self.redispatch(event_loop, pending, *peer_key);
            }
        }
    }

    fn on_close(&self, event_loop: &EventLoop) {
        self.close(event_loop);
    }

    fn on_panic(&self, _event_loop: &EventLoop, _id: ChannelId) {
        // User code called from here has its own catch, so this panic is a bug of the crate. Keep
        // listening.
    }
}

/// Logs that a connection was closed because no loop is left to serve it.
fn warn_no_loop_left() {
    logger::recurring("a server without loops", |left_out| {
        log::warn!("a connection was closed because all loops of the server have ended{left_out}");
    });
}
