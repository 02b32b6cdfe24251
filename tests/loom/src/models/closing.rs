//! Claims about the drop of the loop: a task has one fate, and it is known.

use super::explore;
use crate::protocol::{Protocol, Refusal, Task, Wake};
use crate::reactor::Reactor;

/// The task that was refused, if it was, and rightly so: there is room, or will be, so the queue
/// must be closed.
pub(super) fn given_back(posted: Result<Wake, (Refusal, Task)>) -> Option<Task> {
    let (refusal, task) = posted.err()?;
    assert_eq!(refusal, Refusal::Closed, "why a task was refused");
    Some(task)
}

/// Checks that every task of `tasks` is among the fates exactly once, and answers which fates there
/// are.
pub(super) fn one_fate_each<'a>(
    fates: &[(&'a str, &[Task])],
    tasks: impl IntoIterator<Item = Task>,
) -> Vec<&'a str> {
    let mut accounted: Vec<_> = fates.iter().flat_map(|(_, tasks)| tasks.iter().copied()).collect();
    accounted.sort_unstable();
    assert_eq!(accounted, tasks.into_iter().collect::<Vec<_>>(), "the tasks that have a fate");
    fates.iter().filter(|(_, tasks)| !tasks.is_empty()).map(|(fate, _)| *fate).collect()
}

/// The loop is dropped after a turn, while two threads post: each task is run, or handed out by
/// `close`, or given back to its thread; one of the three, and never none. Up to four pre-emptions.
pub fn a_task_posted_while_the_loop_is_dropped_has_one_fate<Q: Protocol>() {
    explore(Some(4), &["run", "handed out", "given back"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| given_back(shared.post(task))));
        reactor.turn(|_, _| ());
        let handed_out = reactor.shared().queue.close().tasks;
        let given_back: Vec<_> = posters.into_iter().filter_map(|poster| poster.join().unwrap()).collect();

        let fates = [("run", &reactor.ran[..]), ("handed out", &handed_out), ("given back", &given_back)];
        for fate in one_fate_each(&fates, [1, 2]) {
            outcomes.note(fate);
        }
    });
}

/// Once a thread has had a task given back, so is every later one: the tasks of a thread that are
/// accepted are the first ones.
pub fn a_closed_queue_stays_closed<Q: Protocol>() {
    explore(None, &["neither", "the first", "both"], |outcomes| {
        let reactor = Reactor::<Q>::new();
        let poster = reactor.spawn(|shared| [shared.post(1).is_ok(), shared.post(2).is_ok()]);
        let handed_out = reactor.shared().queue.close().tasks;
        let (outcome, accepted): (_, &[_]) = match poster.join().unwrap() {
            [false, false] => ("neither", &[]),
            [true, false] => ("the first", &[1]),
            [true, true] => ("both", &[1, 2]),
            [false, true] => panic!("a task was accepted after one had been refused"),
        };
        assert_eq!(handed_out, accepted, "the tasks handed out");
        outcomes.note(outcome);
    });
}
