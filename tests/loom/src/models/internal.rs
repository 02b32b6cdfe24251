//! Claims about internal tasks: the capacity does not limit them, and they have the same guarantees
//! as other tasks.

use super::closing::check_one_outcome_each;
use super::{NEVER_SLEPT, NEVER_WAITED, SLEPT, WAITED, explore, sleep_outcome, wait_outcome};
use crate::protocol::Protocol;
use crate::reactor::Reactor;

/// A thread posts two internal tasks and no other task. Both are run, in the order posted: each
/// ends the loop's sleep or prevents it. Up to four preemptions.
pub fn internal_tasks_of_another_thread_are_run_in_order<Q: Protocol>() {
    explore(Some(4), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post_internal(1).unwrap();
            shared.post_internal(2).unwrap();
        });
        while reactor.internal.len() < 2 {
            reactor.turn(|_, _| ());
        }
        assert_eq!(reactor.internal, [1, 2], "the internal tasks ran out of order");
        outcomes.note(sleep_outcome(reactor.sleeps));
    });
}

/// The queue is full and the loop makes no turn: an internal task is accepted at once, while
/// another task has to wait for the next take. Up to four preemptions.
pub fn a_full_queue_accepts_an_internal_task<Q: Protocol>() {
    explore(Some(4), &[WAITED, NEVER_WAITED], |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        reactor.shared().post(1).unwrap();
        reactor.spawn(|shared| shared.post_waiting(2).unwrap());
        let internal_poster = reactor.spawn(|shared| shared.post_internal(3));
        // Joined before the first turn, so the internal task is accepted while the queue is full.
        internal_poster.join().unwrap().expect("a full queue must accept an internal task");
        reactor.run_until_ran(2);
        assert_eq!(reactor.ran, [1, 2], "the tasks ran out of order");
        assert_eq!(reactor.internal, [3], "the internal task was not run exactly once");
        outcomes.note(wait_outcome());
    });
}

/// A thread fills the queue and posts an internal task, then quits: both are run before the loop
/// stops. Up to four preemptions.
pub fn an_internal_task_accepted_before_a_quit_is_run_before_the_stop<Q: Protocol>() {
    explore(Some(4), &["in one batch", "in two batches"], |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        reactor.spawn(|shared| {
            shared.post_waiting(1).unwrap();
            shared.post_internal(2).unwrap();
            shared.quit();
        });
        let mut batches = 0;
        let mut quit = false;
        while !quit {
            let before = (reactor.ran.len(), reactor.internal.len());
            quit = reactor.turn(|_, _| ());
            batches += usize::from((reactor.ran.len(), reactor.internal.len()) != before);
        }
        assert_eq!(reactor.internal, [2], "an internal task accepted before the quit was not run");
        assert_eq!(reactor.ran, [1], "a task accepted before the quit was not run");
        outcomes.note(if batches == 1 { "in one batch" } else { "in two batches" });
    });
}

/// The loop is dropped after a turn, while one thread posts an internal task and another thread
/// posts a task: the internal task is either run, or returned by `close`, or refused. Up to four
/// preemptions.
pub fn an_internal_task_posted_during_the_drop_has_one_outcome<Q: Protocol>() {
    explore(Some(4), &["run", "returned by close", "refused"], |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        let poster = reactor.spawn(|shared| _ = shared.post(1));
        let internal_poster = reactor.spawn(|shared| shared.post_internal(2).err());
        reactor.turn(|_, _| ());
        let closed = reactor.shared().queue.close().internal;
        let refused: Vec<_> = internal_poster.join().unwrap().into_iter().collect();
        poster.join().unwrap();
        let tasks = [("run", &reactor.internal[..]), ("returned by close", &closed), ("refused", &refused)];
        for outcome in check_one_outcome_each(&tasks, [2]) {
            outcomes.note(outcome);
        }
    });
}
