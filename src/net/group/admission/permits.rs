//! [`Permits`]: how many connections and handshakes of a server count toward their maxima.
//!
//! Both numbers and a flag are in one atomic word. So a connection acquires both of its permits or
//! none: a listener that acquired one and then failed to acquire the other would have to release
//! the first, and two such listeners could wake each other forever. And no wake-up is lost: if a
//! permit is released while a listener is being refused one, either the listener gets that permit
//! or the release sees the flag.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Numbers of connections, in the lower half, and of handshakes, in the upper half. The highest bit
/// of each half is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share(u64);

const HALF: u32 = 32;

/// The greatest number in a half. More than the kernel has descriptors for.
const GREATEST: u64 = (1 << (HALF - 1)) - 1;

/// Flag in [`Permits::used`], in the unused bit of the upper half: a listener was refused, and has
/// not been woken since.
const HAS_WAITERS: u64 = 1 << 63;

impl Share {
    pub(super) const NONE: Share = Share(0);
    pub(super) const CONNECTION: Share = Share(1);
    pub(super) const HANDSHAKE: Share = Share(1 << HALF);

    /// `share` if there is a maximum; otherwise it is not counted.
    pub(super) fn if_limited(self, maximum: Option<u64>) -> Share {
        if maximum.is_some() { self } else { Share::NONE }
    }

    /// Whether neither number is greater than in `other`.
    fn is_within(self, other: Share) -> bool {
        self.0 & u64::from(u32::MAX) <= other.0 & u64::from(u32::MAX) && self.0 >> HALF <= other.0 >> HALF
    }
}

impl Add for Share {
    type Output = Share;

    fn add(self, other: Share) -> Share {
        Share(self.0 + other.0)
    }
}

impl Sub for Share {
    type Output = Share;

    fn sub(self, other: Share) -> Share {
        Share(self.0 - other.0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Permits {
    /// The [`Share`] that is in use, and [`HAS_WAITERS`].
    used: AtomicU64,
    maximum: Share,
    /// What a listener acquires before it accepts.
    before_accept: Share,
}

impl Permits {
    /// A maximum of `None` is not reached. Listeners acquire `before_accept` for each connection,
    /// and wait for it.
    pub(super) fn new(connections: Option<u64>, handshakes: Option<u64>, before_accept: Share) -> Permits {
        let half = |maximum: Option<u64>| maximum.unwrap_or(GREATEST).min(GREATEST);
        let maximum = Share(half(connections) + (half(handshakes) << HALF));
        Permits { used: AtomicU64::new(0), maximum, before_accept }
    }

    /// Acquires what a listener needs to accept one connection. If that is not possible, returns
    /// `None`, and the release that makes it possible [reports](Permits::release) it.
    pub(super) fn acquire_before_accept(&self) -> Option<Share> {
        let share = self.before_accept;
        if share == Share::NONE {
            return Some(share);
        }
        let (Ok(before) | Err(before)) = self.used.fetch_update(SeqCst, SeqCst, |used| {
            Some(if self.has_free(used, share) { used + share.0 } else { used | HAS_WAITERS })
        });
        self.has_free(before, share).then_some(share)
    }

    /// Acquires `share`, without waiting for it if that is not possible.
    pub(super) fn try_acquire(&self, share: Share) -> bool {
        let acquire = |used| self.has_free(used, share).then_some(used + share.0);
        self.used.fetch_update(SeqCst, SeqCst, acquire).is_ok()
    }

    /// Returns whether the listeners are to be woken: one was refused before, and would not be
    /// refused now.
    #[must_use]
    pub(super) fn release(&self, share: Share) -> bool {
        if share == Share::NONE {
            return false;
        }
        let wakes = |used: u64| used & HAS_WAITERS != 0 && self.has_free(used - share.0, self.before_accept);
        let release = |used| Some((used - share.0) & if wakes(used) { !HAS_WAITERS } else { u64::MAX });
        let (Ok(before) | Err(before)) = self.used.fetch_update(SeqCst, SeqCst, release);
        wakes(before)
    }

    fn has_free(&self, used: u64, share: Share) -> bool {
        (Share(used & !HAS_WAITERS) + share).is_within(self.maximum)
    }
}

#[cfg(test)]
mod tests;
