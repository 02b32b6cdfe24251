//! [`GroupMap`]: groups by name.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{ConnectionGroup, FullPolicy};
use crate::event_loop::process_mark::ProcessMark;
use crate::net::connection::{ConnectionHandle, ConnectionId};
use crate::net::result::SendError;

/// [Groups](ConnectionGroup) by key, such as rooms or topics. A group exists while it has members.
/// Clones refer to the same groups. All methods can be called from any thread. Payloads of
/// different groups may arrive in another order than they are sent in.
///
/// `Hash` and `Eq` of the keys run while a lock is held, so they must not use the map. The
/// destructors of keys run without it.
pub struct GroupMap<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    policy: FullPolicy,
    groups: Mutex<Groups<K>>,
    process: ProcessMark,
}

struct Groups<K> {
    groups: HashMap<K, ConnectionGroup>,
    /// The number of groups from which on empty ones are searched for.
    prune_at: usize,
}

impl<K> Clone for GroupMap<K> {
    fn clone(&self) -> GroupMap<K> {
        GroupMap { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Eq + Hash> GroupMap<K> {
    /// Creates a map without groups. `policy` applies to all of them.
    pub fn new(policy: FullPolicy) -> GroupMap<K> {
        let groups = Mutex::new(Groups { groups: HashMap::new(), prune_at: 64 });
        GroupMap { shared: Arc::new(Shared { policy, groups, process: ProcessMark::current() }) }
    }

    /// Adds a connection to the group of `key`; see [`ConnectionGroup::join`].
    pub fn join(&self, key: K, member: &ConnectionHandle) {
        if !self.shared.process.is_current() {
            return;
        }
        let mut locked = self.shared.groups.lock();
        let Groups { groups, prune_at } = &mut *locked;
        let unused_key = match groups.get(&key) {
            Some(group) => {
                group.join(member);
                Some(key)
            }
            None => {
                let group = ConnectionGroup::new(self.shared.policy);
                group.join(member);
                // A closed connection does not join, and a group without members is not kept.
                match group.is_empty() {
                    true => Some(key),
                    false => {
                        groups.insert(key, group);
                        None
                    }
                }
            }
        };
        let mut closed = HashMap::new();
        // Members that have closed are found only by a send to their group.
        if groups.len() >= *prune_at {
            (*groups, closed) = mem::take(groups).into_iter().partition(|(_, group)| group.has_open_member());
            *prune_at = 2 * groups.len().max(32);
        }
        drop(locked);
        // The destructors of keys are the user's code, so they run without the lock.
        drop((unused_key, closed));
    }

    /// Removes a connection from the group of `key`. Returns whether it was a member.
    pub fn leave<Q>(&self, key: &Q, member: ConnectionId) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.shared.process.is_current() {
            return false;
        }
        let mut groups = self.shared.groups.lock();
        let Some(group) = groups.groups.get(key) else { return false };
        let was_member = group.leave(member);
        let removed = if group.is_empty() { groups.groups.remove_entry(key) } else { None };
        drop(groups);
        drop(removed);
        was_member
    }

    /// The group of `key`, if it has members. A connection that joins the returned group after its
    /// last member has left may not be in the map.
    pub fn get<Q>(&self, key: &Q) -> Option<ConnectionGroup>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.shared.process.is_current() {
            return None;
        }
        let mut groups = self.shared.groups.lock();
        let group = groups.groups.get(key)?;
        if !group.is_empty() {
            return Some(group.clone());
        }
        // All members have closed, or have left through a group that was returned here.
        let removed = groups.groups.remove_entry(key);
        drop(groups);
        drop(removed);
        None
    }

    /// Sends `bytes` to the members of the group of `key`; see [`ConnectionGroup::send`]. Without
    /// members nothing is sent, which is not an error.
    ///
    /// # Errors
    /// Same as [`ConnectionGroup::send`].
    pub fn send<Q>(&self, key: &Q, bytes: impl Into<Arc<[u8]>>) -> Result<(), SendError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.shared.process.is_current() {
            return Err(SendError::Closed);
        }
        self.get(key).map_or(Ok(()), |group| group.send(bytes))
    }
}

impl<K> fmt::Debug for GroupMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupMap").field("policy", &self.shared.policy).finish_non_exhaustive()
    }
}
