//! `Budget`: the memory limit of all connections together, and the selection of connections to
//! close when it is exceeded.
//!
//! Each connection that holds any bytes has an [`Account`]. Accounts and the total are atomic
//! counters, so a change takes no lock. The thread whose change takes the total above the limit
//! selects connections under the ledger's lock, enough of them to reduce the total to seven eighths
//! of the limit. Their loops reset them. Their bytes stay in the total until they are closed, but
//! no longer count towards the limit, so that one excess causes one selection.
//!
//! Above three quarters of the limit memory is [scarce](Budget::is_scarce): connections buffer
//! fewer replies. This reduces the throughput of peers that read. In return it bounds the memory of
//! peers that do not read, before any connection has to be closed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::logger;
use crate::event_loop::process_mark::PerProcess;
use crate::event_loop::trimming::allocator;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::group::memory_limit;

/// The default budget is the memory available to the process divided by this. The rest is for the
/// program, and for the allocator's overhead on top of the counted blocks.
const SHARE: u64 = 4;

/// The shortest interval between two warnings.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// A byte counter with a limit, shared by the connections of any number of groups and threads.
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// The part of `used` that belongs to connections selected for closing.
    condemned: AtomicUsize,
    origin: Instant,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// Keyed by account number. A tree retains no memory for removed entries.
    accounts: BTreeMap<u64, Arc<Account>>,
    next_number: u64,
    /// The number of connections selected for closing since the last warning.
    unreported: u64,
    last_warning: Option<Instant>,
}

/// Control message that makes a connection close, because the budget is exceeded.
pub(in crate::net) struct Condemned;

impl Budget {
    pub(in crate::net) fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
            condemned: AtomicUsize::new(0),
            origin: Instant::now(),
            ledger: Mutex::default(),
        })
    }

    #[cfg(feature = "inspector")]
    pub(in crate::net) fn limit(&self) -> usize {
        self.limit
    }

    /// The budget of all groups without a limit of their own: a quarter of the memory that is
    /// available to the process at the first call.
    pub(in crate::net) fn of_this_process() -> Arc<Budget> {
        static BUDGET: PerProcess<Arc<Budget>> = PerProcess::new();
        let budget = BUDGET.get(|| {
            let share = memory_limit::of_this_process() / SHARE;
            Budget::new(usize::try_from(share).unwrap_or(usize::MAX))
        });
        Arc::clone(budget)
    }

    /// Whether connections should buffer less. Costs one relaxed load.
    #[inline]
    pub(in crate::net) fn is_scarce(&self) -> bool {
        self.used.load(Relaxed) > self.limit - self.limit / 4
    }

    /// Whether `more` bytes would exceed the hard limit, which is twice the limit. The loops need
    /// some time to close connections; the hard limit bounds the memory used until then.
    pub(in crate::net) fn is_exhausted_by(&self, more: usize) -> bool {
        self.used.load(Relaxed).saturating_add(more) > self.limit.saturating_mul(2)
    }

    /// How many bytes a connection that can wait may add at once: a quarter of what is left. They
    /// may be in a block of twice their size, which then leaves half of it to the others.
    pub(in crate::net) fn share(&self) -> usize {
        self.limit.saturating_sub(self.used.load(Relaxed)) / 4
    }

    /// Opens an account for a connection. Its bytes are also counted in `total`.
    pub(in crate::net) fn open(
        self: &Arc<Budget>,
        event_loop: &LoopHandle,
        connection: ChannelId,
        total: &Arc<AtomicUsize>,
    ) -> Arc<Account> {
        let mut ledger = self.ledger.lock();
        let number = ledger.next_number;
        ledger.next_number += 1;
        let account = Arc::new(Account {
            budget: Arc::clone(self),
            number,
            event_loop: event_loop.clone(),
            connection,
            total: Arc::clone(total),
            held: AtomicUsize::new(0),
            moved: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            condemned: AtomicUsize::new(0),
            is_condemned: AtomicBool::new(false),
        });
        ledger.accounts.insert(number, Arc::clone(&account));
        account
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    fn excess(&self) -> usize {
        let used = self.used.load(SeqCst).saturating_sub(self.condemned.load(SeqCst));
        used.saturating_sub(self.limit)
    }

    /// If the connections that are not yet selected exceed the limit, selects some of them and
    /// makes their loops close them.
    #[cold]
    fn enforce(&self) {
        let now = self.millis(Instant::now());
        let mut ledger = self.ledger.lock();
        let excess = self.excess();
        if excess == 0 {
            return;
        }
        let holdings = ledger.accounts.iter().filter(|(_, account)| !account.is_condemned.load(SeqCst));
        let holdings = holdings.map(|(&number, account)| Holding {
            number,
            bytes: account.held.load(SeqCst),
            idle: now.saturating_sub(account.since.load(Relaxed)),
        });
        let chosen = select(holdings.collect(), excess + self.limit / 8);
        let chosen: Vec<Arc<Account>> =
            chosen.into_iter().map(|holding| Arc::clone(&ledger.accounts[&holding.number])).collect();
        for account in &chosen {
            account.is_condemned.store(true, SeqCst);
            let held = account.held.load(SeqCst);
            account.condemned.store(held, SeqCst);
            self.condemned.fetch_add(held, SeqCst);
        }
        ledger.unreported += chosen.len() as u64;
        drop(ledger);
        for account in chosen {
            let connection = account.connection;
            // Posted, because this function may be called inside a send of any connection. When the
            // loop runs the task, nothing is borrowed.
            account.event_loop.clone().post_internal(move |event_loop: &EventLoop| {
                event_loop.send_control(connection, &mut Condemned);
                account.budget.warn();
            });
        }
    }

    /// Logs the number of connections selected since the last warning, at most once a second.
    fn warn(&self) {
        let now = Instant::now();
        let mut ledger = self.ledger.lock();
        let is_due = ledger.last_warning.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        if ledger.unreported == 0 || !is_due {
            return;
        }
        ledger.last_warning = Some(now);
        let closed = std::mem::take(&mut ledger.unreported);
        drop(ledger);
        let limit = self.limit;
        logger::call(|| {
            log::warn!(
                "memory of connections exceeded {limit} bytes: closed {closed} since the last warning"
            );
        });
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limit", &self.limit).field("used", &self.used).finish_non_exhaustive()
    }
}

/// Counts the bytes that one connection holds.
pub(crate) struct Account {
    budget: Arc<Budget>,
    /// Unique within the budget.
    number: u64,
    event_loop: LoopHandle,
    connection: ChannelId,
    /// The total of the connection's group.
    total: Arc<AtomicUsize>,
    held: AtomicUsize,
    /// The number of bytes that have left the connection since `since`.
    moved: AtomicUsize,
    /// The time of the last progress, in milliseconds since the budget's `origin`.
    since: AtomicU64,
    /// The number of bytes that the connection held when it was selected for closing.
    condemned: AtomicUsize,
    is_condemned: AtomicBool,
}

impl Account {
    pub(in crate::net) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Adds `bytes`, and closes connections if that exceeds the budget. Must not be called under a
    /// lock.
    pub(in crate::net) fn add(&self, bytes: usize) {
        self.count(bytes);
        self.enforce();
    }

    /// Adds `bytes` without closing connections. The caller calls [`enforce`](Account::enforce)
    /// afterwards.
    pub(in crate::net) fn count(&self, bytes: usize) {
        if self.held.fetch_add(bytes, SeqCst) == 0 {
            self.since.store(self.budget.millis(Instant::now()), Relaxed);
            self.moved.store(0, Relaxed);
        }
        self.total.fetch_add(bytes, Relaxed);
        self.budget.used.fetch_add(bytes, SeqCst);
        allocator::add_held(bytes);
    }

    /// Closes connections if the budget is exceeded. Must not be called under a lock.
    pub(in crate::net) fn enforce(&self) {
        if self.budget.excess() > 0 {
            self.budget.enforce();
        }
    }

    /// Subtracts `bytes`.
    pub(in crate::net) fn subtract(&self, bytes: usize) {
        self.held.fetch_sub(bytes, SeqCst);
        self.total.fetch_sub(bytes, Relaxed);
        self.budget.used.fetch_sub(bytes, SeqCst);
        allocator::subtract_held(bytes);
    }

    /// Records that `bytes` have left the connection, to the kernel or to the handler.
    ///
    /// The connection has made progress when an eighth of the held bytes has left. A peer that
    /// reads only a few bytes at long intervals therefore makes no progress.
    pub(in crate::net) fn record_moved(&self, bytes: usize) {
        let moved = self.moved.fetch_add(bytes, Relaxed) + bytes;
        if moved >= self.held.load(Relaxed) / 8 {
            self.since.store(self.budget.millis(Instant::now()), Relaxed);
            self.moved.store(0, Relaxed);
        }
    }

    /// Removes the account and the bytes it holds. To be called when the connection has ended.
    pub(in crate::net) fn close(&self) {
        let mut ledger = self.budget.ledger.lock();
        ledger.accounts.remove(&self.number);
        // Under the lock, so that `enforce` cannot select the account in between.
        self.budget.condemned.fetch_sub(self.condemned.swap(0, SeqCst), SeqCst);
        let held = self.held.swap(0, SeqCst);
        self.total.fetch_sub(held, Relaxed);
        self.budget.used.fetch_sub(held, SeqCst);
        allocator::subtract_held(held);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("held", &self.held).finish_non_exhaustive()
    }
}

/// A snapshot of an account for [`select`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holding {
    number: u64,
    bytes: usize,
    /// The milliseconds since the last progress.
    idle: u64,
}

impl Holding {
    /// The bytes held times the milliseconds without progress.
    fn weight(&self) -> u128 {
        self.bytes as u128 * u128::from(self.idle + 1)
    }
}

/// Selects holdings in descending order of weight, until they add up to at least `bytes` or all are
/// selected.
fn select(mut holdings: Vec<Holding>, bytes: usize) -> Vec<Holding> {
    holdings.retain(|holding| holding.bytes > 0);
    holdings.sort_unstable_by_key(|holding| std::cmp::Reverse(holding.weight()));
    let mut chosen = 0;
    let is_enough = |holding: &Holding| {
        let was_enough = chosen >= bytes;
        chosen = chosen.saturating_add(holding.bytes);
        was_enough
    };
    let count = holdings.iter().position(is_enough).unwrap_or(holdings.len());
    holdings.truncate(count);
    holdings
}

#[cfg(test)]
mod tests;
