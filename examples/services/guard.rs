//! Which datagrams get a reply.
//!
//! The source of a datagram may be forged, so a service over UDP can be used against others in two
//! ways. If the source is another service that replies to everything, the two exchange datagrams
//! without end (CVE-1999-0103). If the reply is longer than the datagram, the victim receives more
//! than the attacker sends. The guard prevents the former where it can be recognized, and limits
//! the cost of both.

use std::time::{Duration, Instant};

/// Ports below this number belong to services, never to clients.
const FIRST_CLIENT_PORT: u16 = 1024;

/// The number of replies per second, of all services together.
pub(crate) const REPLIES: u64 = 20_000;

/// The number of bytes per second by which replies may exceed the datagrams that caused them.
pub(crate) const EXCESS: u64 = 64 * 1024;

/// Why a datagram gets no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The source is the port of a service.
    ServicePort,
    /// There were too many replies within a second.
    TooManyReplies,
    /// The replies of this second exceed their datagrams by too much.
    TooMuchExcess,
}

/// Decides for all services of the process.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The ports of this process.
    own_ports: Vec<u16>,
    replies: Budget,
    excess: Budget,
}

impl Guard {
    pub(crate) fn new(now: Instant) -> Guard {
        let (replies, excess) = (Budget::new(REPLIES, now), Budget::new(EXCESS, now));
        Guard { own_ports: Vec::new(), replies, excess }
    }

    /// Replies are never sent to this port, on any host: it may be that of the same service there.
    pub(crate) fn add_own_port(&mut self, port: u16) {
        self.own_ports.push(port);
    }

    /// Whether a datagram of `received` bytes from a port gets a reply of `reply` bytes.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        port: u16,
        received: usize,
        reply: usize,
    ) -> Result<(), Refusal> {
        if port < FIRST_CLIENT_PORT || self.own_ports.contains(&port) {
            return Err(Refusal::ServicePort);
        }
        if !self.replies.take(now, 1) {
            return Err(Refusal::TooManyReplies);
        }
        if !self.excess.take(now, reply.saturating_sub(received) as u64) {
            return Err(Refusal::TooMuchExcess);
        }
        Ok(())
    }
}

/// An amount per second. What is left over is available later, up to the amount of one second.
#[derive(Debug)]
struct Budget {
    per_second: u64,
    /// What is available, in units of a nanosecond's share.
    available: u128,
    at: Instant,
}

const SECOND: u128 = Duration::from_secs(1).as_nanos();

impl Budget {
    fn new(per_second: u64, now: Instant) -> Budget {
        Budget { per_second, available: u128::from(per_second) * SECOND, at: now }
    }

    fn take(&mut self, now: Instant, amount: u64) -> bool {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let per_second = u128::from(self.per_second);
        self.available = (self.available + passed * per_second).min(per_second * SECOND);
        self.at = now;
        match self.available.checked_sub(u128::from(amount) * SECOND) {
            Some(left) => self.available = left,
            None => return false,
        }
        true
    }
}
