//! How much memory connections may take together, and which of them are closed when it is more.
//!
//! Each connection that holds anything has an [`Account`]. Accounts and the total are atomic counts, so a change takes no lock. The
//! change that takes the total past the limit chooses connections under the ledger's lock and has their loops reset them, down to
//! seven eighths of the limit. Their bytes count until they have gone, but not again towards the limit, so that one excess is met once.
//!
//! From three quarters of the limit on it is [scarce](Budget::is_scarce): connections keep less of their replies. That costs
//! peers which read some of their throughput, and bounds what those take that do not read before any has to be closed.

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

/// What part of the memory that the process may use the connections may take. The rest is for the program, and for what the
/// allocator takes beside the blocks that are counted.
const SHARE: u64 = 4;

/// How often a warning is logged at most.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// A count of bytes with a limit, for the connections of any number of groups on any number of threads.
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// How much of that belongs to connections that have been chosen to be closed.
    condemned: AtomicUsize,
    origin: Instant,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// By their numbers. A tree keeps no room for those that have been closed.
    accounts: BTreeMap<u64, Arc<Account>>,
    next_number: u64,
    /// Connections that have been chosen to be closed since the last warning.
    unreported: u64,
    last_warning: Option<Instant>,
}

/// Says to a connection that it is to be closed, because the budget is exceeded.
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

    /// That of all groups which have no limit of their own: a quarter of the memory that the process may use when it is first asked
    /// for.
    pub(in crate::net) fn of_this_process() -> Arc<Budget> {
        static BUDGET: PerProcess<Arc<Budget>> = PerProcess::new();
        let budget = BUDGET.get(|| {
            let share = memory_limit::of_this_process() / SHARE;
            Budget::new(usize::try_from(share).unwrap_or(usize::MAX))
        });
        Arc::clone(budget)
    }

    /// Whether connections are to keep less, for a look that costs nothing.
    #[inline]
    pub(in crate::net) fn is_scarce(&self) -> bool {
        self.used.load(Relaxed) > self.limit - self.limit / 4
    }

    /// Whether `more` bytes cannot be taken at all. Closing connections takes their loops a moment; this bounds what is taken
    /// meanwhile.
    pub(in crate::net) fn is_exhausted_by(&self, more: usize) -> bool {
        self.used.load(Relaxed).saturating_add(more) > self.limit.saturating_mul(2)
    }

    /// Opens an account for a connection, which counts for `total` as well.
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

    /// Has connections closed, if the limit is exceeded by others than those that are being closed already.
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
        let chosen = choose(holdings.collect(), excess + self.limit / 8);
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
            // As an errand, for nothing is borrowed then: this may be in the middle of any connection's send.
            account.event_loop.clone().post_internal(move |event_loop: &EventLoop| {
                event_loop.send_control(connection, &mut Condemned);
                account.budget.warn();
            });
        }
    }

    /// Logs how many connections have been chosen to be closed, once a second at most.
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
                "connections held more than {limit} bytes together: closed {closed} since the last warning"
            );
        });
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limit", &self.limit).field("used", &self.used).finish_non_exhaustive()
    }
}

/// What one connection holds.
pub(crate) struct Account {
    budget: Arc<Budget>,
    /// Not given twice.
    number: u64,
    event_loop: LoopHandle,
    connection: ChannelId,
    /// Of the connection's group.
    total: Arc<AtomicUsize>,
    held: AtomicUsize,
    /// How many bytes have left the connection since `since`.
    moved: AtomicUsize,
    /// When the connection last made progress, in milliseconds from the budget's origin.
    since: AtomicU64,
    /// What the connection held when it was chosen to be closed.
    condemned: AtomicUsize,
    is_condemned: AtomicBool,
}

impl Account {
    pub(in crate::net) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The connection takes `bytes` more, which may have connections closed. Not to be called under a lock.
    pub(in crate::net) fn add(&self, bytes: usize) {
        self.count(bytes);
        self.enforce();
    }

    /// As [`add`](Account::add), to be followed by [`enforce`](Account::enforce).
    pub(in crate::net) fn count(&self, bytes: usize) {
        if self.held.fetch_add(bytes, SeqCst) == 0 {
            self.since.store(self.budget.millis(Instant::now()), Relaxed);
            self.moved.store(0, Relaxed);
        }
        self.total.fetch_add(bytes, Relaxed);
        self.budget.used.fetch_add(bytes, SeqCst);
        allocator::add_held(bytes);
    }

    pub(in crate::net) fn enforce(&self) {
        if self.budget.excess() > 0 {
            self.budget.enforce();
        }
    }

    /// The connection takes `bytes` less.
    pub(in crate::net) fn subtract(&self, bytes: usize) {
        self.held.fetch_sub(bytes, SeqCst);
        self.total.fetch_sub(bytes, Relaxed);
        self.budget.used.fetch_sub(bytes, SeqCst);
        allocator::subtract_held(bytes);
    }

    /// Notes that `bytes` have left the connection: taken by the kernel, or by the handler. It is progress when they are an eighth of
    /// what the connection holds, so that a peer which reads a byte now and then makes none.
    pub(in crate::net) fn note_moved(&self, bytes: usize) {
        let moved = self.moved.fetch_add(bytes, Relaxed) + bytes;
        if moved >= self.held.load(Relaxed) / 8 {
            self.since.store(self.budget.millis(Instant::now()), Relaxed);
            self.moved.store(0, Relaxed);
        }
    }

    /// The connection has gone, and with it what it held.
    pub(in crate::net) fn close(&self) {
        let mut ledger = self.budget.ledger.lock();
        ledger.accounts.remove(&self.number);
        // Under the lock, or the account could be chosen meanwhile.
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

/// What a connection holds, as [`choose`] looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holding {
    number: u64,
    bytes: usize,
    /// For how many milliseconds it has made no progress.
    idle: u64,
}

impl Holding {
    /// How much memory the connection has kept from others, in byte-milliseconds.
    fn weight(&self) -> u128 {
        self.bytes as u128 * u128::from(self.idle + 1)
    }
}

/// The holdings that together have `bytes` or more, those first that hold most and progress least.
fn choose(mut holdings: Vec<Holding>, bytes: usize) -> Vec<Holding> {
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
