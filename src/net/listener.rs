//! A listening socket on the loop: takes connections, and deals them out to the loops that serve them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::acceptor::{Accepted, Acceptor};
use super::address::Address;
use super::admission::{Admitted, Listening};
use super::connection::Arrival;
use super::distribution::Dealer;
use super::group::{Group, Stage};
use super::origin::Origin;
use super::socket;
use crate::channel_table::ChannelId;
use crate::containment::logger;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};

/// How long the listener rests when the system is out of something that accepting needs.
const REST: Duration = Duration::from_millis(50);

/// How many times a turn the listener asks whether another connection waits, before it lets accept(2) tell. An accept in vain has the
/// kernel make a socket and a file first, and throw them away: 1.7 us, where the question takes 0.26 us. Six of those cost as much,
/// so a storm pays once more for what it is, and a connection that comes alone pays for one question.
const QUESTIONS: usize = 6;

pub(super) type EstablishHere = dyn Fn(&EventLoop, Arrival);
pub(super) type EstablishThere = dyn Fn(&EventLoop, Arrival) + Send + Sync;

/// Makes a connection of an accepted socket, on the loop it is called with.
pub(super) enum Establish {
    Here(Box<EstablishHere>),
    There(Arc<EstablishThere>),
}

pub(super) struct Listener {
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

/// What the timer says.
struct RestIsOver;

/// What a server says that listens no longer.
struct Close;

impl Listener {
    /// Begins to accept on `event_loop`. A server on another loop is given a duplicate of the socket, through which it can end the
    /// listening from its own thread.
    pub(super) fn start(
        event_loop: &EventLoop,
        acceptor: Acceptor,
        budget: usize,
        group: &Arc<Group>,
        dealer: Dealer,
        establish: Establish,
        duplicate: Option<OwnedFd>,
    ) -> io::Result<()> {
        let listener = event_loop.register(Interest::NONE, |id| {
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
    pub(super) fn end_all(group: &Group) {
        for Listening { event_loop, id, socket } in group.admission.take_listeners() {
            let stopped = socket.map(socket::stop_listening);
            event_loop.run_errand(move |event_loop| {
                event_loop.tell(id, &mut Close);
                event_loop.remove(id);
            });
            if let Some(Err(error)) = stopped {
                logger::call(|| log::warn!("cannot end the listening of another loop at once: {error}"));
            }
        }
    }

    fn close(&self, event_loop: &EventLoop) {
        if let Some(acceptor) = self.acceptor.take() {
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
        let shard = self.dealer.choose(&self.group, origin);
        let membership = self.group.join(shard, admitted);
        match &self.establish {
            Establish::Here(establish) => establish(event_loop, Arrival { fd, peer, membership }),
            Establish::There(establish) => {
                let establish = Arc::clone(establish);
                let there = self.group.event_loop(shard).clone();
                let arrival = Arrival { fd, peer: peer.clone(), membership };
                // Refused by a loop that has gone, the task is dropped, and socket and membership with it.
                if !there.send_errand(move |event_loop| establish(event_loop, arrival)) {
                    logger::recurring("a loop that has gone", |left_out| {
                        log::warn!("the loop for a connection from {peer} has gone{left_out}");
                    });
                }
            }
        }
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
        event_loop.run_after(REST, move |event_loop| _ = event_loop.tell(id, &mut RestIsOver));
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
        let admission = &self.group.admission;
        for taken in 0..self.budget {
            // One that comes after the answer brings an edge of its own.
            if (1..=QUESTIONS).contains(&taken) && !self.may_have_more() {
                return event_loop.clear_ready(self.id, Readiness::READABLE);
            }
            // Looked at before each, for the last one's callback may have paused the server, or been one too many.
            if admission.is_paused() {
                return self.stop_wanting(event_loop);
            }
            let Some(place) = admission.place() else { return self.stop_wanting(event_loop) };
            match self.accept() {
                Accepted::Connection(fd, peer) => {
                    let origin = admission.origin(&fd, &peer);
                    // One that is not let in is closed here.
                    let Some(admitted) = admission.admit(place, origin) else { continue };
                    self.take_on(event_loop, fd, peer, origin, admitted);
                }
                Accepted::Drained => return event_loop.clear_ready(self.id, Readiness::READABLE),
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
                Accepted::Exhausted(_) if self.group.stage() != Stage::Serving => {
                    return self.stop_wanting(event_loop);
                }
                Accepted::Exhausted(error) => {
                    self.rest(event_loop);
                    return logger::recurring("accepting rests", |left_out| {
                        log::warn!("accepting rests for a moment: {error}{left_out}");
                    });
                }
            }
            if !event_loop.is_registered(self.id) {
                return; // The server was dropped by what was called.
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

    fn on_told(&self, event_loop: &EventLoop, word: &mut dyn Any) {
        if word.is::<RestIsOver>() {
            self.resting.set(false);
            self.on_notified(event_loop);
        } else if word.is::<Close>() {
            self.close(event_loop);
        }
    }

    fn on_close(&self, event_loop: &EventLoop) {
        self.close(event_loop);
    }

    fn on_panic(&self, _event_loop: &EventLoop) {
        // The user's code is not called from here without a catch of its own, so this is a bug of ours: go on listening.
    }
}
