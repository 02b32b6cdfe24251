//! Claims about a loop that polls busily: it checks for work without announcing a sleep, and
//! sleeps if it finds none.

use super::{NEVER_SLEPT, Outcomes, SLEPT, explore, sleep_outcome};
use crate::protocol::Protocol;
use crate::reactor::{Reactor, Shared};

/// A thread posts two tasks, and the loop checks twice before it sleeps. Both tasks are run,
/// whether they arrive during the checks, after the last one or during the sleep. A producer writes
/// only for an announced sleep, so there are never more writes than sleeps.
pub fn a_busy_loop_runs_every_task_without_extra_writes<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        // A new queue counts as asleep, but that sleep was not announced and is not counted.
        reactor.shared().queue.awake();
        let poster = reactor.spawn(|shared| {
            shared.post(1).unwrap();
            shared.post(2).unwrap();
        });
        while reactor.ran.len() < 2 {
            reactor.busy_turn(2);
        }
        poster.join().unwrap();
        assert_eq!(reactor.ran, [1, 2], "the tasks ran out of order");
        let writes = reactor.shared().epoll.writes();
        assert!(writes <= reactor.sleeps, "{writes} writes to a busy loop for {} sleeps", reactor.sleeps);
        outcomes.note(sleep_outcome(reactor.sleeps));
    });
}

/// A thread posts an internal task, then quits: a loop that polls busily runs the task and stops.
pub fn a_busy_loop_runs_internal_tasks_and_stops<Q: Protocol>() {
    explore(None, &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.shared().queue.awake();
        reactor.spawn(|shared| {
            shared.post_internal(1).unwrap();
            shared.quit();
        });
        while !reactor.busy_turn(1) {}
        assert_eq!(reactor.internal, [1], "an internal task accepted before the quit was not run");
        outcomes.note(sleep_outcome(reactor.sleeps));
    });
}

/// The first check finds work that is already in the queue, so the loop does not sleep.
pub fn a_busy_loop_finds_pending_work_before_it_sleeps<Q: Protocol>() {
    explore(None, &["a task", "an internal task", "a quit"], |outcomes| {
        check_found::<Q>(outcomes, "a task", |shared| _ = shared.post(1));
        check_found::<Q>(outcomes, "an internal task", |shared| _ = shared.post_internal(1));
        check_found::<Q>(outcomes, "a quit", |shared| _ = shared.quit());
    });
}

fn check_found<Q: Protocol>(outcomes: &Outcomes, work: &'static str, produce: fn(&Shared<Q>)) {
    let mut reactor = Reactor::<Q>::new();
    reactor.shared().queue.awake();
    assert!(!reactor.shared().queue.has_work(), "a new queue has work");
    reactor.spawn(produce).join().unwrap();
    assert!(reactor.shared().queue.has_work(), "a busy loop does not find {work}");
    let quit = reactor.busy_turn(1);
    assert_eq!(reactor.sleeps, 0, "a busy loop announced a sleep despite {work}");
    let done = reactor.ran.len() + reactor.internal.len() + usize::from(quit);
    assert_eq!(done, 1, "the turn did not process exactly {work}");
    outcomes.note(work);
}
