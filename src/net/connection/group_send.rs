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

/// Payloads for a member of a group. The receiver sets the outcome.
pub(in crate::net) struct GroupSend {
    /// All payloads, one after the other.
    joined: Arc<[u8]>,
    /// The payloads, if there are several.
    payloads: Vec<Arc<[u8]>>,
    policy: FullPolicy,
    pub(in crate::net) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Outcome {
    /// The member was sent the payloads, except those that it has missed.
    Sent { missed: u64 },
    /// The connection takes no output any longer.
    Closed,
}

impl GroupSend {
    /// Joins the payloads, of which there is at least one: each member then needs a single system
    /// call, and one reference if its peer is slow.
    pub(in crate::net) fn new<'a>(
        payloads: impl Iterator<Item = &'a Arc<[u8]>>,
        policy: FullPolicy,
    ) -> GroupSend {
        let payloads: Vec<_> = payloads.cloned().collect();
        let joined = match &payloads[..] {
            [one] => Arc::clone(one),
            several => several.concat().into(),
        };
        GroupSend { joined, payloads, policy, outcome: Outcome::Closed }
    }
}

impl ConnectionCore {
    pub(super) fn on_group_send(&self, event_loop: &EventLoop, send: &mut GroupSend) {
        // Bytes that handles have sent before come first.
        self.read_mailbox(event_loop, Taken::UpToCall);
        send.outcome = match self.send(event_loop, Bytes::Shared(Arc::clone(&send.joined))) {
            Ok(()) => Outcome::Sent { missed: 0 },
            Err(refused) if refused.reason() == SendError::Full => self.send_each(event_loop, send),
            Err(_) => Outcome::Closed,
        };
    }

    /// Not all payloads fit.
    #[cold]
    fn send_each(&self, event_loop: &EventLoop, send: &GroupSend) -> Outcome {
        let mut missed = 0;
        for payload in &send.payloads {
            let sent = self.send(event_loop, Bytes::Shared(Arc::clone(payload)));
            match (sent, send.policy) {
                (Ok(()), _) => {}
                (Err(refused), FullPolicy::Skip) if refused.reason() == SendError::Full => missed += 1,
                (Err(refused), _) => {
                    if self.state.get() != ConnectionState::Closed {
                        self.end_stream(event_loop, payload.len(), refused.reason());
                    }
                    return Outcome::Closed;
                }
            }
        }
        Outcome::Sent { missed }
    }
}
