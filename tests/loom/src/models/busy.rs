//! Claims about a loop that polls busily: it looks for work without announcing a sleep, and sleeps
//! if it finds none.

use super::{NEVER_SLEPT, Outcomes, SLEPT, explore, sleeps};
use crate::protocol::Protocol;
use crate::reactor::{Reactor, Shared};

/// A thread posts two tasks, and a loop looks twice before it sleeps: both are run, whether they
/// come while it looks, when it has given up or when it sleeps. While it looks nobody is asked to
/// write: each write has its announced sleep, and where none was announced there is none.
pub fn a_busy_loop_runs_every_task_and_is_not_written_to<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        // A new queue counts as asleep, but that sleep has not been announced and is not counted.
        reactor.shared().queue.awake();
        let poster = reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.post(2).unwrap();
        });
        while reactor.ran.len() < 2 {
            reactor.busy_turn(2);
        }
        poster.join().unwrap();
        assert_eq!(reactor.ran, [1, 2], "the order of the tasks");
        let writes = reactor.shared().epoll.writes();
        assert!(writes <= reactor.sleeps, "{writes} writes to a busy loop for {} sleeps", reactor.sleeps);
        outcomes.note(sleeps(&reactor));
    });
}

/// An internal task and then a quit stop a loop that looks before it sleeps, as they do one that
/// does not look.
pub fn a_busy_loop_heeds_internal_tasks_and_a_quit<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.shared().queue.awake();
        reactor.spawn(|shared| {
            shared.post_internal(1).unwrap();
            shared.quit();
        });
        while !reactor.busy_turn(1) {}
        assert_eq!(reactor.internal, [1], "an internal task was accepted before the quit and not run");
        outcomes.note(sleeps(&reactor));
    });
}

/// What a thread has handed over, the loop finds when it looks: it does not sleep first.
pub fn a_busy_loop_finds_what_is_there<Q: Protocol>() {
    explore(None, &["a task", "an internal task", "a quit"], |outcomes| {
        finds::<Q>(outcomes, "a task", |shared| _ = shared.post(1));
        finds::<Q>(outcomes, "an internal task", |shared| _ = shared.post_internal(1));
        finds::<Q>(outcomes, "a quit", |shared| _ = shared.quit());
    });
}

fn finds<Q: Protocol>(outcomes: &Outcomes, what: &'static str, hand_over: fn(&Shared<Q>)) {
    let mut reactor = Reactor::<Q>::new();
    reactor.shared().queue.awake();
    assert!(!reactor.shared().queue.has_work(), "there is nothing to do");
    reactor.spawn(hand_over).join().unwrap();
    assert!(reactor.shared().queue.has_work(), "a busy loop overlooks {what}");
    let quit = reactor.busy_turn(1);
    assert_eq!(reactor.sleeps, 0, "a busy loop announced a sleep over {what}");
    assert_eq!(reactor.ran.len() + reactor.internal.len() + usize::from(quit), 1, "what was run");
    outcomes.note(what);
}
