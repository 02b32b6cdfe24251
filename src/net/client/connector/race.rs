//! The attempts of a round, which race for a connection (Happy Eyeballs, RFC 8305).
//!
//! The next attempt starts when one fails, or a delay after the last start. The first connection
//! that is established becomes the session, and the other attempts are abandoned: their sockets are
//! closed, and they have no result.

use std::cell::{Cell, RefCell};
use std::io;
use std::iter;
use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;

use super::{Connector, Phase};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, TimerId};
use crate::net::address::Address;
use crate::net::connection::PendingConnection;
use crate::net::connection::driver::Dialer;
use crate::net::group::admission::AdmissionGuard;
use crate::net::sys::stream;

/// The addresses of a round.
#[derive(Default)]
pub(super) struct Race {
    candidates: RefCell<Vec<Candidate>>,
    /// The number of candidates that have been tried. They are tried in order.
    tried: Cell<usize>,
    /// Starts the next attempt while others are in progress.
    delay: Cell<Option<TimerId>>,
    /// A task that starts the next attempt is queued.
    is_queued: Cell<bool>,
}

struct Candidate {
    address: Address,
    /// The source of the attempt while it is in progress.
    attempt: Option<ChannelId>,
}

impl Race {
    fn begin(&self, addresses: impl IntoIterator<Item = Address>) {
        let mut candidates = self.candidates.borrow_mut();
        candidates.clear();
        candidates.extend(addresses.into_iter().map(|address| Candidate { address, attempt: None }));
        self.tried.set(0);
    }

    /// The next address to be tried.
    fn next(&self) -> Option<Address> {
        self.candidates.borrow().get(self.tried.get()).map(|candidate| candidate.address.clone())
    }

    fn has_untried(&self) -> bool {
        self.tried.get() < self.candidates.borrow().len()
    }

    fn is_in_progress(&self) -> bool {
        self.candidates.borrow().iter().any(|candidate| candidate.attempt.is_some())
    }

    /// The sources of the attempts in progress.
    pub(super) fn attempts(&self) -> Vec<ChannelId> {
        self.candidates.borrow().iter().filter_map(|candidate| candidate.attempt).collect()
    }

    /// The timer of the next attempt.
    pub(super) fn delay(&self) -> Option<TimerId> {
        self.delay.get()
    }

    /// Takes the address of an attempt that has ended or has connected. `None` if the source is not
    /// an attempt in progress.
    pub(super) fn take(&self, id: ChannelId) -> Option<Address> {
        let mut candidates = self.candidates.borrow_mut();
        let candidate = candidates.iter_mut().find(|candidate| candidate.attempt == Some(id))?;
        candidate.attempt = None;
        Some(candidate.address.clone())
    }
}

impl Connector {
    /// Tries the addresses in order.
    pub(super) fn try_all(
        self: &Rc<Self>,
        event_loop: &EventLoop,
        addresses: impl IntoIterator<Item = Address>,
    ) {
        self.race.begin(addresses);
        self.start_attempt(event_loop);
    }

    /// Queues the start of the next attempt, once for all attempts that fail in a turn.
    pub(super) fn queue_attempt(self: &Rc<Self>, event_loop: &EventLoop) {
        self.cancel_delay(event_loop);
        if !self.race.is_queued.replace(true) {
            self.queue_step(event_loop, Connector::start_attempt);
        }
    }

    /// Starts the attempt to connect to the next address. Ends the round if none is left and no
    /// attempt is in progress.
    fn start_attempt(self: &Rc<Self>, event_loop: &EventLoop) {
        self.race.is_queued.set(false);
        if !matches!(*self.phase.borrow(), Phase::Between | Phase::Connecting) {
            return; // Another attempt has connected meanwhile.
        }
        let Some(address) = self.race.next() else {
            return match self.race.is_in_progress() {
                true => self.enter(Phase::Connecting),
                false => self.end_round(event_loop),
            };
        };
        let started = self.dial(event_loop, &address);
        let tried = self.race.tried.replace(self.race.tried.get() + 1);
        match started {
            Err(error) => self.fail(event_loop, Some(address), error),
            Ok(id) => {
                // The session has the slot of its attempt.
                event_loop.set_counted(id, !self.excluded_from_idle.get());
                self.race.candidates.borrow_mut()[tried].attempt = Some(id);
                self.enter(Phase::Connecting);
                if self.race.has_untried() {
                    let this = Rc::clone(self);
                    let delay = self.settings.attempt_delay;
                    let next = move |event_loop: &EventLoop| this.start_attempt(event_loop);
                    let timer = self.run_after(event_loop, delay, next);
                    self.race.delay.set(Some(timer));
                }
            }
        }
    }

    fn dial(self: &Rc<Self>, event_loop: &EventLoop, address: &Address) -> io::Result<ChannelId> {
        let dial = self.dial.borrow().clone().expect("kept until the client has ended");
        let fd = stream::connect_to(address, self.settings.local, &self.settings.options)?;
        let membership = self.group.join(0, AdmissionGuard::default());
        let pending = PendingConnection { fd, peer: address.clone(), membership };
        dial(event_loop, pending, Rc::clone(self) as Rc<dyn Dialer>)
    }

    fn cancel_delay(&self, event_loop: &EventLoop) {
        if let Some(timer) = self.race.delay.take() {
            event_loop.cancel(timer);
        }
    }

    /// Ends the race: closes the sockets of the attempts in progress, and tries no other address.
    /// Returns the addresses of these attempts.
    pub(super) fn abandon(&self, event_loop: &EventLoop) -> Vec<Address> {
        self.cancel_delay(event_loop);
        let mut candidates = self.race.candidates.take();
        let attempts: Vec<ChannelId> = candidates.iter().filter_map(|candidate| candidate.attempt).collect();
        // A removal drops values of the user, which may use the client.
        attempts.into_iter().for_each(|id| event_loop.remove(id));
        candidates.retain(|candidate| candidate.attempt.is_some());
        candidates.into_iter().map(|candidate| candidate.address).collect()
    }
}

/// Alternates between the families of the addresses, beginning with that of the first one. The
/// order within a family is kept.
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_first);
    let (mut next, mut other) = (first.into_iter(), second.into_iter());
    iter::from_fn(|| {
        let address = next.next().or_else(|| other.next());
        mem::swap(&mut next, &mut other);
        address
    })
    .collect()
}

#[cfg(test)]
mod tests;
