//! Claims about waking: a loop never sleeps over a task.
//!
//! None of these models ends unless the loop has run every task, so a lost wake is a deadlock.

use super::{NEVER_SLEPT, SLEPT, explore, sleeps};
use crate::protocol::Protocol;
use crate::reactor::Reactor;

/// A task that another thread pushes is run, whether the loop is about to sleep, asleep or awake.
pub fn a_task_of_another_thread_is_run<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| shared.post(1).unwrap());
        reactor.run_until_ran(1);
        outcomes.note(sleeps(&reactor));
    });
}

/// Tasks of one thread are run in the order in which it pushed them. The second may come while the
/// loop runs the first or is on its way into another sleep, where one task alone never comes.
pub fn tasks_of_one_thread_are_run_in_order<Q: Protocol>() {
    explore(None, &["in one batch", "in two"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.post(2).unwrap();
        });
        reactor.turn(|_, _| ());
        outcomes.note(if reactor.ran.len() == 2 { "in one batch" } else { "in two" });
        reactor.run_until_ran(2);
        assert_eq!(reactor.ran, [1, 2], "the order of the tasks");
    });
}

/// Two threads push a task each: both are run. Up to four pre-emptions.
pub fn tasks_of_two_threads_are_all_run<Q: Protocol>() {
    explore(Some(4), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        for task in [1, 2] {
            reactor.spawn(move |shared| shared.post(task).unwrap());
        }
        reactor.run_until_ran(2);
        outcomes.note(sleeps(&reactor));
        reactor.ran.sort_unstable();
        assert_eq!(reactor.ran, [1, 2], "the tasks that were run");
    });
}

/// Two threads push two tasks each: all are run, those of a thread in its order. Up to three
/// pre-emptions.
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
        outcomes.note(sleeps(&reactor));
        let (first, second): (Vec<_>, Vec<_>) = reactor.ran.into_iter().partition(|task| *task < 3);
        assert_eq!((&first[..], &second[..]), (&[1, 2][..], &[3, 4][..]), "the order of the tasks");
    });
}

/// A socket wakes the loop while a task is pushed: the task is run, be it in that turn or after
/// another sleep, and the event of the socket is not lost either. Up to four pre-emptions.
pub fn a_task_pushed_while_a_socket_wakes_the_loop_is_run<Q: Protocol>() {
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
        outcomes.note(first.expect("something ended the last turn"));
    });
}

/// A loop inside another one, which waits on its descriptor and then lets it take one turn: every
/// task shows on the descriptor, also one pushed before the first turn, and one of the loop's own
/// thread pushed between two turns.
pub fn an_embedded_loop_shows_every_task<Q: Protocol>() {
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
        assert_eq!(posted, [1, 2], "the order of the tasks");
    });
}
