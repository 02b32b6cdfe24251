//! `Admission`: the limits on a server's connections, in total and per address, and whether
//! accepting is paused.
//!
//! The listeners and the connections of a server may be on several loops, so this state is shared.
//! A listener acquires a [`Permit`] before it accepts. A listener that gets no permit clears its
//! read interest (no system call) and keeps its cached readiness. Releasing a permit while a
//! listener waits wakes the listeners on their loops.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use parking_lot::Mutex;

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
    /// Connections that were rejected because no file descriptor was left.
    pub rejected_without_descriptor: u64,
    /// Accepted connections that were reset because all together exceeded the [memory
    /// limit](crate::net::TcpServerBuilder::max_buffered).
    pub closed_for_memory: u64,
}

/// The limits that [`Admission`] enforces.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Quota {
    pub(in crate::net) connections: Option<u64>,
    pub(in crate::net) overflow_policy: OverflowPolicy,
    pub(in crate::net) per_address: Option<u64>,
    /// The prefix that counts as one address, here and for load balancing.
    pub(in crate::net) ipv6_prefix: Ipv6Prefix,
}

/// Flag in [`Admission::permits`]: a listener was refused a permit and has not been woken since.
const HAS_WAITERS: u64 = 1 << 63;

#[derive(Default)]
pub(crate) struct Admission {
    quota: Quota,
    /// The number of permits in use, and [`HAS_WAITERS`]. Counted only if there is a maximum.
    ///
    /// Both are in one atomic word, so that no wake-up is lost: if a permit is released while a
    /// listener is being refused one, either the listener gets that permit or the release sees the
    /// flag.
    permits: AtomicU64,
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
}

/// Permission to accept one connection. Dropping the permit releases it, unless
/// [`admit`](Admission::admit) has consumed it.
pub(in crate::net) struct Permit<'a> {
    admission: &'a Admission,
    is_counted: bool,
}

/// The share of the limits that an admitted connection uses, until it is
/// [released](Admission::release).
#[derive(Debug, Default)]
pub(in crate::net) struct AdmissionGuard {
    is_counted: bool,
    address: Option<PeerKey>,
}

impl Admission {
    pub(in crate::net) fn new(quota: Quota) -> Admission {
        Admission { quota, ..Admission::default() }
    }

    /// Acquires a permit for one connection. Returns `None` at the limit; the listener is then
    /// woken when a permit is released.
    pub(in crate::net) fn try_acquire(&self) -> Option<Permit<'_>> {
        let maximum = match self.quota.overflow_policy {
            OverflowPolicy::Queue => self.quota.connections,
            // Checked once the connection has been accepted.
            OverflowPolicy::Reject => None,
        };
        let Some(maximum) = maximum else {
            return Some(Permit { admission: self, is_counted: false });
        };
        let (Ok(before) | Err(before)) = self.permits.fetch_update(SeqCst, SeqCst, |permits| {
            Some(if in_use(permits) < maximum { permits + 1 } else { permits | HAS_WAITERS })
        });
        (in_use(before) < maximum).then(|| Permit { admission: self, is_counted: true })
    }

    fn count_permit(&self, maximum: u64) -> bool {
        let one_more = |permits| (in_use(permits) < maximum).then_some(permits + 1);
        self.permits.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }

    fn release_permit(&self) {
        let one_less = |permits| Some(in_use(permits) - 1);
        let (Ok(before) | Err(before)) = self.permits.fetch_update(SeqCst, SeqCst, one_less);
        if before & HAS_WAITERS != 0 {
            self.wake_listeners();
        }
    }

    /// The key of an accepted socket's peer.
    pub(in crate::net) fn peer_key(&self, socket: impl AsFd, peer: &Address) -> PeerKey {
        PeerKey::of(socket, peer, self.quota.ipv6_prefix)
    }

    /// Admits a connection from `address`. Returns `None`, and counts that, if a limit is reached.
    pub(in crate::net) fn admit(&self, mut permit: Permit<'_>, address: PeerKey) -> Option<AdmissionGuard> {
        if let (OverflowPolicy::Reject, Some(maximum)) = (self.quota.overflow_policy, self.quota.connections)
        {
            if !self.count_permit(maximum) {
                self.counters.rejected_at_maximum.fetch_add(1, Relaxed);
                return None;
            }
            permit.is_counted = true;
        }
        let mut admitted = AdmissionGuard::default();
        if let Some(maximum) = self.quota.per_address {
            if !self.count_address(address, maximum) {
                self.counters.rejected_by_address.fetch_add(1, Relaxed);
                return None;
            }
            admitted.address = Some(address);
        }
        admitted.is_counted = std::mem::take(&mut permit.is_counted);
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
        if admitted.is_counted {
            self.release_permit();
        }
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

fn in_use(permits: u64) -> u64 {
    permits & !HAS_WAITERS
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.admission.release_permit();
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
