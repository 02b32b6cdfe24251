//! A listening socket on the loop: takes connections, and deals them out to the loops that serve them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::acceptor::{Accepted, Acceptor};
use super::balancer::Dealer;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::logger;
use crate::event_loop::{EventLoop, LoopHandle, Source};
use crate::net::address::Address;
use crate::net::connection::PendingConnection;
use crate::net::group::admission::{Admitted, Listening};
use crate::net::group::peer_key::Origin;
use crate::net::group::{Group, Stage};
use crate::net::sys::fd_passing::close_unopened;
use crate::net::sys::stream;
use crate::readiness::{Interest, Readiness};

/// How long the listener rests when the system is out of something that accepting needs.
const REST: Duration = Duration::from_millis(50);

/// How many times a turn the listener asks whether another connection waits, before it lets accept(2) tell. An accept in vain has the
/// kernel make a socket and a file first, and throw them away: 1.7 us, where the question takes 0.26 us. Six of those cost as much,
/// so a storm pays once more for what it is, and a connection that comes alone pays for one question.
const QUESTIONS: usize = 6;

/// How many connections the listener of a loop that ends hands over to others.
const MOST_AT_END: usize = 4096;

pub(in crate::net) type EstablishHere = dyn Fn(&EventLoop, PendingConnection);
pub(in crate::net) type EstablishThere = dyn Fn(&EventLoop, PendingConnection) + Send + Sync;

/// Makes a connection of an accepted socket, on the loop it is called with.
pub(in crate::net) enum Establish {
    Here(Box<EstablishHere>),
    There(Arc<EstablishThere>),
}

pub(in crate::net) struct Listener {
    id: ChannelId,
    /// `None` once it is closed, which may be in the middle of a callback, while the loop still holds the source.
    acceptor: RefCell<Option<Acceptor>>,
    /// Connections taken in one turn, so that a storm of them does not keep those that are open waiting.
    budget: usize,
    group: Arc<Group>,
    dealer: Dealer,
    establish: Establish,
    /// Until a timer says otherwise nothing is tried, whatever word comes.
    resting: Cell<bool>,
}

/// What came of a try to take a connection.
enum Next {
    /// One was taken or lost; others may wait.
    Tried,
    Drained,
    /// The listener may not take any until it is sent word.
    Wait,
    /// Nothing can be taken for a while.
    Rest,
}

/// What the timer says.
struct RestIsOver;

/// What a server says that listens no longer.
struct Close;

/// A connection on its way to the loop that it was dealt to. If that ends before, the listener is given the connection back.
struct Delivery {
    /// `None` when it has got there.
    arrival: Option<PendingConnection>,
    origin: Origin,
    listener: LoopHandle,
    id: ChannelId,
}

/// A connection that is given back.
struct Returned {
    arrival: Option<PendingConnection>,
    origin: Origin,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(arrival) = self.arrival.take() {
            let mut returned = Returned { arrival: Some(arrival), origin: self.origin };
            let id = self.id;
            // Not at once: the listener's loop may be in the middle of posting this.
            self.listener.post_internal(move |event_loop| _ = event_loop.send_control(id, &mut returned));
        }
    }
}

impl Listener {
    /// Begins to accept on `event_loop`. A server on another loop is given a duplicate of the socket, through which it can end the
    /// listening from its own thread.
    pub(in crate::net) fn start(
        event_loop: &EventLoop,
        acceptor: Acceptor,
        budget: usize,
        group: &Arc<Group>,
        dealer: Dealer,
        establish: Establish,
        duplicate: Option<OwnedFd>,
    ) -> io::Result<()> {
        let listener = event_loop.register(Interest::EMPTY, |id| {
            group.add_listener();
            Rc::new(Listener {
                id,
                acceptor: RefCell::new(Some(acceptor)),
                budget,
                group: Arc::clone(group),
                dealer,
                establish,
                resting: Cell::new(false),
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
        event_loop.set_wanted(self.id, Readiness::answering(Interest::READABLE));
        Ok(())
    }

    /// Ends all listeners of a group. When this returns nobody can connect, and the address can be bound again, also from inside a
    /// callback of a connection that is about to be opened.
    ///
    /// The listener of this thread's loop is closed. The others belong to their loops, and a wait for those might never end. So their
    /// sockets are shut down through the duplicates, which ends the listening, and each loop closes its own in its next turn.
    pub(in crate::net) fn end_all(group: &Group) {
        for Listening { event_loop, id, socket } in group.admission.take_listeners() {
            let stopped = socket.map(stream::stop_listening);
            event_loop.run_internal(move |event_loop| {
                event_loop.send_control(id, &mut Close);
                event_loop.remove(id);
            });
            if let Some(Err(error)) = stopped {
                logger::call(|| log::warn!("cannot end the listening of another loop at once: {error}"));
            }
        }
    }

    fn close(&self, event_loop: &EventLoop) {
        if let Some(acceptor) = self.acceptor.take() {
            self.group.admission.remove_listener(self.id);
            let unwatched = event_loop.unwatch(acceptor.as_fd());
            self.finish(acceptor);
            if let Err(error) = unwatched {
                logger::call(|| log::warn!("cannot take a listening socket out of the poller: {error}"));
            }
        }
    }

    /// Closes the socket, and only then counts as gone: whoever waits for the last listener finds the address free.
    fn finish(&self, acceptor: Acceptor) {
        drop(acceptor);
        self.group.remove_listener();
    }

    fn may_have_more(&self) -> bool {
        self.acceptor.borrow().as_ref().is_some_and(Acceptor::may_have_more)
    }

    /// Accepts one connection. The user's code is not called meanwhile.
    fn accept(&self) -> Accepted {
        self.acceptor.borrow().as_ref().map_or(Accepted::Drained, Acceptor::accept)
    }

    fn take_on(
        &self,
        event_loop: &EventLoop,
        fd: OwnedFd,
        peer: Address,
        origin: Origin,
        admitted: Admitted,
    ) {
        let shard = match &self.establish {
            Establish::Here(_) => Some(0),
            Establish::There(_) => self.dealer.choose(&self.group, origin),
        };
        let Some(shard) = shard else {
            self.group.admission.release(&admitted);
            close_unopened(fd, &peer);
            return turn_away();
        };
        let membership = self.group.join(shard, admitted);
        self.send_to_loop(event_loop, PendingConnection { fd, peer, membership }, origin);
    }

    /// Opens the connection on the loop that it was dealt to.
    fn send_to_loop(&self, event_loop: &EventLoop, arrival: PendingConnection, origin: Origin) {
        let there = arrival.membership.event_loop().clone();
        match &self.establish {
            Establish::Here(establish) => establish(event_loop, arrival),
            Establish::There(establish) if there.is_in_loop_thread() => establish(event_loop, arrival),
            Establish::There(establish) => {
                let (listener, id) = (event_loop.handle(), self.id);
                let mut delivery = Delivery { arrival: Some(arrival), origin, listener, id };
                let establish = Arc::clone(establish);
                // A refused errand is dropped, and the delivery with it. A loop of a pool runs once, so one that is to quit is about to end.
                there.post_internal(move |event_loop| {
                    let arrival = if event_loop.is_quitting() { None } else { delivery.arrival.take() };
                    if let Some(arrival) = arrival {
                        establish(event_loop, arrival);
                    }
                });
            }
        }
    }

    /// Deals a connection out again whose loop has ended before it got there.
    fn deal_again(&self, event_loop: &EventLoop, mut arrival: PendingConnection, origin: Origin) {
        if self.group.stage() != Stage::Serving {
            return close_unopened(arrival.fd, &arrival.peer);
        }
        self.group.note_end(arrival.membership.shard());
        match self.dealer.choose(&self.group, origin) {
            None => {
                close_unopened(arrival.fd, &arrival.peer);
                turn_away();
            }
            Some(shard) => {
                arrival.membership.move_to(shard);
                self.send_to_loop(event_loop, arrival, origin);
            }
        }
    }

    /// Takes the next connection, if it may and there is one.
    fn take_next(&self, event_loop: &EventLoop) -> Next {
        let admission = &self.group.admission;
        // Looked at before each, for the last one's callback may have paused the server, or been one too many.
        if admission.is_paused() {
            return Next::Wait;
        }
        let Some(place) = admission.place() else { return Next::Wait };
        match self.accept() {
            Accepted::Connection(fd, peer) => {
                let origin = admission.origin(&fd, &peer);
                // One that is not let in is closed here.
                match admission.admit(place, origin) {
                    Some(admitted) => self.take_on(event_loop, fd, peer, origin, admitted),
                    None => close_unopened(fd, &peer),
                }
            }
            Accepted::Drained => return Next::Drained,
            Accepted::Shed(error) => {
                admission.count_shed();
                logger::recurring("a connection that was shed", |left_out| {
                    log::warn!("a connection was closed for want of: {error}{left_out}");
                });
            }
            Accepted::Lost(error) => {
                logger::recurring("a connection that could not be accepted", |left_out| {
                    log::warn!("a connection could not be accepted: {error}{left_out}");
                });
            }
            // The server has ended the listening from its own thread, and is about to take the listener out of this loop.
            Accepted::Exhausted(_) if self.group.stage() != Stage::Serving => return Next::Wait,
            Accepted::Exhausted(error) => {
                logger::recurring("accepting rests", |left_out| {
                    log::warn!("accepting rests for a moment: {error}{left_out}");
                });
                return Next::Rest;
            }
        }
        Next::Tried
    }

    /// Takes no connection until somebody sends [word](Source::on_notified). The listener stays noted as ready, so it goes on
    /// where it has stopped, without a new edge.
    fn stop_wanting(&self, event_loop: &EventLoop) {
        event_loop.set_wanted(self.id, Readiness::NONE);
    }

    fn rest(&self, event_loop: &EventLoop) {
        self.resting.set(true);
        self.stop_wanting(event_loop);
        let id = self.id;
        event_loop.run_after(REST, move |event_loop| _ = event_loop.send_control(id, &mut RestIsOver));
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
    /// It watches the socket by itself, as it closes it by itself.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        for taken in 0..self.budget {
            // One that comes after the answer brings an edge of its own.
            if (1..=QUESTIONS).contains(&taken) && !self.may_have_more() {
                return event_loop.clear_ready(self.id, Readiness::READABLE);
            }
            match self.take_next(event_loop) {
                Next::Tried if !event_loop.is_registered(self.id) => return, // The server was dropped by what was called.
                Next::Tried => {}
                Next::Drained => return event_loop.clear_ready(self.id, Readiness::READABLE),
                Next::Wait => return self.stop_wanting(event_loop),
                Next::Rest => return self.rest(event_loop),
            }
        }
    }

    /// Hands the connections that wait in the backlog over to the loops that go on, if this is the listener of one loop of several. Those
    /// that come after that are reset.
    fn on_loop_end(&self, event_loop: &EventLoop) {
        let Dealer::One(shard) = self.dealer else { return };
        // Also logs the end of the loop.
        if self.group.stage() != Stage::Serving || self.group.is_alive(shard) {
            return;
        }
        for _ in 0..MOST_AT_END {
            if self.group.live_loops() == 0 || !matches!(self.take_next(event_loop), Next::Tried) {
                return;
            }
        }
    }

    /// There is a place, or the server is to go on; whether it may is looked at when it does. A rest is not cut short, or each word
    /// would have it try, and rest again, with one timer more.
    fn on_notified(&self, event_loop: &EventLoop) {
        if !self.resting.get() {
            event_loop.set_wanted(self.id, Readiness::answering(Interest::READABLE));
        }
    }

    fn on_control(&self, event_loop: &EventLoop, word: &mut dyn Any) {
        if word.is::<RestIsOver>() {
            self.resting.set(false);
            self.on_notified(event_loop);
        } else if word.is::<Close>() {
            self.close(event_loop);
        } else if let Some(Returned { arrival, origin }) = word.downcast_mut() {
            if let Some(arrival) = arrival.take() {
                self.deal_again(event_loop, arrival, *origin);
            }
        }
    }

    fn on_close(&self, event_loop: &EventLoop) {
        self.close(event_loop);
    }

    fn on_panic(&self, _event_loop: &EventLoop) {
        // The user's code is not called from here without a catch of its own, so this is a bug of ours: go on listening.
    }
}

/// The connection is closed, as no loop is left that could serve it.
fn turn_away() {
    logger::recurring("a server without loops", |left_out| {
        log::warn!("a connection was closed, as all loops of the server have ended{left_out}");
    });
}
