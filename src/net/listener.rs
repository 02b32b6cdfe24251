//! A listening socket on the loop: takes connections, and deals them out to the loops that serve them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acceptor::{Accepted, Acceptor};
use super::connection::Arrival;
use super::group::Group;
use super::socket;
use crate::channel_table::ChannelId;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};

/// Connections taken in one turn, so that a storm of them does not keep those that are open waiting.
const ACCEPTS_A_TURN: usize = 128;

/// How long the listener rests when the system is out of something that accepting needs.
const REST: Duration = Duration::from_millis(50);

type EstablishHere = dyn Fn(&EventLoop, Arrival);
type EstablishThere = dyn Fn(&EventLoop, Arrival) + Send + Sync;

/// Makes a connection of an accepted socket, on the loop it is called with.
pub(super) enum Establish {
    Here(Box<EstablishHere>),
    There(Arc<EstablishThere>),
}

pub(super) struct Listener {
    id: ChannelId,
    acceptor: Acceptor,
    nodelay: bool,
    group: Arc<Group>,
    next_shard: Cell<usize>,
    establish: Establish,
    complaint: Complaint,
}

impl Listener {
    pub(super) fn new(
        id: ChannelId,
        acceptor: Acceptor,
        nodelay: bool,
        group: Arc<Group>,
        establish: Establish,
    ) -> Listener {
        let (next_shard, complaint) = (Cell::new(0), Complaint::default());
        Listener { id, acceptor, nodelay, group, next_shard, establish, complaint }
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    fn take_on(&self, event_loop: &EventLoop, fd: OwnedFd, peer: SocketAddr) {
        if self.nodelay {
            if let Err(error) = socket::set_nodelay(&fd, true) {
                log::debug!("cannot set TCP_NODELAY for {peer}: {error}");
            }
        }
        let shard = self.next_shard.get();
        self.next_shard.set((shard + 1) % self.group.shards());
        let arrival = Arrival { fd, peer, membership: self.group.join(shard) };
        match &self.establish {
            Establish::Here(establish) => establish(event_loop, arrival),
            Establish::There(establish) => {
                let establish = Arc::clone(establish);
                let there = self.group.event_loop(shard).clone();
                // Refused by a loop that has gone, the task is dropped, and socket and membership with it.
                if !there.send_errand(move |event_loop| establish(event_loop, arrival)) {
                    self.complaint.make(event_loop.now(), || format!("the loop for {peer} has gone"));
                }
            }
        }
    }
}

impl Source for Listener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.acceptor.as_fd()
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        for _ in 0..ACCEPTS_A_TURN {
            match self.acceptor.accept() {
                Accepted::Connection(fd, peer) => {
                    self.take_on(event_loop, fd, peer);
                    if !event_loop.is_registered(self.id) {
                        return; // The server was dropped by what it called.
                    }
                }
                Accepted::Drained => return event_loop.clear_ready(self.id, Readiness::READABLE),
                Accepted::Lost(error) => {
                    self.complaint
                        .make(event_loop.now(), || format!("a connection could not be accepted: {error}"));
                }
                Accepted::Exhausted(error) => {
                    self.complaint
                        .make(event_loop.now(), || format!("accepting rests for a moment: {error}"));
                    // The listener stays noted as ready, so it goes on where it stopped, without a new edge.
                    let id = self.id;
                    event_loop.set_wanted(id, Readiness::NONE);
                    event_loop.run_after(REST, move |event_loop| {
                        event_loop.set_wanted(id, Readiness::answering(Interest::READABLE));
                    });
                    return;
                }
            }
        }
    }

    fn on_panic(&self, _event_loop: &EventLoop) {
        // The user's code is not called from here without a catch of its own, so this is a bug of ours: go on listening.
    }
}

/// A warning that is logged once a second at most, with the number of those that were not.
#[derive(Debug, Default)]
struct Complaint {
    last: Cell<Option<Instant>>,
    withheld: Cell<u64>,
}

impl Complaint {
    fn make(&self, now: Instant, message: impl FnOnce() -> String) {
        let due =
            self.last.get().is_none_or(|last| now.saturating_duration_since(last) >= Duration::from_secs(1));
        if due {
            self.last.set(Some(now));
            log::warn!("{} ({} more since the last warning)", message(), self.withheld.take());
        } else {
            self.withheld.set(self.withheld.get() + 1);
        }
    }
}
