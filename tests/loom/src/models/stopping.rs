//! Claims about `quit`: the loop stops after it has run all tasks that were accepted before the
//! request.
//!
//! A request that arrives after the loop has taken its last batch stays pending for the next run,
//! and so do the tasks that were accepted before it.

use super::{NEVER_SLEPT, SLEPT, explore, sleep_outcome};
use crate::protocol::Protocol;
use crate::reactor::Reactor;

/// A request to quit ends the loop's sleep when there is nothing else to wake it.
pub fn a_quit_stops_a_sleeping_loop<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| shared.quit());
        reactor.run();
        outcomes.note(sleep_outcome(reactor.sleeps));
    });
}

/// A thread posts, then quits: its task is run before the loop stops. Another thread posts
/// concurrently: its task is either run, or returned by `close`, or refused. Up to three
/// preemptions.
pub fn a_task_accepted_before_a_quit_is_run_before_the_stop<Q: Protocol>() {
    explore(Some(3), &["run", "returned by close", "refused"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.quit();
        });
        let other = reactor.spawn(|shared| shared.post(2).is_err());
        reactor.run();
        assert!(reactor.ran.contains(&1), "a task accepted before the quit was not run");
        let closed = reactor.shared().queue.close().tasks;
        let refused = other.join().unwrap();
        outcomes.note(match (reactor.ran.contains(&2), closed.contains(&2), refused) {
            (true, false, false) => "run",
            (false, true, false) => "returned by close",
            (false, false, true) => "refused",
            flags => panic!("a task must have exactly one outcome: {flags:?}"),
        });
    });
}

/// Two threads post, and one of them quits after it has joined the other: both tasks are run before
/// the loop stops. The loop synchronises with both posts only through the queue. Up to three
/// preemptions.
pub fn posts_of_two_threads_before_a_quit_are_run_before_the_stop<Q: Protocol>() {
    explore(Some(3), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        let other = reactor.spawn(|shared| shared.post(1).unwrap());
        reactor.spawn(|shared| {
            shared.post(2).unwrap();
            other.join().unwrap();
            shared.quit();
        });
        reactor.run();
        outcomes.note(sleep_outcome(reactor.sleeps));
        reactor.ran.sort_unstable();
        assert_eq!(reactor.ran, [1, 2], "a task accepted before the quit was not run");
    });
}

/// A loop that has stopped and is run again stops only at the next request, and runs the tasks
/// posted between the runs. Up to three preemptions.
pub fn a_second_run_stops_only_at_the_second_quit<Q: Protocol>() {
    explore(Some(3), &["all in the first run", "one in each run"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        let poster = reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.quit();
            shared.post(2).unwrap();
        });
        reactor.run();
        outcomes.note(if reactor.ran.len() == 2 { "all in the first run" } else { "one in each run" });
        reactor.spawn(|shared| {
            poster.join().unwrap();
            shared.quit();
        });
        reactor.run();
        assert_eq!(reactor.ran, [1, 2], "a task accepted before the second quit was not run");
    });
}

/// Two threads post and quit. The run that takes a request also runs the task accepted before it. A
/// task that the first run has left in the queue is still followed by its request, so a second run
/// runs the task and stops. Up to three preemptions.
pub fn a_quit_after_the_last_batch_stops_the_next_run<Q: Protocol>() {
    explore(Some(3), &["all in the first run", "one in each run"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        let posters = [1, 2].map(|task| {
            reactor.spawn(move |shared| {
                shared.post(task).unwrap();
                shared.quit();
            })
        });
        reactor.run();
        for poster in posters {
            poster.join().unwrap();
        }
        let all = reactor.ran.len() == 2;
        outcomes.note(if all { "all in the first run" } else { "one in each run" });
        if !all {
            reactor.run();
        }
        reactor.ran.sort_unstable();
        assert_eq!(reactor.ran, [1, 2], "a task accepted before a quit was not run");
    });
}
