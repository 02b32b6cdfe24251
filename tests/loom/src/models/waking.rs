//! Claims about wake-ups: a loop never sleeps while a task is in its queue.
//!
//! Each model ends only if the loop has run every task, so a lost wake-up is a deadlock.

use super::{NEVER_SLEPT, SLEPT, explore, sleep_outcome};
use crate::protocol::Protocol;
use crate::reactor::Reactor;

/// A task of another thread is run, whether the loop is about to sleep, asleep or awake.
pub fn a_task_of_another_thread_is_run<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| shared.post(1).unwrap());
        reactor.run_until_ran(1);
        outcomes.note(sleep_outcome(reactor.sleeps));
    });
}

/// Tasks of one thread are run in the order posted. The second one may arrive while the loop runs
/// the first, or while it is about to sleep again.
pub fn tasks_of_one_thread_are_run_in_order<Q: Protocol>() {
    explore(None, &["in one batch", "in two batches"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.post(2).unwrap();
        });
        reactor.turn(|_, _| ());
        outcomes.note(if reactor.ran.len() == 2 { "in one batch" } else { "in two batches" });
        reactor.run_until_ran(2);
        assert_eq!(reactor.ran, [1, 2], "the tasks ran out of order");
    });
}

/// Two threads post a task each: both are run. Up to four preemptions.
pub fn tasks_of_two_threads_are_all_run<Q: Protocol>() {
    explore(Some(4), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        for task in [1, 2] {
            reactor.spawn(move |shared| shared.post(task).unwrap());
        }
        reactor.run_until_ran(2);
        outcomes.note(sleep_outcome(reactor.sleeps));
        reactor.ran.sort_unstable();
        assert_eq!(reactor.ran, [1, 2], "each task must be run exactly once");
    });
}

/// Two threads post two tasks each: all are run, those of each thread in the order posted. Up to
/// three preemptions.
pub fn two_tasks_of_each_of_two_threads_are_all_run<Q: Protocol>() {
    explore(Some(3), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        for tasks in [[1, 2], [3, 4]] {
            reactor.spawn(move |shared| {
                for task in tasks {
                    shared.post(task).unwrap();
                }
            });
        }
        reactor.run_until_ran(4);
        outcomes.note(sleep_outcome(reactor.sleeps));
        let (first, second): (Vec<_>, Vec<_>) = reactor.ran.into_iter().partition(|task| *task < 3);
        assert_eq!(
            (&first[..], &second[..]),
            (&[1, 2][..], &[3, 4][..]),
            "a thread's tasks ran out of order"
        );
    });
}

/// A socket wakes the loop while a task is posted. The task is run, in that turn or after another
/// sleep, and the event of the socket is not lost. Up to four preemptions.
pub fn a_task_posted_while_a_socket_wakes_the_loop_is_run<Q: Protocol>() {
    explore(Some(4), &["socket first", "task first", "both in one turn"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| shared.epoll.fill_socket());
        reactor.spawn(|shared| shared.post(1).unwrap());
        let mut first = None;
        while reactor.ran.is_empty() || reactor.sockets == 0 {
            reactor.turn(|_, _| ());
            first = first.or(match (reactor.sockets, reactor.ran.len()) {
                (0, 0) => None,
                (_, 0) => Some("socket first"),
                (0, _) => Some("task first"),
                (_, _) => Some("both in one turn"),
            });
        }
        outcomes.note(first.expect("the last turn had neither a task nor a socket event"));
    });
}

/// Another loop waits for the descriptor of an embedded loop and then makes it take one turn. The
/// descriptor becomes readable for every task: one posted before the first turn, one posted later,
/// and one queued by the loop's own thread between turns.
pub fn an_embedded_loop_becomes_readable_for_every_task<Q: Protocol>() {
    explore(None, &["one turn", "two turns", "three turns"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.post(2).unwrap();
        });
        let mut turns = 0;
        while reactor.ran.len() < 3 {
            if turns == 0 {
                reactor.queue_in_loop(3);
            }
            reactor.shared().epoll.poll(true);
            reactor.run_once();
            turns += 1;
        }
        outcomes.note(["one turn", "two turns", "three turns"][turns - 1]);
        let posted: Vec<_> = reactor.ran.into_iter().filter(|task| *task != 3).collect();
        assert_eq!(posted, [1, 2], "the tasks ran out of order");
    });
}
