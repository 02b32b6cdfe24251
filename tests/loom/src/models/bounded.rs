//! Claims about a queue with a capacity: who finds it full waits and is let in, or is refused.
//!
//! Every model also checks in each turn that no more tasks had waited than may.

use super::closing::{given_back, one_fate_each};
use super::{NOBODY_WAITED, WAITED, explore, waits};
use crate::protocol::{self, Protocol, Refusal};
use crate::reactor::Reactor;

/// A wait for room may meet a loop that sleeps before or after, and one that never does. (Where one
/// task has room and three come, the bounds are too narrow for a loop that is always there in
/// time.)
const WITH_ROOM_FOR_ONE: &[&str] = &["waited and slept", "waited", "slept"];
const WITH_ROOM_FOR_TWO: &[&str] = &["waited and slept", "waited", "slept", "neither"];

fn waits_and_sleeps<Q>(reactor: &Reactor<Q>) -> &'static str {
    match (protocol::waits() > 0, reactor.sleeps > 0) {
        (true, true) => "waited and slept",
        (true, false) => "waited",
        (false, true) => "slept",
        (false, false) => "neither",
    }
}

/// One thread posts three tasks where one has room: all are run, in its order. Up to four
/// pre-emptions.
pub fn tasks_of_a_thread_that_waits_for_room_are_run_in_order<Q: Protocol>() {
    explore(Some(4), WITH_ROOM_FOR_ONE, |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        reactor.spawn(|shared| {
            for task in [1, 2, 3] {
                shared.post_waiting(task).unwrap();
            }
        });
        reactor.run_until_ran(3);
        assert_eq!(reactor.ran, [1, 2, 3], "the order of the tasks");
        outcomes.note(waits_and_sleeps(&reactor));
    });
}

/// Two threads post where one task has room, and one of them posts twice: all tasks are run,
/// whether the loop is asleep, about to sleep or awake when a thread has to wait. Up to three
/// pre-emptions.
pub fn two_threads_that_wait_for_room_for_one_are_let_in<Q: Protocol>() {
    explore(Some(3), WITH_ROOM_FOR_ONE, |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        reactor.spawn(|shared| {
            shared.post_waiting(1).unwrap();
            shared.post_waiting(2).unwrap();
        });
        reactor.spawn(|shared| shared.post_waiting(3).unwrap());
        reactor.run_until_ran(3);
        outcomes.note(waits_and_sleeps(&reactor));
        let (first, second): (Vec<_>, Vec<_>) = reactor.ran.into_iter().partition(|task| *task < 3);
        assert_eq!((&first[..], &second[..]), (&[1, 2][..], &[3][..]), "the order of the tasks");
    });
}

/// Two threads post two tasks each where two have room: all are run, those of a thread in its
/// order. Both may wait at the same time, and are let in by the same take. Up to two pre-emptions.
pub fn two_threads_that_wait_for_room_for_two_are_let_in<Q: Protocol>() {
    explore(Some(2), WITH_ROOM_FOR_TWO, |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(2);
        for tasks in [[1, 2], [3, 4]] {
            reactor.spawn(move |shared| {
                for task in tasks {
                    shared.post_waiting(task).unwrap();
                }
            });
        }
        reactor.run_until_ran(4);
        outcomes.note(waits_and_sleeps(&reactor));
        let (first, second): (Vec<_>, Vec<_>) = reactor.ran.into_iter().partition(|task| *task < 3);
        assert_eq!((&first[..], &second[..]), (&[1, 2][..], &[3, 4][..]), "the order of the tasks");
    });
}

/// Two threads wait for room, and the queue is closed instead: both have their task given back,
/// because it is closed and not because it is full. What had been accepted before is handed out.
pub fn threads_that_wait_for_room_are_refused_by_a_close<Q: Protocol>() {
    explore(None, &[WAITED, NOBODY_WAITED], |outcomes| {
        let reactor = Reactor::<Q>::with_room_for(1);
        reactor.shared().post(1).unwrap();
        let posters = [2, 3].map(|task| reactor.spawn(move |shared| shared.post_waiting(task)));
        let handed_out = reactor.shared().queue.close().tasks;
        let posted = posters.map(|poster| poster.join().unwrap());
        assert_eq!(handed_out, [1], "the tasks handed out");
        assert_eq!(posted, [2, 3].map(|task| Err((Refusal::Closed, task))), "the tasks given back");
        assert_eq!(reactor.shared().queue.close().tasks, [], "what a closed queue holds");
        outcomes.note(waits());
    });
}

/// The loop is dropped after a turn, while two threads post where one task has room: each task is
/// run, or handed out by `close`, or given back to its thread; one of the three, and never none. Up
/// to four pre-emptions.
pub fn a_task_that_waits_while_the_loop_is_dropped_has_one_fate<Q: Protocol>() {
    let expected = ["run", "handed out", "given back", WAITED, NOBODY_WAITED];
    explore(Some(4), &expected, |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| given_back(shared.post_waiting(task))));
        reactor.turn(|_, _| ());
        let handed_out = reactor.shared().queue.close().tasks;
        let given_back: Vec<_> = posters.into_iter().filter_map(|poster| poster.join().unwrap()).collect();
        assert!(handed_out.len() <= 1, "more tasks waited than may");
        let fates = [("run", &reactor.ran[..]), ("handed out", &handed_out), ("given back", &given_back)];
        for fate in one_fate_each(&fates, [1, 2]) {
            outcomes.note(fate);
        }
        outcomes.note(waits());
    });
}

/// A thread posts two tasks where one has room, then quits: both are run, in its order, before the
/// loop stops. Another thread posts meanwhile, and may find itself waiting for a loop that has
/// stopped: its task is run, or handed out when the loop is dropped, or given back, one of the
/// three. Up to two pre-emptions.
pub fn tasks_that_waited_for_room_before_a_quit_are_run_before_the_stop<Q: Protocol>() {
    let expected = ["run", "handed out", "given back", WAITED, NOBODY_WAITED];
    explore(Some(2), &expected, |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        reactor.spawn(|shared| {
            shared.post_waiting(1).unwrap();
            shared.post_waiting(2).unwrap();
            shared.quit();
        });
        let bystander = reactor.spawn(|shared| given_back(shared.post_waiting(3)));
        reactor.run();
        let ran: Vec<_> = reactor.ran.iter().copied().filter(|task| *task != 3).collect();
        assert_eq!(ran, [1, 2], "a task was accepted before the quit and not run");
        let handed_out = reactor.shared().queue.close().tasks;
        let given_back: Vec<_> = bystander.join().unwrap().into_iter().collect();
        let run: Vec<_> = reactor.ran.iter().copied().filter(|task| *task == 3).collect();
        let fates = [("run", &run[..]), ("handed out", &handed_out), ("given back", &given_back)];
        for fate in one_fate_each(&fates, [3]) {
            outcomes.note(fate);
        }
        outcomes.note(waits());
    });
}

/// Two threads post without waiting where one task has room, and the loop takes a turn meanwhile:
/// who is refused has its very task given back, because the queue is full; who is not has it run.
pub fn a_full_queue_gives_back_what_it_refuses<Q: Protocol>() {
    explore(None, &["accepted both", "refused one"], |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| shared.post(task).err()));
        reactor.turn(|_, _| ());
        let refused: Vec<_> = posters.into_iter().filter_map(|poster| poster.join().unwrap()).collect();
        let given_back: Vec<_> = refused.iter().map(|(_, task)| *task).collect();
        assert!(refused.iter().all(|(refusal, _)| *refusal == Refusal::Full), "why a task was refused");
        reactor.run_until_ran(2 - given_back.len());
        one_fate_each(&[("run", &reactor.ran), ("given back", &given_back)], [1, 2]);
        outcomes.note(if given_back.is_empty() { "accepted both" } else { "refused one" });
    });
}

/// Two threads post without waiting where one task has room, and nobody takes any: one is accepted,
/// one refused.
pub fn a_queue_holds_no_more_than_it_may<Q: Protocol>() {
    explore(None, &["the first", "the second"], |outcomes| {
        let reactor = Reactor::<Q>::with_room_for(1);
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| shared.post(task)));
        let posted = posters.map(|poster| poster.join().unwrap());
        let accepted = match posted {
            [Ok(_), Err((Refusal::Full, 2))] => 1,
            [Err((Refusal::Full, 1)), Ok(_)] => 2,
            posted => panic!("one of the tasks has room: {posted:?}"),
        };
        assert_eq!(reactor.shared().queue.close().tasks, [accepted], "the tasks accepted");
        outcomes.note(if accepted == 1 { "the first" } else { "the second" });
    });
}
