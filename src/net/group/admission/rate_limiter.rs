//! [`RateLimiter`]: limits the handshakes of each address in a period.
//!
//! A token bucket per address, in the form of a virtual schedule (GCRA, ITU-T I.371): the state is
//! the time at which the bucket is full again. A bucket that is full needs no state, so an address
//! is forgotten after a period without handshakes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::net::group::peer_key::PeerKey;

/// At most this many handshakes of an address begin at once, and in each period on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Rate {
    handshakes: u32,
    period: Duration,
}

/// Longer periods are reduced to this one, so that the times stay in the range of the clock.
const MAX_PERIOD: Duration = Duration::from_secs(365 * 24 * 3600);

impl Rate {
    pub(in crate::net) fn new(handshakes: u32, period: Duration) -> Rate {
        Rate { handshakes, period: period.min(MAX_PERIOD) }
    }
}

/// The maximum number of addresses in a table. It fills a hash table of 32,768 slots, which is
/// about 1.3 MiB.
const MAX_ADDRESSES: usize = 28_672;

/// When the bucket of each address is full again.
type Buckets = HashMap<PeerKey, Instant>;

/// Two tables bound the memory without a search for entries to remove. When the newer one has been
/// in use for a period, or is full, it becomes the older one, and the entries of the older one are
/// forgotten. After a period their buckets are full again. If the newer table was full earlier,
/// addresses get their tokens back too soon; that takes more than [`MAX_ADDRESSES`] addresses in a
/// period, which a limit per address does not stop anyway.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    newer: Buckets,
    older: Buckets,
    /// When the newer table was begun.
    begun: Option<Instant>,
}

impl RateLimiter {
    /// Takes a token of `address`. Returns whether it had one. The time may go back a little
    /// between two calls, as the loops of a server read their clocks at different times.
    pub(super) fn take(&mut self, rate: Rate, address: PeerKey, now: Instant) -> bool {
        self.forget(rate, now);
        let Some(interval) = rate.period.checked_div(rate.handshakes) else { return false };
        let full_at = self.newer.get(&address).or_else(|| self.older.get(&address)).copied();
        let next = full_at.unwrap_or(now).max(now) + interval;
        let has_token = next.saturating_duration_since(now) <= rate.period;
        if has_token {
            self.newer.insert(address, next);
        }
        has_token
    }

    fn forget(&mut self, rate: Rate, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let age = now.saturating_duration_since(begun);
        if age < rate.period && self.newer.len() < MAX_ADDRESSES {
            return;
        }
        let newer = std::mem::take(&mut self.newer);
        // After two periods nothing was added to the newer table for at least one.
        self.older = if age < 2 * rate.period { newer } else { Buckets::new() };
        self.begun = Some(now);
    }
}

#[cfg(test)]
mod tests;
