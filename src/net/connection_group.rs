//! [`ConnectionGroup`]: connections on any loops that are sent the same bytes.
//!
//! Each loop has one list of payloads that are on their way to it. They are delivered together, by
//! a task, or before a member there ends its output. The small payloads that a member gets in one
//! turn are joined, so they leave in one system call.

mod group_map;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

pub use super::connection::group_send::FullPolicy;
pub use group_map::GroupMap;

use super::connection::group_send::{GroupSend, Outcome};
use super::connection::{ConnectionHandle, ConnectionId};
use super::result::SendError;
use crate::event_loop::deliveries::Deliver;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{EventLoop, LoopHandle};

/// The maximum number of bytes on their way to one loop. A slow loop is throttled by this limit, so
/// that it is not mistaken for slow peers.
const MAX_IN_TRANSIT: usize = 16 * 1024 * 1024;

/// Connections on any loops that are sent the same bytes, such as the members of a chat room.
///
/// A payload is queued once for each loop, in one task, and members with slow peers keep a
/// reference to it instead of a copy. Members that have closed leave the group by themselves.
/// Clones refer to the same group.
///
/// All methods can be called from any thread. Payloads of one thread arrive in order. A connection
/// gets the payloads that are sent after it has joined and before it leaves. A payload follows the
/// bytes that the same thread has sent before through a [`ConnectionHandle`] of a member. Bytes
/// that it sends through the handle afterwards may arrive before the payload.
///
/// Before a member closes or shuts down, it sends the payloads that are on their way to its loop.
/// So do all members on a loop that is dropped. Payloads that it cannot send count as
/// [unsent](crate::TcpConnection::unsent), and the connection is reset. A payload that is sent
/// after the end of a member is not for it, and does not count as missed or unsent. A close or
/// shutdown that is requested through a handle takes effect when the request reaches the loop. A
/// loop that is being dropped has no members any longer.
///
/// ```
/// use reveille::net::{ConnectionGroup, FullPolicy};
/// use reveille::{Buffer, ConnectionHandler, TcpConnection};
/// use std::io;
///
/// struct Member(ConnectionGroup);
///
/// impl ConnectionHandler for Member {
///     fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
///         self.0.join(&conn.handle());
///         Ok(())
///     }
///
///     fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         self.0.send(input.take_all())?;
///         Ok(())
///     }
/// }
///
/// let room = ConnectionGroup::new(FullPolicy::Close);
/// let factory = move |_: &TcpConnection| Member(room.clone());
/// # drop(factory);
/// ```
#[derive(Clone)]
pub struct ConnectionGroup {
    shared: Arc<Shared>,
}

struct Shared {
    policy: FullPolicy,
    loops: Mutex<Vec<LoopMembers>>,
    missed: AtomicU64,
    /// In a forked child, the lock may be held by a thread that exists only in the parent.
    process: ProcessMark,
}

/// The members on one loop.
struct LoopMembers {
    event_loop: LoopHandle,
    /// Sorted by id. Payloads on their way share the list, so a change then copies it.
    members: Arc<Vec<ConnectionHandle>>,
    /// The number of members from which on closed ones are searched for.
    prune_at: usize,
    deliveries: Vec<Delivery>,
    in_transit: usize,
}

/// A payload, and the members at the time of the send.
struct Delivery {
    bytes: Arc<[u8]>,
    members: Arc<Vec<ConnectionHandle>>,
}

impl ConnectionGroup {
    /// Creates a group without members.
    pub fn new(policy: FullPolicy) -> ConnectionGroup {
        ConnectionGroup {
            shared: Arc::new(Shared {
                policy,
                loops: Mutex::default(),
                missed: AtomicU64::new(0),
                process: ProcessMark::current(),
            }),
        }
    }

    /// Adds a connection. Without effect if it is a member already, or is closed.
    pub fn join(&self, member: &ConnectionHandle) {
        if !self.shared.process.is_current() || !member.is_open() {
            return;
        }
        let mut loops = self.shared.loops.lock();
        let index = loops.iter().position(|on_loop| on_loop.event_loop.is_same_loop(member.event_loop()));
        let index = index.unwrap_or_else(|| {
            // Reuses the place of a loop that has ended, so that handles of such loops do not
            // accumulate.
            let unused = loops.iter().position(LoopMembers::is_unused);
            let joined = LoopMembers::new(member.event_loop());
            match unused {
                Some(place) => loops[place] = joined,
                None => loops.push(joined),
            }
            unused.unwrap_or(loops.len() - 1)
        });
        loops[index].join(member);
    }

    /// Removes a connection. Returns whether it was a member.
    pub fn leave(&self, member: ConnectionId) -> bool {
        self.shared.process.is_current()
            && self.shared.loops.lock().iter_mut().any(|on_loop| on_loop.leave(member))
    }

    /// The number of members, including those that have closed since the last send.
    pub fn len(&self) -> usize {
        match self.shared.process.is_current() {
            true => self.shared.loops.lock().iter().map(|on_loop| on_loop.members.len()).sum(),
            false => 0,
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn has_open_member(&self) -> bool {
        let loops = self.shared.loops.lock();
        loops.iter().any(|on_loop| on_loop.members.iter().any(ConnectionHandle::is_open))
    }

    /// The number of times that a member has missed a payload, see [`FullPolicy::Skip`].
    pub fn missed(&self) -> u64 {
        self.shared.missed.load(Relaxed)
    }

    /// Sends `bytes` to all members. They leave in the task phase of each loop, that of this thread
    /// included, or earlier if a member of any group ends its output on that loop.
    ///
    /// # Errors
    /// [`SendError::Full`] if more than 16 MiB would be in transit to a loop, and with
    /// [`FullPolicy::Refuse`] if a member is full. No member gets the payload then.
    /// [`SendError::Closed`] in a forked child of the process that created the group.
    pub fn send(&self, bytes: impl Into<Arc<[u8]>>) -> Result<(), SendError> {
        let bytes = bytes.into();
        if !self.shared.process.is_current() {
            return Err(SendError::Closed);
        }
        let mut loops = self.shared.loops.lock();
        let has_members = |on_loop: &LoopMembers| !on_loop.members.is_empty();
        let mut receiving = loops.iter().filter(|on_loop| has_members(on_loop));
        if receiving.any(|on_loop| !on_loop.accepts(bytes.len(), self.shared.policy)) {
            return Err(SendError::Full);
        }
        let mut to_notify = Vec::new();
        for on_loop in loops.iter_mut().filter(|on_loop| has_members(on_loop)) {
            // Under the lock, so that a list that is not empty has a delivery.
            let added = match on_loop.add(&bytes) {
                true => on_loop.event_loop.add_delivery(Arc::clone(&self.shared) as Arc<dyn Deliver>),
                false => Some(false),
            };
            match added {
                Some(true) => to_notify.push(on_loop.event_loop.clone()),
                Some(false) => {}
                // The loop has ended, and its members with it.
                None => on_loop.clear(),
            }
        }
        drop(loops);
        to_notify.iter().for_each(LoopHandle::notify_of_deliveries);
        Ok(())
    }
}

impl Shared {
    /// The members on a loop.
    fn members_on<R>(&self, event_loop: &LoopHandle, f: impl FnOnce(&mut LoopMembers) -> R) -> Option<R> {
        let mut loops = self.loops.lock();
        loops.iter_mut().find(|on_loop| on_loop.event_loop.is_same_loop(event_loop)).map(f)
    }
}

impl Deliver for Shared {
    /// Delivers the payloads that are on their way to this loop.
    fn deliver(&self, event_loop: &EventLoop) {
        let handle = event_loop.handle();
        let deliveries = self.members_on(&handle, LoopMembers::take).unwrap_or_default();
        let mut closed = Vec::new();
        // Payloads with the same members are sent together.
        for run in deliveries.chunk_by(|one, next| Arc::ptr_eq(&one.members, &next.members)) {
            let mut send = GroupSend::new(run.iter().map(|delivery| &delivery.bytes), self.policy);
            for member in run[0].members.iter() {
                send.outcome = Outcome::Closed;
                event_loop.send_control(member.channel(), &mut send);
                match send.outcome {
                    Outcome::Sent { missed } => _ = self.missed.fetch_add(missed, Relaxed),
                    Outcome::Closed => closed.push(member.id()),
                }
            }
        }
        drop(deliveries);
        if !closed.is_empty() {
            self.members_on(&handle, |on_loop| {
                closed.into_iter().for_each(|member| _ = on_loop.leave(member))
            });
        }
    }
}

impl LoopMembers {
    fn new(event_loop: &LoopHandle) -> LoopMembers {
        LoopMembers {
            event_loop: event_loop.clone(),
            members: Arc::default(),
            prune_at: 64,
            deliveries: Vec::new(),
            in_transit: 0,
        }
    }

    fn find(&self, member: ConnectionId) -> Result<usize, usize> {
        self.members.binary_search_by_key(&member, ConnectionHandle::id)
    }

    fn join(&mut self, member: &ConnectionHandle) {
        let Err(at) = self.find(member.id()) else { return };
        let members = Arc::make_mut(&mut self.members);
        members.insert(at, member.clone());
        // A group that is not sent to keeps at most as many closed members as open ones.
        if members.len() >= self.prune_at {
            members.retain(ConnectionHandle::is_open);
            self.prune_at = 2 * members.len().max(32);
        }
    }

    fn leave(&mut self, member: ConnectionId) -> bool {
        let found = self.find(member);
        if let Ok(at) = found {
            Arc::make_mut(&mut self.members).remove(at);
        }
        found.is_ok()
    }

    /// Whether a payload of `len` bytes is accepted.
    fn accepts(&self, len: usize, policy: FullPolicy) -> bool {
        let fits = |member: &ConnectionHandle| member.has_room_for(self.in_transit.saturating_add(len));
        len <= MAX_IN_TRANSIT.saturating_sub(self.in_transit)
            && (policy != FullPolicy::Refuse || self.members.iter().all(fits))
    }

    /// Adds a payload. Returns whether it is the first, so that the loop needs a delivery.
    fn add(&mut self, bytes: &Arc<[u8]>) -> bool {
        self.in_transit += bytes.len();
        self.deliveries.push(Delivery { bytes: Arc::clone(bytes), members: Arc::clone(&self.members) });
        self.deliveries.len() == 1
    }

    fn take(&mut self) -> Vec<Delivery> {
        self.in_transit = 0;
        mem::take(&mut self.deliveries)
    }

    /// Whether the loop has ended, and nothing is on its way to it.
    fn is_unused(&self) -> bool {
        self.event_loop.has_ended() && self.deliveries.is_empty()
    }

    fn clear(&mut self) {
        self.members = Arc::default();
        self.deliveries = Vec::new();
        self.in_transit = 0;
    }
}

impl fmt::Debug for ConnectionGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionGroup")
            .field("policy", &self.shared.policy)
            .field("members", &self.len())
            .finish_non_exhaustive()
    }
}
