//! Delivers the payloads of a group to one connection.

use std::sync::Arc;

use super::mailbox::Taken;
use super::payload::Bytes;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::result::SendError;

/// What a send to a group does with a member whose unsent bytes would exceed their
/// [limit](crate::net::ConnectionLimits::max_unsent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullPolicy {
    /// The member misses the payload; [`missed`](crate::net::ConnectionGroup::missed) counts it.
    #[default]
    Skip,
    /// The member is closed, and its [`on_close`](crate::ConnectionHandler::on_close) gets
    /// [`SendError::Full`].
    Close,
    /// No member gets the payload: the send fails with [`SendError::Full`]. A member whose own
    /// output has used up its limit meanwhile, while the payload was on its way, is closed.
    Refuse,
}

/// The largest payload that is joined with others. A larger one has a system call of its own,
/// because copying it costs more than the call.
const LARGEST_JOINED: usize = 4 * 1024;

/// The maximum size of joined payloads.
const PART: usize = 64 * 1024;

/// Payloads for a member of a group. The receiver sets the outcome if it is not `Closed`.
pub(in crate::net) struct GroupSend {
    parts: Vec<Part>,
    policy: FullPolicy,
    pub(in crate::net) outcome: Outcome,
}

/// Payloads that are sent together.
struct Part {
    /// All payloads, one after the other.
    joined: Arc<[u8]>,
    payloads: Vec<Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Outcome {
    /// The member was sent the payloads, except those that it has missed.
    Sent { missed: u64 },
    /// The connection takes no output any longer.
    Closed,
}

impl GroupSend {
    /// Joins small payloads once for all members: each member then needs one system call, and one
    /// reference if its peer is slow.
    pub(in crate::net) fn new<'a>(
        payloads: impl Iterator<Item = &'a Arc<[u8]>>,
        policy: FullPolicy,
    ) -> GroupSend {
        let payloads: Vec<_> = payloads.cloned().collect();
        let mut parts = Vec::new();
        let mut rest = &payloads[..];
        while !rest.is_empty() {
            let mut len = 0;
            let fits = |payload: &&Arc<[u8]>| {
                len += payload.len();
                payload.len() <= LARGEST_JOINED && len <= PART
            };
            let count = rest.iter().take_while(fits).count().max(1);
            parts.push(Part::new(&rest[..count]));
            rest = &rest[count..];
        }
        GroupSend { parts, policy, outcome: Outcome::Closed }
    }
}

impl Part {
    fn new(payloads: &[Arc<[u8]>]) -> Part {
        let joined = match payloads {
            [one] => Arc::clone(one),
            several => several.concat().into(),
        };
        Part { joined, payloads: payloads.to_vec() }
    }
}

impl ConnectionCore {
    /// Whether payloads of groups that are on their way are sent, or counted as unsent if that
    /// fails. A connection that has been shut down or closed has been given all that were sent to
    /// it before.
    pub(super) fn takes_payloads(&self) -> bool {
        match self.state.get() {
            ConnectionState::Open => true,
            ConnectionState::Closing => self.has_output_failed(),
            ConnectionState::Connecting | ConnectionState::Closed => false,
        }
    }

    pub(super) fn on_group_send(&self, event_loop: &EventLoop, send: &mut GroupSend) {
        // Bytes that handles have sent before come first. A shutdown or close may have been
        // requested after the payloads were sent, so it waits for its task.
        self.read_mailbox(event_loop, Taken::OutputUpToCall);
        if !self.takes_payloads() {
            return;
        }
        let mut left: usize = send.parts.iter().map(|part| part.joined.len()).sum();
        let mut missed = 0;
        for part in &send.parts {
            match self.send_part(event_loop, part, send.policy, &mut left) {
                Ok(more) => missed += more,
                Err(reason) => return self.end_stream(event_loop, left, reason),
            }
        }
        send.outcome = Outcome::Sent { missed };
    }

    /// Subtracts what has been sent, or is missed, from `left`. Returns how many payloads the
    /// member misses.
    fn send_part(
        &self,
        event_loop: &EventLoop,
        part: &Part,
        policy: FullPolicy,
        left: &mut usize,
    ) -> Result<u64, SendError> {
        match self.send(event_loop, Bytes::Shared(Arc::clone(&part.joined))) {
            Ok(()) => {
                *left -= part.joined.len();
                Ok(0)
            }
            Err(refused) if refused.reason() == SendError::Full => {
                self.send_each(event_loop, part, policy, left)
            }
            Err(refused) => Err(refused.reason()),
        }
    }

    /// Not all payloads fit.
    #[cold]
    fn send_each(
        &self,
        event_loop: &EventLoop,
        part: &Part,
        policy: FullPolicy,
        left: &mut usize,
    ) -> Result<u64, SendError> {
        let mut missed = 0;
        for payload in &part.payloads {
            match self.send(event_loop, Bytes::Shared(Arc::clone(payload))) {
                Ok(()) => {}
                Err(refused) if refused.reason() == SendError::Full && policy == FullPolicy::Skip => {
                    missed += 1;
                }
                Err(refused) => return Err(refused.reason()),
            }
            *left -= payload.len();
        }
        Ok(missed)
    }
}
