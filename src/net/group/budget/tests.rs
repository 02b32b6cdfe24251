use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::{Account, Budget, Holding, Ledger, WARNING_INTERVAL, choose};
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelTable;

fn holding(number: u64, bytes: usize, idle: u64) -> Holding {
    Holding { number, bytes, idle }
}

fn numbers(chosen: &[Holding]) -> Vec<u64> {
    chosen.iter().map(|holding| holding.number).collect()
}

#[test]
fn those_that_hold_most_and_progress_least_are_chosen_first() {
    let all = vec![
        holding(0, 1000, 0),
        holding(1, 1000, 500),
        holding(2, 10, 5000),
        holding(3, 4000, 100),
        holding(4, 0, 100_000),
        holding(5, 4000, 300),
    ];
    assert_eq!(numbers(&choose(all.clone(), 1)), [5]);
    assert_eq!(numbers(&choose(all.clone(), 4000)), [5]);
    assert_eq!(numbers(&choose(all.clone(), 8500)), [5, 1, 3]);
    assert_eq!(numbers(&choose(all, usize::MAX)), [5, 1, 3, 2, 0], "none that holds nothing");
    assert_eq!(choose(Vec::new(), 1), []);
}

/// Accounts of connections that are not there, so that none is closed for real.
fn open(budget: &Arc<Budget>, event_loop: &EventLoop) -> (Arc<Account>, Arc<AtomicUsize>) {
    let total = Arc::default();
    let nowhere = ChannelTable::<()>::new().insert_with(|_| ());
    (budget.open(&event_loop.handle(), nowhere, &total), total)
}

#[test]
fn an_excess_condemns_one_and_is_met_once() {
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
fn an_excess_is_met_down_to_seven_eighths_of_the_limit() {
    let event_loop = EventLoop::new().unwrap();
    let budget = Budget::new(1000);
    let accounts: Vec<_> = (0..10).map(|_| open(&budget, &event_loop).0).collect();
    accounts.iter().for_each(|account| account.add(100));
    accounts[0].add(1);
    // One would do for the limit itself.
    assert!(matches!(budget.condemned.load(SeqCst), 200 | 201));
    accounts.iter().for_each(|account| account.close());
}

#[test]
fn a_byte_now_and_then_is_no_progress() {
    let event_loop = EventLoop::new().unwrap();
    let budget = Budget::new(1 << 20);
    let (account, _) = open(&budget, &event_loop);
    account.add(800);
    let long_ago = u64::MAX;
    account.since.store(long_ago, SeqCst);
    (0..99).for_each(|_| account.note_moved(1));
    assert_eq!(account.since.load(SeqCst), long_ago);
    account.note_moved(1);
    assert_ne!(account.since.load(SeqCst), long_ago, "an eighth");
    account.close();
}

#[test]
fn within_a_second_of_a_warning_closed_connections_wait_for_the_next() {
    let budget = Budget::new(1);
    budget.ledger.lock().unreported = 2;
    budget.warn();
    assert_eq!(budget.ledger.lock().unreported, 0);
    // The second has not passed, however slow this machine is.
    let later = Instant::now() + Duration::from_secs(3600);
    *budget.ledger.lock() = Ledger { unreported: 3, last_warning: Some(later), ..Ledger::default() };
    budget.warn();
    assert_eq!(budget.ledger.lock().unreported, 3);
    budget.ledger.lock().last_warning = Instant::now().checked_sub(WARNING_INTERVAL);
    budget.warn();
    assert_eq!(budget.ledger.lock().unreported, 0);
}

#[test]
fn changes_of_several_threads_leave_nothing_behind() {
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
fn groups_without_a_limit_share_that_of_the_process() {
    assert!(Arc::ptr_eq(&Budget::of_this_process(), &Budget::of_this_process()));
    let limit = Budget::of_this_process().limit as u64;
    assert_eq!(limit, crate::net::group::memory_limit::of_this_process() / super::SHARE);
}
