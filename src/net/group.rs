//! The connections of one server, over all the loops that serve them; or the one connection of a client.
//!
//! A loop owns its connections; what the group keeps are their ids and counts. A connection belongs to its group through a
//! [`Membership`], from the moment it is accepted or begun: however it ends, also on its way to a loop that has gone, the count is right.

pub(in crate::net) mod admission;
pub(in crate::net) mod budget;
pub(crate) mod memory_limit;
pub(in crate::net) mod peer_key;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use self::admission::{Admission, Admitted, Quota};
use self::budget::{Account, Budget};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{EventLoop, LoopHandle};

/// The limits that every connection of a group keeps to; sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
    /// Whether a connection whose replies pass the high-water mark stops reading.
    pub(crate) pauses_for_replies: bool,
    pub(crate) max_unsent: usize,
    pub(crate) max_unread: usize,
    /// How long a connection may be idle, if that is limited.
    pub(crate) idle_timeout: Option<Duration>,
    /// What all of them may hold together; `None` for a share of the process's memory, with all other groups.
    pub(crate) max_buffered: Option<usize>,
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: usize = 1024;
        Limits {
            high_water: 4096 * KIB,
            low_water: 1024 * KIB,
            pauses_for_replies: true,
            max_unsent: 16 * 1024 * KIB,
            max_unread: 16 * 1024 * KIB,
            idle_timeout: None,
            max_buffered: None,
        }
    }
}

/// How far a group is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    Serving,
    /// Connections send what they owe, and end.
    Draining,
    /// Connections are closed now: the server or client is dropped, or closes its session.
    Cutting,
    /// Connections are reset now: the time of a stop is up.
    Resetting,
}

/// How the connections of a server ended that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StopReport {
    /// Ended by themselves within the time given: all that they owed was handed to the kernel, or their peers had gone.
    pub drained: u64,
    /// Cut off when the time was up; or on their way to a loop when the stop began, so that nobody has served them.
    pub aborted: u64,
}

pub(super) type WhenEmpty = Contained<Box<dyn FnOnce(&EventLoop, StopReport) + Send>>;

pub(crate) struct Group {
    pub(crate) limits: Limits,
    pub(super) admission: Admission,
    budget: Arc<Budget>,
    /// What the connections hold together.
    buffered: Arc<AtomicUsize>,
    stage: AtomicU8,
    drained: AtomicU64,
    aborted: AtomicU64,
    /// Listeners that are still there.
    listeners: AtomicU64,
    shards: Vec<Shard>,
    /// The process that has made the group. A forked child leaves all of it as it is: threads that are not there may hold the locks.
    process: ProcessMark,
    /// Where to say that the last connection has ended, and what to do then.
    when_empty: Mutex<Vec<(LoopHandle, WhenEmpty)>>,
}

struct Shard {
    event_loop: LoopHandle,
    /// The loop was found to have ended, or to be about to.
    ended: AtomicBool,
    open: AtomicU64,
    /// The connections that are on the loop. A tree keeps no room for those that have gone.
    members: Mutex<BTreeSet<ChannelId>>,
}

impl Group {
    pub(super) fn new(
        limits: Limits,
        quota: Quota,
        loops: impl IntoIterator<Item = LoopHandle>,
    ) -> Arc<Group> {
        let shards = loops.into_iter().map(|event_loop| Shard {
            event_loop,
            ended: AtomicBool::new(false),
            open: AtomicU64::new(0),
            members: Mutex::default(),
        });
        Arc::new(Group {
            limits,
            admission: Admission::new(quota),
            budget: limits.max_buffered.map_or_else(Budget::of_this_process, Budget::new),
            buffered: Arc::default(),
            stage: AtomicU8::new(Stage::Serving as u8),
            drained: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            shards: shards.collect(),
            process: ProcessMark::current(),
            when_empty: Mutex::default(),
        })
    }

    /// Whether this is a forked child of the process that has made the group.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn event_loop(&self, shard: usize) -> &LoopHandle {
        &self.shards[shard].event_loop
    }

    /// Whether the loop has not ended.
    pub(super) fn is_alive(&self, shard: usize) -> bool {
        let Shard { event_loop, ended, .. } = &self.shards[shard];
        if ended.load(SeqCst) {
            return false;
        }
        let is_alive = !event_loop.is_terminated();
        if !is_alive {
            self.note_end(shard);
        }
        is_alive
    }

    /// Notes that the loop has ended or is about to, which is logged once. It gets no more connections.
    pub(super) fn note_end(&self, shard: usize) {
        if !self.shards[shard].ended.swap(true, SeqCst) {
            let left = self.live_loops();
            logger::call(|| {
                log::warn!("loop {shard} of a server has ended; {left} of {} serve on", self.shards());
            });
        }
    }

    /// How many loops have not ended.
    pub(super) fn live_loops(&self) -> usize {
        let is_alive = |shard: &&Shard| !shard.ended.load(SeqCst) && !shard.event_loop.is_terminated();
        self.shards.iter().filter(is_alive).count()
    }

    /// How many connections a loop has, those on their way to it included.
    pub(super) fn open_on(&self, shard: usize) -> u64 {
        self.shards[shard].open.load(SeqCst)
    }

    /// How many connections there are, those on their way to a loop included.
    pub(crate) fn open(&self) -> u64 {
        self.shards.iter().map(|shard| shard.open.load(SeqCst)).sum()
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(SeqCst) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            2 => Stage::Cutting,
            _ => Stage::Resetting,
        }
    }

    pub(super) fn join(self: &Arc<Group>, shard: usize, admitted: Admitted) -> Membership {
        self.shards[shard].open.fetch_add(1, SeqCst);
        Membership { group: Arc::clone(self), shard, listed: None, admitted, account: OnceLock::new() }
    }

    pub(super) fn add_listener(&self) {
        self.listeners.fetch_add(1, SeqCst);
    }

    pub(super) fn remove_listener(&self) {
        if self.is_inherited() {
            return;
        }
        self.listeners.fetch_sub(1, SeqCst);
        self.check_empty();
    }

    /// Has `when_empty` called on `home` once no connection and no listener is left, which may be at once.
    pub(crate) fn call_when_empty(&self, home: LoopHandle, when_empty: WhenEmpty) {
        self.when_empty.lock().push((home, when_empty));
        self.check_empty();
    }

    /// Moves the group on, and has every connection look at it: those of this thread's loop before this returns, so that none of them
    /// is called first for something else. A connection that is still on its way to its loop will see the stage when it gets there.
    pub(crate) fn advance(self: &Arc<Group>, stage: Stage) {
        self.stage.fetch_max(stage as u8, SeqCst);
        for (number, shard) in self.shards.iter().enumerate() {
            let group = Arc::clone(self);
            // A loop that has gone has taken its connections with it.
            shard.event_loop.run_internal(move |event_loop| {
                let members: Vec<ChannelId> = group.shards[number].members.lock().iter().copied().collect();
                for id in members {
                    event_loop.notify(id);
                }
            });
        }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How much memory the connections take together, for what is unsent and unread.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Relaxed)
    }

    fn check_empty(&self) {
        if self.stage() == Stage::Serving || self.listeners.load(SeqCst) > 0 || self.open() > 0 {
            return;
        }
        // Taken under the lock, so the last connection and the one who waits cannot both call it; called, or dropped, without.
        let taken = std::mem::take(&mut *self.when_empty.lock());
        for (home, when_empty) in taken {
            let report =
                StopReport { drained: self.drained.load(SeqCst), aborted: self.aborted.load(SeqCst) };
            if !home.post_internal(move |event_loop| when_empty.into_inner()(event_loop, report)) {
                logger::call(|| log::debug!("a server has stopped whose loop has gone"));
            }
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("open", &self.open())
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}

/// A connection's place in its group, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    group: Arc<Group>,
    shard: usize,
    /// Where on its loop the connection is, once it is there and listed.
    listed: Option<ChannelId>,
    admitted: Admitted,
    /// Opened when the connection first holds something.
    account: OnceLock<Arc<Account>>,
}

impl Membership {
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    pub(crate) fn event_loop(&self) -> &LoopHandle {
        self.group.event_loop(self.shard)
    }

    /// What the connection holds. It is reachable by now.
    pub(super) fn account(&self) -> &Arc<Account> {
        self.account.get_or_init(|| {
            let id = self.listed.expect("a connection that is on its loop");
            self.group.budget.open(self.event_loop(), id, &self.group.buffered)
        })
    }

    /// As [`account`](Membership::account), of a connection that has ever held something.
    pub(super) fn opened_account(&self) -> Option<&Account> {
        self.account.get().map(|account| &**account)
    }

    /// The loop that the connection was dealt to.
    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Deals the connection, which is on no loop yet, to another loop.
    pub(super) fn move_to(&mut self, shard: usize) {
        debug_assert!(self.listed.is_none(), "it is on its way");
        self.group.shards[shard].open.fetch_add(1, SeqCst);
        self.group.shards[self.shard].open.fetch_sub(1, SeqCst);
        self.shard = shard;
    }

    /// Makes the connection reachable for the group.
    pub(crate) fn enlist(&mut self, id: ChannelId) {
        self.group.shards[self.shard].members.lock().insert(id);
        self.listed = Some(id);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.group.is_inherited() {
            return;
        }
        if let Some(account) = self.account.get() {
            account.close();
        }
        if let Some(id) = self.listed {
            self.group.shards[self.shard].members.lock().remove(&id);
        }
        match self.group.stage() {
            Stage::Serving => {}
            Stage::Draining if self.listed.is_some() => _ = self.group.drained.fetch_add(1, SeqCst),
            Stage::Draining | Stage::Cutting | Stage::Resetting => {
                _ = self.group.aborted.fetch_add(1, SeqCst)
            }
        }
        self.group.shards[self.shard].open.fetch_sub(1, SeqCst);
        self.group.admission.release(&self.admitted);
        self.group.check_empty();
    }
}
