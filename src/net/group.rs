//! `Group`: the connections of one server over all its loops, or the one connection of a client.
//!
//! Each loop owns its connections; the group keeps their ids and counts. A connection belongs to
//! its group through a [`Membership`], from the moment it is accepted or initiated. So the counts
//! stay correct however the connection ends, also on its way to a loop that has ended.

pub(in crate::net) mod admission;
pub(in crate::net) mod budget;
pub(crate) mod memory_limit;
pub(in crate::net) mod peer_key;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use self::admission::{Admission, AdmissionGuard, Quota};
use self::budget::{Account, Budget};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::filter::FilterFactories;
use crate::net::limits::ConnectionLimits;

/// The stages in the life of a group, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    Serving,
    /// Connections send their queued output and end.
    Draining,
    /// Connections are closed at once: the server or client was dropped, or the client was stopped.
    Aborting,
    /// Connections are reset: the deadline of a stop has passed.
    Resetting,
}

/// The numbers of connections that ended each way after a server was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StopReport {
    /// Connections that ended before the deadline: all their output was passed to the kernel, or
    /// their peers had disconnected.
    pub ended_in_time: u64,
    /// Connections that were reset at the deadline, and those that were on their way to a loop when
    /// the stop began and so never had a handler.
    pub aborted: u64,
}

pub(super) type WhenEmpty = Contained<Box<dyn FnOnce(&EventLoop, StopReport) + Send>>;

pub(crate) struct Group {
    pub(crate) limits: ConnectionLimits,
    pub(super) filters: FilterFactories,
    pub(super) admission: Admission,
    budget: Arc<Budget>,
    /// The bytes that the connections hold together.
    buffered: Arc<AtomicUsize>,
    stage: AtomicU8,
    ended_in_time: AtomicU64,
    aborted: AtomicU64,
    /// The number of listeners that are not closed yet.
    listeners: AtomicU64,
    shards: Vec<Shard>,
    /// The process that created the group. A forked child does not touch the group: its locks may
    /// be held by threads that exist only in the parent.
    process: ProcessMark,
    /// The callbacks to run when the last connection has ended, each with its loop.
    when_empty: Mutex<Vec<(LoopHandle, WhenEmpty)>>,
    /// Sources to be removed from their loops then.
    attached: Mutex<Vec<(LoopHandle, ChannelId)>>,
    /// Listeners and attached sources do not keep a loop running that runs until it is idle.
    excluded_from_idle: AtomicBool,
}

struct Shard {
    event_loop: LoopHandle,
    /// Whether the loop is known to have ended, or to be about to.
    ended: AtomicBool,
    open: AtomicU64,
    /// The connections on the loop. A tree retains no memory for removed entries.
    members: Mutex<BTreeSet<ChannelId>>,
}

impl Group {
    /// `max_buffered` limits the memory of all connections together. With `None` the group uses the
    /// budget that all such groups of the process share.
    pub(super) fn new(
        limits: ConnectionLimits,
        filters: FilterFactories,
        max_buffered: Option<usize>,
        quota: Quota,
        loops: impl IntoIterator<Item = LoopHandle>,
    ) -> Arc<Group> {
        let shards = loops.into_iter().map(|event_loop| Shard {
            event_loop,
            ended: AtomicBool::new(false),
            open: AtomicU64::new(0),
            members: Mutex::default(),
        });
        let admission = Admission::new(quota, !filters.is_empty());
        Arc::new(Group {
            limits,
            filters,
            admission,
            budget: max_buffered.map_or_else(Budget::of_this_process, Budget::new),
            buffered: Arc::default(),
            stage: AtomicU8::new(Stage::Serving as u8),
            ended_in_time: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            shards: shards.collect(),
            process: ProcessMark::current(),
            when_empty: Mutex::default(),
            attached: Mutex::default(),
            excluded_from_idle: AtomicBool::new(false),
        })
    }

    /// Whether this is a forked child of the process that created the group.
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

    /// Whether the loop has not ended. The first call after its end logs that.
    pub(super) fn is_alive(&self, shard: usize) -> bool {
        let Shard { event_loop, ended, .. } = &self.shards[shard];
        if ended.load(SeqCst) {
            return false;
        }
        let is_alive = !event_loop.has_ended();
        if !is_alive {
            self.mark_ended(shard);
        }
        is_alive
    }

    /// Marks the loop as ended or about to end. It gets no more connections. Logged once per loop.
    pub(super) fn mark_ended(&self, shard: usize) {
        if !self.shards[shard].ended.swap(true, SeqCst) {
            let left = self.live_loops();
            logger::call(|| {
                log::warn!("loop {shard} of a server has ended; {left} of {} remain", self.shards());
            });
        }
    }

    /// The number of loops that have not ended.
    pub(super) fn live_loops(&self) -> usize {
        let is_alive = |shard: &&Shard| !shard.ended.load(SeqCst) && !shard.event_loop.has_ended();
        self.shards.iter().filter(is_alive).count()
    }

    /// The number of open connections of a loop, including those on their way to it.
    pub(super) fn open_on(&self, shard: usize) -> u64 {
        self.shards[shard].open.load(SeqCst)
    }

    /// The number of open connections, including those on their way to a loop.
    pub(crate) fn open(&self) -> u64 {
        self.shards.iter().map(|shard| shard.open.load(SeqCst)).sum()
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(SeqCst) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            2 => Stage::Aborting,
            _ => Stage::Resetting,
        }
    }

    pub(super) fn join(self: &Arc<Group>, shard: usize, admitted: AdmissionGuard) -> Membership {
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

    /// Calls `when_empty` on `home` once no connection and no listener is left; at once if that is
    /// so already.
    pub(crate) fn call_when_empty(&self, home: LoopHandle, when_empty: WhenEmpty) {
        self.when_empty.lock().push((home, when_empty));
        self.check_empty();
    }

    /// Attaches a source of this thread's loop to the group: it is removed from the loop once no
    /// connection and no listener is left, before the callbacks for that moment are called.
    pub(super) fn attach(&self, event_loop: &EventLoop, id: ChannelId) {
        self.attached.lock().push((event_loop.handle(), id));
        if self.excluded_from_idle.load(SeqCst) {
            event_loop.set_counted(id, false);
        }
        self.check_empty();
    }

    /// Sets whether the listeners and the attached sources keep their loops running.
    pub(super) fn set_counted(&self, counted: bool) {
        self.excluded_from_idle.store(!counted, SeqCst);
        self.admission.set_counted(counted);
        for (event_loop, id) in &*self.attached.lock() {
            let id = *id;
            event_loop.run_internal(move |event_loop| event_loop.set_counted(id, counted));
        }
    }

    /// Detaches and returns all sources, which the caller removes.
    pub(super) fn take_attached(&self) -> Vec<(LoopHandle, ChannelId)> {
        std::mem::take(&mut *self.attached.lock())
    }

    /// Advances the group to `stage` and notifies every connection.
    ///
    /// The connections of this thread's loop are notified before this returns, so that none of them
    /// gets another callback first. A connection on its way to its loop sees the stage when it
    /// arrives.
    pub(crate) fn advance(self: &Arc<Group>, stage: Stage) {
        self.stage.fetch_max(stage as u8, SeqCst);
        for (number, shard) in self.shards.iter().enumerate() {
            let group = Arc::clone(self);
            // The connections of a loop that has ended have ended with it.
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

    /// The bytes of memory that the connections use for unsent output and unread input.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Relaxed)
    }

    /// Does what is left to do if the group has no connection and no listener any more.
    pub(super) fn check_empty(&self) {
        if self.stage() == Stage::Serving || self.listeners.load(SeqCst) > 0 || self.open() > 0 {
            return;
        }
        for (event_loop, id) in self.take_attached() {
            // Deferred: this may be inside a callback, and the source drops values of the user. A
            // loop that has ended has dropped the source.
            event_loop.post_internal(move |event_loop| event_loop.remove(id));
        }
        // Taken under the lock, so that the last connection and `call_when_empty` cannot both run a
        // callback. They run, or are dropped, without the lock.
        let taken = std::mem::take(&mut *self.when_empty.lock());
        for (home, when_empty) in taken {
            let report = StopReport {
                ended_in_time: self.ended_in_time.load(SeqCst),
                aborted: self.aborted.load(SeqCst),
            };
            if !home.post_internal(move |event_loop| when_empty.into_inner()(event_loop, report)) {
                logger::call(|| log::debug!("a server has stopped after its loop ended"));
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

/// The membership of a connection in its group. Dropping it removes the connection from all counts.
#[derive(Debug)]
pub(crate) struct Membership {
    group: Arc<Group>,
    shard: usize,
    /// The connection's id on its loop, once it is registered there.
    listed: Option<ChannelId>,
    admitted: AdmissionGuard,
    /// Opened when the connection first holds any bytes.
    account: OnceLock<Arc<Account>>,
}

impl Membership {
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    pub(crate) fn event_loop(&self) -> &LoopHandle {
        self.group.event_loop(self.shard)
    }

    /// The connection's memory account, opened by the first call. The connection must be on its
    /// loop.
    pub(super) fn account(&self) -> &Arc<Account> {
        self.account.get_or_init(|| {
            let id = self.listed.expect("a connection that is on its loop");
            self.group.budget.open(self.event_loop(), id, &self.group.buffered)
        })
    }

    /// Same as [`account`](Membership::account); `None` if the connection has never held any bytes.
    pub(super) fn opened_account(&self) -> Option<&Account> {
        self.account.get().map(|account| &**account)
    }

    /// The index of the loop that the connection is assigned to.
    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Assigns the connection, which must not be on a loop yet, to another loop.
    pub(super) fn move_to(&mut self, shard: usize) {
        debug_assert!(self.listed.is_none(), "it is on its way");
        self.group.shards[shard].open.fetch_add(1, SeqCst);
        self.group.shards[self.shard].open.fetch_sub(1, SeqCst);
        self.shard = shard;
    }

    /// Whether the connection was accepted by a server with filters, and their handshakes are not
    /// completed.
    pub(super) fn is_in_handshake(&self) -> bool {
        self.admitted.is_in_handshake()
    }

    /// The handshakes of the filters are completed. Without effect on a connection that was not
    /// accepted.
    pub(super) fn end_handshake(&self) {
        self.group.admission.end_handshake(&self.admitted);
    }

    /// Registers the connection's id, so that the group can notify it.
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
            Stage::Draining if self.listed.is_some() => _ = self.group.ended_in_time.fetch_add(1, SeqCst),
            Stage::Draining | Stage::Aborting | Stage::Resetting => {
                _ = self.group.aborted.fetch_add(1, SeqCst)
            }
        }
        self.group.shards[self.shard].open.fetch_sub(1, SeqCst);
        self.group.admission.release(&self.admitted);
        self.group.check_empty();
    }
}
