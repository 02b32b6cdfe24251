//! `Admission`: the limits on a server's connections and handshakes, in total and per address, and
//! whether accepting is paused.
//!
//! The listeners and the connections of a server may be on several loops, so this state is shared.
//! A listener acquires a [`Permit`] before it accepts. A listener that gets no permit clears its
//! read interest (no system call) and keeps its cached readiness. Releasing a permit while a
//! listener waits wakes the listeners on their loops.
//!
//! An accepted connection of a server with filters is in its handshake until its handler is about
//! to be created.

mod permits;
mod rate_limiter;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;

use self::permits::{Permits, Share};
pub(in crate::net) use self::rate_limiter::Rate;
use self::rate_limiter::RateLimiter;
use super::peer_key::{Ipv6Prefix, PeerKey};
use crate::event_loop::LoopHandle;
use crate::event_loop::channel_table::ChannelId;
use crate::net::address::Address;

/// What a server does with connections above its
/// [maximum](crate::net::TcpServerBuilder::max_connections).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OverflowPolicy {
    /// They wait in the kernel's backlog and are accepted as others close. Their clients see an
    /// established connection without replies. When the backlog is full too, further SYNs are
    /// dropped.
    #[default]
    Queue,
    /// They are [rejected](ServerCounters), so that the clients notice and may try another server.
    Reject,
}

/// The counters of a server since it started.
///
/// A server accepts the connections that its limits permit. It rejects the others: it takes them
/// from the kernel and closes them at once, without a handler. Their clients see an end of input or
/// a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerCounters {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were rejected because the server was at its
    /// [maximum](crate::net::TcpServerBuilder::max_connections).
    pub rejected_at_maximum: u64,
    /// Connections that were rejected because their address, or its prefix, was at the
    /// [maximum per address](crate::net::TcpServerBuilder::max_per_address).
    pub rejected_by_address: u64,
    /// Connections that were rejected because their address, or its prefix, had begun the [maximum
    /// of handshakes](crate::net::TcpServerBuilder::max_handshakes_per_address) in a period.
    pub rejected_by_handshake_rate: u64,
    /// Connections that were rejected because no file descriptor was left.
    pub rejected_without_descriptor: u64,
    /// Accepted connections that were reset because all together exceeded the [memory
    /// limit](crate::net::TcpServerBuilder::max_buffered).
    pub closed_for_memory: u64,
    /// Accepted connections of a server with [filters](crate::net::Filter) that ended before their
    /// handshakes were completed: a filter returned an error or panicked, the
    /// [time](crate::net::ConnectionLimits::handshake_timeout) was over, or the peer ended or reset
    /// the connection. Those that ended with the server or the loop are not counted.
    pub failed_handshakes: u64,
}

/// The limits that [`Admission`] enforces.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Quota {
    pub(in crate::net) connections: Option<u64>,
    pub(in crate::net) overflow_policy: OverflowPolicy,
    pub(in crate::net) per_address: Option<u64>,
    /// Has no effect on a server without filters.
    pub(in crate::net) handshakes: Option<u64>,
    /// Has no effect on a server without filters.
    pub(in crate::net) handshake_rate: Option<Rate>,
    /// The prefix that counts as one address, here and for load balancing.
    pub(in crate::net) ipv6_prefix: Ipv6Prefix,
}

#[derive(Default)]
pub(crate) struct Admission {
    quota: Quota,
    /// Whether connections begin with a handshake, because the server has filters.
    has_handshakes: bool,
    permits: Permits,
    /// The number of connections in their handshake. Counted only if `has_handshakes`.
    handshakes: AtomicU64,
    rate_limiter: Mutex<RateLimiter>,
    paused: AtomicBool,
    /// The number of connections of each address that has any. Kept only if there is a limit. A
    /// tree retains no memory for removed entries.
    addresses: Mutex<BTreeMap<PeerKey, u64>>,
    listeners: Mutex<Vec<ListenerEntry>>,
    counters: AtomicCounters,
}

/// A listener on any loop.
pub(in crate::net) struct ListenerEntry {
    pub(in crate::net) event_loop: LoopHandle,
    pub(in crate::net) id: ChannelId,
    /// A duplicate of the socket, if the listener is not on the server's loop.
    pub(in crate::net) socket: Option<OwnedFd>,
}

#[derive(Default)]
struct AtomicCounters {
    accepted: AtomicU64,
    rejected_at_maximum: AtomicU64,
    rejected_by_address: AtomicU64,
    rejected_without_descriptor: AtomicU64,
    closed_for_memory: AtomicU64,
    rejected_by_handshake_rate: AtomicU64,
    failed_handshakes: AtomicU64,
}

/// Permission to accept one connection. Dropping the permit releases it, unless
/// [`admit`](Admission::admit) has consumed it.
pub(in crate::net) struct Permit<'a> {
    admission: &'a Admission,
    share: Share,
}

/// The share of the limits that an admitted connection uses, until it is
/// [released](Admission::release).
#[derive(Debug, Default)]
pub(in crate::net) struct AdmissionGuard {
    share: Cell<Share>,
    address: Option<PeerKey>,
    is_in_handshake: Cell<bool>,
}

impl Admission {
    pub(in crate::net) fn new(mut quota: Quota, has_handshakes: bool) -> Admission {
        if !has_handshakes {
            quota.handshakes = None;
            quota.handshake_rate = None;
        }
        let connection = match quota.overflow_policy {
            OverflowPolicy::Queue => Share::CONNECTION.if_limited(quota.connections),
            // Acquired once the connection has been accepted.
            OverflowPolicy::Reject => Share::NONE,
        };
        let before_accept = connection + Share::HANDSHAKE.if_limited(quota.handshakes);
        let permits = Permits::new(quota.connections, quota.handshakes, before_accept);
        Admission { quota, has_handshakes, permits, ..Admission::default() }
    }

    /// Acquires a permit for one connection. Returns `None` at the limit; the listener is then
    /// woken when a permit is released.
    pub(in crate::net) fn try_acquire(&self) -> Option<Permit<'_>> {
        let share = self.permits.acquire_before_accept()?;
        Some(Permit { admission: self, share })
    }

    fn release_share(&self, share: Share) {
        if self.permits.release(share) {
            self.wake_listeners();
        }
    }

    /// The key of an accepted socket's peer.
    pub(in crate::net) fn peer_key(&self, socket: impl AsFd, peer: &Address) -> PeerKey {
        PeerKey::of(socket, peer, self.quota.ipv6_prefix)
    }

    /// Admits a connection from `address`. Returns `None`, and counts that, if a limit is reached.
    pub(in crate::net) fn admit(
        &self,
        mut permit: Permit<'_>,
        address: PeerKey,
        now: impl FnOnce() -> Instant,
    ) -> Option<AdmissionGuard> {
        if let OverflowPolicy::Reject = self.quota.overflow_policy {
            let connection = Share::CONNECTION.if_limited(self.quota.connections);
            if !self.permits.try_acquire(connection) {
                self.counters.rejected_at_maximum.fetch_add(1, Relaxed);
                return None;
            }
            permit.share = permit.share + connection;
        }
        let mut admitted = AdmissionGuard::default();
        if let Some(maximum) = self.quota.per_address {
            if !self.count_address(address, maximum) {
                self.counters.rejected_by_address.fetch_add(1, Relaxed);
                return None;
            }
            admitted.address = Some(address);
        }
        // The last check, so that a connection which is rejected anyway takes no token.
        if let Some(rate) = self.quota.handshake_rate {
            if !self.rate_limiter.lock().take(rate, address, now()) {
                self.counters.rejected_by_handshake_rate.fetch_add(1, Relaxed);
                self.release(&admitted);
                return None;
            }
        }
        admitted.share.set(std::mem::take(&mut permit.share));
        if self.has_handshakes {
            self.handshakes.fetch_add(1, SeqCst);
            admitted.is_in_handshake.set(true);
        }
        self.counters.accepted.fetch_add(1, Relaxed);
        Some(admitted)
    }

    fn count_address(&self, address: PeerKey, maximum: u64) -> bool {
        let mut addresses = self.addresses.lock();
        let open = addresses.get(&address).copied().unwrap_or(0);
        if open < maximum {
            addresses.insert(address, open + 1);
        }
        open < maximum
    }

    pub(in crate::net) fn release(&self, admitted: &AdmissionGuard) {
        if let Some(address) = &admitted.address {
            let mut addresses = self.addresses.lock();
            if let Some(open) = addresses.get_mut(address) {
                *open -= 1;
                if *open == 0 {
                    addresses.remove(address);
                }
            }
        }
        if admitted.is_in_handshake.take() {
            self.handshakes.fetch_sub(1, SeqCst);
        }
        self.release_share(admitted.share.take());
    }

    /// The connection has completed its handshake.
    pub(in crate::net) fn end_handshake(&self, admitted: &AdmissionGuard) {
        if !admitted.is_in_handshake.take() {
            return;
        }
        self.handshakes.fetch_sub(1, SeqCst);
        let share = Share::HANDSHAKE.if_limited(self.quota.handshakes);
        admitted.share.set(admitted.share.get() - share);
        self.release_share(share);
    }

    #[cfg(feature = "inspector")]
    pub(in crate::net) fn quota(&self) -> &Quota {
        &self.quota
    }

    /// The number of connections in their handshake.
    pub(in crate::net) fn handshakes(&self) -> u64 {
        self.handshakes.load(SeqCst)
    }

    pub(in crate::net) fn count_failed_handshake(&self) {
        self.counters.failed_handshakes.fetch_add(1, Relaxed);
    }

    pub(in crate::net) fn count_rejected_without_descriptor(&self) {
        self.counters.rejected_without_descriptor.fetch_add(1, Relaxed);
    }

    pub(in crate::net) fn count_closed_for_memory(&self) {
        self.counters.closed_for_memory.fetch_add(1, Relaxed);
    }

    pub(in crate::net) fn counters(&self) -> ServerCounters {
        ServerCounters {
            accepted: self.counters.accepted.load(Relaxed),
            rejected_at_maximum: self.counters.rejected_at_maximum.load(Relaxed),
            rejected_by_address: self.counters.rejected_by_address.load(Relaxed),
            rejected_without_descriptor: self.counters.rejected_without_descriptor.load(Relaxed),
            closed_for_memory: self.counters.closed_for_memory.load(Relaxed),
            rejected_by_handshake_rate: self.counters.rejected_by_handshake_rate.load(Relaxed),
            failed_handshakes: self.counters.failed_handshakes.load(Relaxed),
        }
    }

    pub(in crate::net) fn is_paused(&self) -> bool {
        self.paused.load(SeqCst)
    }

    /// Wakes no listener: each listener checks the flag before each accept.
    pub(in crate::net) fn pause(&self) {
        self.paused.store(true, SeqCst);
    }

    pub(in crate::net) fn resume(&self) {
        if self.paused.swap(false, SeqCst) {
            self.wake_listeners();
        }
    }

    /// Adds a listener. To be called on its loop before it can be ready, since it receives no
    /// wake-up from before this call.
    pub(in crate::net) fn add_listener(
        &self,
        event_loop: LoopHandle,
        id: ChannelId,
        socket: Option<OwnedFd>,
    ) {
        self.listeners.lock().push(ListenerEntry { event_loop, id, socket });
    }

    /// Notifies every listener, which then rechecks whether it may accept.
    fn wake_listeners(&self) {
        for ListenerEntry { event_loop, id, .. } in &*self.listeners.lock() {
            let id = *id;
            // The listener of a loop that has ended has ended with it.
            event_loop.post_internal(move |event_loop| event_loop.notify(id));
        }
    }

    /// Sets whether the listeners keep loops running that run until they are idle.
    pub(super) fn set_counted(&self, counted: bool) {
        for ListenerEntry { event_loop, id, .. } in &*self.listeners.lock() {
            let id = *id;
            event_loop.run_internal(move |event_loop| event_loop.set_counted(id, counted));
        }
    }

    /// Removes a listener of this thread's loop, and closes the duplicate, which would keep the
    /// socket open.
    pub(in crate::net) fn remove_listener(&self, id: ChannelId) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|other| other.id != id || !other.event_loop.is_in_loop_thread());
    }

    /// Removes and returns all listeners, which the caller closes.
    pub(in crate::net) fn take_listeners(&self) -> Vec<ListenerEntry> {
        std::mem::take(&mut *self.listeners.lock())
    }
}

impl AdmissionGuard {
    /// Whether the connection was accepted, and its handshake is not completed.
    pub(in crate::net) fn is_in_handshake(&self) -> bool {
        self.is_in_handshake.get()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.admission.release_share(self.share);
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("quota", &self.quota).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
