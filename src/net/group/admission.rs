//! Whom a server takes: how many connections it may have at all and of one address, and whether it accepts for now.
//!
//! A server's listeners may be on several loops, and so may its connections, so all of this is shared. A listener asks for a
//! [`Place`] before it accepts. One that gets none stops wanting to, without a system call, and its readiness stays noted, as
//! with every channel. Giving a place back while a listener waits for one notifies the listeners on their loops.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use parking_lot::Mutex;

use super::peer_key::{Ipv6Prefix, Origin};
use crate::event_loop::LoopHandle;
use crate::event_loop::channel_table::ChannelId;
use crate::net::address::Address;

/// What a server does with more connections than it [may have](crate::TcpServerBuilder::max_connections).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OverflowPolicy {
    /// Lets them wait in the kernel's backlog, and takes them as others leave. The clients see a connection that does not answer;
    /// when the backlog is full as well, their calls go unanswered.
    #[default]
    Queue,
    /// Accepts them and closes them at once, so that the clients know, and may try elsewhere.
    Reject,
}

/// What a server has counted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerCounters {
    /// Connections that were taken.
    pub accepted: u64,
    /// Connections that were closed at once because there were as many as there [may be](crate::TcpServerBuilder::max_connections).
    pub refused_at_maximum: u64,
    /// Connections that were closed at once because there were as many of [their address](crate::TcpServerBuilder::max_per_address), or its
    /// prefix.
    pub refused_by_address: u64,
    /// Connections that were closed at once for want of a descriptor.
    pub shed: u64,
    /// Connections that were reset because all together held more memory [than they may](crate::TcpServerBuilder::max_buffered).
    pub closed_for_memory: u64,
}

/// The limits that admission keeps to.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Quota {
    pub(in crate::net) connections: Option<u64>,
    pub(in crate::net) overflow_policy: OverflowPolicy,
    pub(in crate::net) per_address: Option<u64>,
    /// What counts as one address, here and for the choice of a loop.
    pub(in crate::net) ipv6_prefix: Ipv6Prefix,
}

/// In [`Admission::places`]: a listener has found no place, and has not been notified since.
const AWAITED: u64 = 1 << 63;

#[derive(Default)]
pub(crate) struct Admission {
    quota: Quota,
    /// How many places are taken, and [`AWAITED`]; counted only if there is a maximum. It is one word, so that a place that
    /// is given back while a listener finds none is either found by the listener or finds the listener waiting.
    places: AtomicU64,
    paused: AtomicBool,
    /// Connections of each address that has any; kept only if there is a limit. A tree keeps no room for those that have gone.
    addresses: Mutex<BTreeMap<Origin, u64>>,
    listeners: Mutex<Vec<Listening>>,
    tally: Tally,
}

/// A listener, on whatever loop.
pub(in crate::net) struct Listening {
    pub(in crate::net) event_loop: LoopHandle,
    pub(in crate::net) id: ChannelId,
    /// A duplicate of the socket of a listener on another loop than the server's.
    pub(in crate::net) socket: Option<OwnedFd>,
}

#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    refused_at_maximum: AtomicU64,
    refused_by_address: AtomicU64,
    shed: AtomicU64,
    closed_for_memory: AtomicU64,
}

/// A place for a connection that is about to be accepted, given back unless it is [used](Admission::admit).
pub(in crate::net) struct Place<'a> {
    admission: &'a Admission,
    counted: bool,
}

/// What a connection takes up, until it is [given back](Admission::release).
#[derive(Debug, Default)]
pub(in crate::net) struct Admitted {
    counted: bool,
    address: Option<Origin>,
}

impl Admission {
    pub(in crate::net) fn new(quota: Quota) -> Admission {
        Admission { quota, ..Admission::default() }
    }

    /// A place for one connection; `None` if a listener is to stop until it is sent word.
    pub(in crate::net) fn place(&self) -> Option<Place<'_>> {
        let maximum = match self.quota.overflow_policy {
            OverflowPolicy::Queue => self.quota.connections,
            // Found out when the connection is there.
            OverflowPolicy::Reject => None,
        };
        let Some(maximum) = maximum else {
            return Some(Place { admission: self, counted: false });
        };
        let (Ok(before) | Err(before)) = self.places.fetch_update(SeqCst, SeqCst, |places| {
            Some(if taken(places) < maximum { places + 1 } else { places | AWAITED })
        });
        (taken(before) < maximum).then(|| Place { admission: self, counted: true })
    }

    fn take_place(&self, maximum: u64) -> bool {
        let one_more = |places| (taken(places) < maximum).then_some(places + 1);
        self.places.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }

    fn give_place_back(&self) {
        let one_less = |places| Some(taken(places) - 1);
        let (Ok(before) | Err(before)) = self.places.fetch_update(SeqCst, SeqCst, one_less);
        if before & AWAITED != 0 {
            self.send_word();
        }
    }

    /// Whose connection an accepted socket is.
    pub(in crate::net) fn origin(&self, socket: impl AsFd, peer: &Address) -> Origin {
        Origin::of(socket, peer, self.quota.ipv6_prefix)
    }

    /// Lets a connection from `address` in, unless it is one too many; that is counted.
    pub(in crate::net) fn admit(&self, mut place: Place<'_>, address: Origin) -> Option<Admitted> {
        if let (OverflowPolicy::Reject, Some(maximum)) = (self.quota.overflow_policy, self.quota.connections)
        {
            if !self.take_place(maximum) {
                self.tally.refused_at_maximum.fetch_add(1, Relaxed);
                return None;
            }
            place.counted = true;
        }
        let mut admitted = Admitted::default();
        if let Some(most) = self.quota.per_address {
            if !self.count_address(address, most) {
                self.tally.refused_by_address.fetch_add(1, Relaxed);
                return None;
            }
            admitted.address = Some(address);
        }
        admitted.counted = std::mem::take(&mut place.counted);
        self.tally.accepted.fetch_add(1, Relaxed);
        Some(admitted)
    }

    fn count_address(&self, address: Origin, most: u64) -> bool {
        let mut addresses = self.addresses.lock();
        let open = addresses.get(&address).copied().unwrap_or(0);
        if open < most {
            addresses.insert(address, open + 1);
        }
        open < most
    }

    pub(in crate::net) fn release(&self, admitted: &Admitted) {
        if let Some(address) = &admitted.address {
            let mut addresses = self.addresses.lock();
            if let Some(open) = addresses.get_mut(address) {
                *open -= 1;
                if *open == 0 {
                    addresses.remove(address);
                }
            }
        }
        if admitted.counted {
            self.give_place_back();
        }
    }

    pub(in crate::net) fn count_shed(&self) {
        self.tally.shed.fetch_add(1, Relaxed);
    }

    pub(in crate::net) fn count_closed_for_memory(&self) {
        self.tally.closed_for_memory.fetch_add(1, Relaxed);
    }

    pub(in crate::net) fn counters(&self) -> ServerCounters {
        ServerCounters {
            accepted: self.tally.accepted.load(Relaxed),
            refused_at_maximum: self.tally.refused_at_maximum.load(Relaxed),
            refused_by_address: self.tally.refused_by_address.load(Relaxed),
            shed: self.tally.shed.load(Relaxed),
            closed_for_memory: self.tally.closed_for_memory.load(Relaxed),
        }
    }

    pub(in crate::net) fn is_paused(&self) -> bool {
        self.paused.load(SeqCst)
    }

    /// Nobody needs to be told: a listener looks before each connection that it takes.
    pub(in crate::net) fn pause(&self) {
        self.paused.store(true, SeqCst);
    }

    pub(in crate::net) fn resume(&self) {
        if self.paused.swap(false, SeqCst) {
            self.send_word();
        }
    }

    /// To be called on the loop of the listener, before it can be ready: word that is sent before that is not for it.
    pub(in crate::net) fn add_listener(
        &self,
        event_loop: LoopHandle,
        id: ChannelId,
        socket: Option<OwnedFd>,
    ) {
        self.listeners.lock().push(Listening { event_loop, id, socket });
    }

    /// Has every listener look again.
    fn send_word(&self) {
        for Listening { event_loop, id, .. } in &*self.listeners.lock() {
            let id = *id;
            // A loop that has gone has taken its listener with it.
            event_loop.post_internal(move |event_loop| event_loop.notify(id));
        }
    }

    /// Forgets a listener of this thread's loop, with the duplicate that would keep its socket.
    pub(in crate::net) fn remove_listener(&self, id: ChannelId) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|other| other.id != id || !other.event_loop.is_in_loop_thread());
    }

    /// Gives up the listeners, for their end.
    pub(in crate::net) fn take_listeners(&self) -> Vec<Listening> {
        std::mem::take(&mut *self.listeners.lock())
    }
}

fn taken(places: u64) -> u64 {
    places & !AWAITED
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.admission.give_place_back();
        }
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("quota", &self.quota).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
