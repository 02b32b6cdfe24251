//! Claims about the drop of the loop: each task has exactly one outcome, and its thread learns
//! whether it was accepted.

use super::explore;
use crate::protocol::{Protocol, Refusal, Task, Wake};
use crate::reactor::Reactor;

/// The task, if it was refused. The only valid reason is a closed queue: the callers' queues never
/// become full, or their posts wait for capacity.
pub(super) fn refused_task(posted: Result<Wake, (Refusal, Task)>) -> Option<Task> {
    let (refusal, task) = posted.err()?;
    assert_eq!(refusal, Refusal::Closed, "a task was refused for another reason than a closed queue");
    Some(task)
}

/// Checks that each of `tasks` has exactly one outcome, and returns the outcomes that occurred.
///
/// `by_outcome` lists the tasks of each outcome.
pub(super) fn check_one_outcome_each<'a>(
    by_outcome: &[(&'a str, &[Task])],
    tasks: impl IntoIterator<Item = Task>,
) -> Vec<&'a str> {
    let mut found: Vec<_> = by_outcome.iter().flat_map(|(_, tasks)| tasks.iter().copied()).collect();
    found.sort_unstable();
    assert_eq!(found, tasks.into_iter().collect::<Vec<_>>(), "each task must have exactly one outcome");
    by_outcome.iter().filter(|(_, tasks)| !tasks.is_empty()).map(|(outcome, _)| *outcome).collect()
}

/// The loop is dropped after a turn, while two threads post: each task is either run, or returned
/// by `close`, or refused. Up to four preemptions.
pub fn a_task_posted_during_the_drop_has_one_outcome<Q: Protocol>() {
    explore(Some(4), &["run", "returned by close", "refused"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| refused_task(shared.post(task))));
        reactor.turn(|_, _| ());
        let closed = reactor.shared().queue.close().tasks;
        let refused: Vec<_> = posters.into_iter().filter_map(|poster| poster.join().unwrap()).collect();

        let tasks = [("run", &reactor.ran[..]), ("returned by close", &closed), ("refused", &refused)];
        for outcome in check_one_outcome_each(&tasks, [1, 2]) {
            outcomes.note(outcome);
        }
    });
}

/// After a task of a thread has been refused, every later one is refused too. So the accepted tasks
/// of a thread are its first ones.
pub fn a_closed_queue_stays_closed<Q: Protocol>() {
    explore(None, &["neither", "the first", "both"], |outcomes| {
        let reactor = Reactor::<Q>::new();
        let poster = reactor.spawn(|shared| [shared.post(1).is_ok(), shared.post(2).is_ok()]);
        let closed = reactor.shared().queue.close().tasks;
        let (outcome, accepted): (_, &[_]) = match poster.join().unwrap() {
            [false, false] => ("neither", &[]),
            [true, false] => ("the first", &[1]),
            [true, true] => ("both", &[1, 2]),
            [false, true] => panic!("a task was accepted after an earlier one had been refused"),
        };
        assert_eq!(closed, accepted, "the close did not return exactly the accepted tasks");
        outcomes.note(outcome);
    });
}
