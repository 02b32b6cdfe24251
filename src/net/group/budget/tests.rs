use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::{Account, Budget, Holding, Ledger, WARNING_INTERVAL, select};
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelTable;

fn holding(number: u64, bytes: usize, idle: u64) -> Holding {
    Holding { number, bytes, idle }
}

fn numbers(chosen: &[Holding]) -> Vec<u64> {
    chosen.iter().map(|holding| holding.number).collect()
}

#[test]
fn the_largest_and_slowest_connections_are_selected_first() {
    let all = vec![
        holding(0, 1000, 0),
        holding(1, 1000, 500),
        holding(2, 10, 5000),
        holding(3, 4000, 100),
        holding(4, 0, 100_000),
        holding(5, 4000, 300),
    ];
    assert_eq!(numbers(&select(all.clone(), 1)), [5]);
    assert_eq!(numbers(&select(all.clone(), 4000)), [5]);
    assert_eq!(numbers(&select(all.clone(), 8500)), [5, 1, 3]);
    assert_eq!(numbers(&select(all, usize::MAX)), [5, 1, 3, 2, 0], "an empty account is never selected");
    assert_eq!(select(Vec::new(), 1), []);
}

/// Opens an account of a connection that does not exist, so that none is really closed.
fn open(budget: &Arc<Budget>, event_loop: &EventLoop) -> (Arc<Account>, Arc<AtomicUsize>) {
    let total = Arc::default();
    let missing = ChannelTable::<()>::new().insert_with(|_| ());
    (budget.open(&event_loop.handle(), missing, &total), total)
}

#[test]
fn an_excess_is_handled_once_by_one_connection() {
    let event_loop = EventLoop::new().unwrap();
    let budget = Budget::new(1000);
    let (large, total) = open(&budget, &event_loop);
    let (small, _) = open(&budget, &event_loop);
    large.add(700);
    small.add(300);
    assert_eq!(budget.condemned.load(SeqCst), 0, "at the limit");
    small.add(1);
    assert_eq!(budget.condemned.load(SeqCst), 700);
    small.add(600);
    assert!(!small.is_condemned.load(SeqCst), "the others hold 901");
    assert_eq!((budget.used.load(SeqCst), total.load(SeqCst)), (1601, 700));
    assert!(budget.is_exhausted_by(400) && !budget.is_exhausted_by(399));
    large.close();
    assert_eq!((budget.used.load(SeqCst), budget.condemned.load(SeqCst), total.load(SeqCst)), (901, 0, 0));
    assert!(budget.is_scarce());
    small.subtract(151);
    assert!(!budget.is_scarce(), "three quarters");
    small.close();
    assert_eq!((budget.used.load(SeqCst), budget.ledger.lock().accounts.len()), (0, 0));
}

#[test]
fn an_excess_closes_down_to_seven_eighths() {
    let event_loop = EventLoop::new().unwrap();
    let budget = Budget::new(1000);
    let accounts: Vec<_> = (0..10).map(|_| open(&budget, &event_loop).0).collect();
    accounts.iter().for_each(|account| account.add(100));
    accounts[0].add(1);
    // One account would suffice to reach the limit itself.
    assert!(matches!(budget.condemned.load(SeqCst), 200 | 201));
    accounts.iter().for_each(|account| account.close());
}

#[test]
fn less_than_an_eighth_is_no_progress() {
    let event_loop = EventLoop::new().unwrap();
    let budget = Budget::new(1 << 20);
    let (account, _) = open(&budget, &event_loop);
    account.add(800);
    let long_ago = u64::MAX;
    account.since.store(long_ago, SeqCst);
    (0..99).for_each(|_| account.record_moved(1));
    assert_eq!(account.since.load(SeqCst), long_ago);
    account.record_moved(1);
    assert_ne!(account.since.load(SeqCst), long_ago, "an eighth");
    account.close();
}

#[test]
fn warnings_are_at_least_a_second_apart() {
    let budget = Budget::new(1);
    budget.ledger.lock().unreported = 2;
    budget.warn();
    assert_eq!(budget.ledger.lock().unreported, 0);
    // In the future, so that the interval has not passed on a slow machine either.
    let later = Instant::now() + Duration::from_secs(3600);
    *budget.ledger.lock() = Ledger { unreported: 3, last_warning: Some(later), ..Ledger::default() };
    budget.warn();
    assert_eq!(budget.ledger.lock().unreported, 3);
    budget.ledger.lock().last_warning = Instant::now().checked_sub(WARNING_INTERVAL);
    budget.warn();
    assert_eq!(budget.ledger.lock().unreported, 0);
}

#[test]
fn concurrent_changes_add_up_to_zero() {
    let event_loop = EventLoop::new().unwrap();
    let budget = Budget::new(10);
    let accounts: Vec<_> = (0..3).map(|_| open(&budget, &event_loop).0).collect();
    thread::scope(|scope| {
        for account in &accounts {
            scope.spawn(|| {
                for _ in 0..1000 {
                    account.add(8);
                    account.subtract(8);
                }
                account.close();
            });
        }
    });
    assert_eq!((budget.used.load(SeqCst), budget.condemned.load(SeqCst)), (0, 0));
}

#[test]
fn groups_without_a_limit_share_one_budget() {
    assert!(Arc::ptr_eq(&Budget::of_this_process(), &Budget::of_this_process()));
    let limit = Budget::of_this_process().limit as u64;
    assert_eq!(limit, crate::net::group::memory_limit::of_this_process() / super::SHARE);
}
