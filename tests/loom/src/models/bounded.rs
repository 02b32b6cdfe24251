//! Claims about a queue with a capacity: a push into a full queue waits for capacity, or is
//! refused.
//!
//! In every model the reactor also checks in each turn that the batch is within the capacity.

use super::closing::{check_one_outcome_each, refused_task};
use super::{NEVER_WAITED, WAITED, explore, wait_outcome};
use crate::protocol::{self, Protocol, Refusal};
use crate::reactor::Reactor;

/// The outcomes at capacity 1: a post waits for capacity, or the loop sleeps, or both occur. With
/// three tasks, the models' bounds on preemptions exclude that neither occurs.
const AT_CAPACITY_ONE: &[&str] = &["waited and slept", "waited", "slept"];
const AT_CAPACITY_TWO: &[&str] = &["waited and slept", "waited", "slept", "neither"];

fn wait_and_sleep_outcome<Q>(reactor: &Reactor<Q>) -> &'static str {
    match (protocol::waits() > 0, reactor.sleeps > 0) {
        (true, true) => "waited and slept",
        (true, false) => "waited",
        (false, true) => "slept",
        (false, false) => "neither",
    }
}

/// One thread posts three tasks at capacity 1: all are run, in the order posted. Up to four
/// preemptions.
pub fn waiting_posts_of_one_thread_are_run_in_order<Q: Protocol>() {
    explore(Some(4), AT_CAPACITY_ONE, |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        reactor.spawn(|shared| {
            for task in [1, 2, 3] {
                shared.post_waiting(task).unwrap();
            }
        });
        reactor.run_until_ran(3);
        assert_eq!(reactor.ran, [1, 2, 3], "the tasks ran out of order");
        outcomes.note(wait_and_sleep_outcome(&reactor));
    });
}

/// Two threads post at capacity 1, and one of them posts twice: all tasks are run, whether the loop
/// is asleep, about to sleep or awake when a post has to wait. Up to three preemptions.
pub fn waiting_posts_of_two_threads_are_run_at_capacity_one<Q: Protocol>() {
    explore(Some(3), AT_CAPACITY_ONE, |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        reactor.spawn(|shared| {
            shared.post_waiting(1).unwrap();
            shared.post_waiting(2).unwrap();
        });
        reactor.spawn(|shared| shared.post_waiting(3).unwrap());
        reactor.run_until_ran(3);
        outcomes.note(wait_and_sleep_outcome(&reactor));
        let (first, second): (Vec<_>, Vec<_>) = reactor.ran.into_iter().partition(|task| *task < 3);
        assert_eq!((&first[..], &second[..]), (&[1, 2][..], &[3][..]), "a thread's tasks ran out of order");
    });
}

/// Two threads post two tasks each at capacity 2: all are run, those of each thread in the order
/// posted. Both threads may wait at the same time and continue after the same take. Up to two
/// preemptions.
pub fn waiting_posts_of_two_threads_are_run_at_capacity_two<Q: Protocol>() {
    explore(Some(2), AT_CAPACITY_TWO, |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(2);
        for tasks in [[1, 2], [3, 4]] {
            reactor.spawn(move |shared| {
                for task in tasks {
                    shared.post_waiting(task).unwrap();
                }
            });
        }
        reactor.run_until_ran(4);
        outcomes.note(wait_and_sleep_outcome(&reactor));
        let (first, second): (Vec<_>, Vec<_>) = reactor.ran.into_iter().partition(|task| *task < 3);
        assert_eq!(
            (&first[..], &second[..]),
            (&[1, 2][..], &[3, 4][..]),
            "a thread's tasks ran out of order"
        );
    });
}

/// Two threads wait for capacity while the queue is closed: both posts are refused with the reason
/// that the queue is closed, not that it is full. The close returns the task accepted before.
pub fn a_close_refuses_waiting_posts<Q: Protocol>() {
    explore(None, &[WAITED, NEVER_WAITED], |outcomes| {
        let reactor = Reactor::<Q>::with_capacity(1);
        reactor.shared().post(1).unwrap();
        let posters = [2, 3].map(|task| reactor.spawn(move |shared| shared.post_waiting(task)));
        let closed = reactor.shared().queue.close().tasks;
        let posted = posters.map(|poster| poster.join().unwrap());
        assert_eq!(closed, [1], "the close did not return exactly the accepted task");
        let refused = [2, 3].map(|task| Err((Refusal::Closed, task)));
        assert_eq!(posted, refused, "both posts must be refused because the queue is closed");
        assert_eq!(reactor.shared().queue.close().tasks, [], "a closed queue holds a task");
        outcomes.note(wait_outcome());
    });
}

/// The loop is dropped after a turn, while two threads post at capacity 1: each task is either run,
/// or returned by `close`, or refused. Up to four preemptions.
pub fn a_waiting_post_during_the_drop_has_one_outcome<Q: Protocol>() {
    let expected = ["run", "returned by close", "refused", WAITED, NEVER_WAITED];
    explore(Some(4), &expected, |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| refused_task(shared.post_waiting(task))));
        reactor.turn(|_, _| ());
        let closed = reactor.shared().queue.close().tasks;
        let refused: Vec<_> = posters.into_iter().filter_map(|poster| poster.join().unwrap()).collect();
        assert!(closed.len() <= 1, "the queue held more tasks than its capacity");
        let tasks = [("run", &reactor.ran[..]), ("returned by close", &closed), ("refused", &refused)];
        for outcome in check_one_outcome_each(&tasks, [1, 2]) {
            outcomes.note(outcome);
        }
        outcomes.note(wait_outcome());
    });
}

/// A thread posts two tasks at capacity 1, then quits: both are run before the loop stops, in the
/// order posted. Another thread posts concurrently, and may wait for capacity after the loop has
/// stopped: its task is either run, or returned by `close`, or refused. Up to two preemptions.
pub fn waiting_posts_before_a_quit_are_run_before_the_stop<Q: Protocol>() {
    let expected = ["run", "returned by close", "refused", WAITED, NEVER_WAITED];
    explore(Some(2), &expected, |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        reactor.spawn(|shared| {
            shared.post_waiting(1).unwrap();
            shared.post_waiting(2).unwrap();
            shared.quit();
        });
        let other = reactor.spawn(|shared| refused_task(shared.post_waiting(3)));
        reactor.run();
        let ran: Vec<_> = reactor.ran.iter().copied().filter(|task| *task != 3).collect();
        assert_eq!(ran, [1, 2], "a task accepted before the quit was not run");
        let closed = reactor.shared().queue.close().tasks;
        let refused: Vec<_> = other.join().unwrap().into_iter().collect();
        let run: Vec<_> = reactor.ran.iter().copied().filter(|task| *task == 3).collect();
        let tasks = [("run", &run[..]), ("returned by close", &closed), ("refused", &refused)];
        for outcome in check_one_outcome_each(&tasks, [3]) {
            outcomes.note(outcome);
        }
        outcomes.note(wait_outcome());
    });
}

/// Two threads post without waiting at capacity 1, while the loop makes a turn. A refused post
/// returns its task, with the reason that the queue is full. An accepted task is run.
pub fn a_full_queue_returns_refused_tasks<Q: Protocol>() {
    explore(None, &["accepted both", "refused one"], |outcomes| {
        let mut reactor = Reactor::<Q>::with_capacity(1);
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| shared.post(task).err()));
        reactor.turn(|_, _| ());
        let refusals: Vec<_> = posters.into_iter().filter_map(|poster| poster.join().unwrap()).collect();
        let refused: Vec<_> = refusals.iter().map(|(_, task)| *task).collect();
        let all_full = refusals.iter().all(|(refusal, _)| *refusal == Refusal::Full);
        assert!(all_full, "an open queue refused a task for another reason than its capacity");
        reactor.run_until_ran(2 - refused.len());
        check_one_outcome_each(&[("run", &reactor.ran), ("refused", &refused)], [1, 2]);
        outcomes.note(if refused.is_empty() { "accepted both" } else { "refused one" });
    });
}

/// Two threads post without waiting at capacity 1, and the loop makes no turn: one task is accepted
/// and one is refused.
pub fn a_queue_never_exceeds_its_capacity<Q: Protocol>() {
    explore(None, &["the first", "the second"], |outcomes| {
        let reactor = Reactor::<Q>::with_capacity(1);
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| shared.post(task)));
        let posted = posters.map(|poster| poster.join().unwrap());
        let accepted = match posted {
            [Ok(_), Err((Refusal::Full, 2))] => 1,
            [Err((Refusal::Full, 1)), Ok(_)] => 2,
            posted => panic!("exactly one post must be accepted: {posted:?}"),
        };
        let closed = reactor.shared().queue.close().tasks;
        assert_eq!(closed, [accepted], "the close did not return exactly the accepted task");
        outcomes.note(if accepted == 1 { "the first" } else { "the second" });
    });
}
