//! Claims about `quit`: the loop stops, and not before it has run what was accepted before.
//!
//! A quit that comes when the loop has taken its last batch stands for the next run, and so do the
//! tasks before it.

use super::{NEVER_SLEPT, SLEPT, explore, sleeps};
use crate::protocol::Protocol;
use crate::reactor::Reactor;

/// A request to quit ends the sleep of a loop that nothing else will wake.
pub fn a_quit_stops_a_sleeping_loop<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| shared.quit());
        reactor.run();
        outcomes.note(sleeps(&reactor));
    });
}

/// A thread posts, then quits: the task is run before the loop stops. Another thread posts
/// meanwhile: its task is run, or handed out when the loop is dropped, or given back, one of the
/// three. Up to three pre-emptions.
pub fn a_task_accepted_before_a_quit_is_run_before_the_stop<Q: Protocol>() {
    explore(Some(3), &["run", "handed out", "given back"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.quit();
        });
        let bystander = reactor.spawn(|shared| shared.post(2).is_err());
        reactor.run();
        assert!(reactor.ran.contains(&1), "a task was accepted before the quit and not run");
        let handed_out = reactor.shared().queue.close().tasks;
        let given_back = bystander.join().unwrap();
        outcomes.note(match (reactor.ran.contains(&2), handed_out.contains(&2), given_back) {
            (true, false, false) => "run",
            (false, true, false) => "handed out",
            (false, false, true) => "given back",
            fates => panic!("the fates of a task: {fates:?}"),
        });
    });
}

/// Two threads post, and the one that knows of both quits: both tasks are run before the loop
/// stops. Nothing but the queue tells the loop what that thread knew. Up to three pre-emptions.
pub fn tasks_known_to_be_accepted_before_a_quit_are_run_before_the_stop<Q: Protocol>() {
    explore(Some(3), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        let other = reactor.spawn(|shared| shared.post(1).unwrap());
        reactor.spawn(|shared| {
            shared.post(2).unwrap();
            other.join().unwrap();
            shared.quit();
        });
        reactor.run();
        outcomes.note(sleeps(&reactor));
        reactor.ran.sort_unstable();
        assert_eq!(reactor.ran, [1, 2], "a task was accepted before the quit and not run");
    });
}

/// A loop that has stopped and is run again heeds the next quit only, and runs what was posted
/// while it stood still. Up to three pre-emptions.
pub fn a_loop_that_is_run_again_heeds_the_next_quit_only<Q: Protocol>() {
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
        assert_eq!(reactor.ran, [1, 2], "a task was accepted before the second quit and not run");
    });
}

/// Two threads post and quit. Whichever run honours a request runs the task before it: what the
/// first run has left is left with the request, so a second run neither waits nor misses it. Up to
/// three pre-emptions.
pub fn a_quit_that_comes_too_late_for_one_run_stands_for_the_next<Q: Protocol>() {
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
        assert_eq!(reactor.ran, [1, 2], "a task was accepted before a quit and not run");
    });
}
