//! Claims about internal tasks: there is always room for them, and otherwise they are as good as
//! tasks.

use super::closing::one_fate_each;
use super::{NEVER_SLEPT, NOBODY_WAITED, SLEPT, WAITED, explore, sleeps, waits};
use crate::protocol::Protocol;
use crate::reactor::Reactor;

/// Errands of one thread are run in the order in which it sent them, and with no task near: each
/// ends the loop's sleep, or keeps the loop from falling asleep. Up to four pre-emptions.
pub fn an_internal_task_of_another_thread_is_run<Q: Protocol>() {
    explore(Some(4), &[SLEPT, NEVER_SLEPT], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| {
            shared.post_internal(1).unwrap();
            shared.post_internal(2).unwrap();
        });
        while reactor.internal.len() < 2 {
            reactor.turn(|_, _| ());
        }
        assert_eq!(reactor.internal, [1, 2], "the order of the internal tasks");
        outcomes.note(sleeps(&reactor));
    });
}

/// The queue is full and nobody takes anything: an internal task is accepted at once, while a task
/// has to wait for the turn that runs it. Up to four pre-emptions.
pub fn an_internal_task_has_room_in_a_full_queue<Q: Protocol>() {
    explore(Some(4), &[WAITED, NOBODY_WAITED], |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        reactor.shared().post(1).unwrap();
        reactor.spawn(|shared| shared.post_waiting(2).unwrap());
        let sender = reactor.spawn(|shared| shared.post_internal(3));
        // Nobody has taken a task when the internal task must be in.
        sender.join().unwrap().expect("there is always room for an internal task");
        reactor.run_until_ran(2);
        assert_eq!((&reactor.ran[..], &reactor.internal[..]), (&[1, 2][..], &[3][..]), "what was run");
        outcomes.note(waits());
    });
}

/// A thread fills the queue and sends an internal task, then quits: both are run before the loop
/// stops. Up to four pre-emptions.
pub fn an_internal_task_accepted_before_a_quit_is_run_before_the_stop<Q: Protocol>() {
    explore(Some(4), &["in one batch", "in two"], |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        reactor.spawn(|shared| {
            shared.post_waiting(1).unwrap();
            shared.post_internal(2).unwrap();
            shared.quit();
        });
        let mut turns = 0;
        let mut quit = false;
        while !quit {
            let before = (reactor.ran.len(), reactor.internal.len());
            quit = reactor.turn(|_, _| ());
            turns += usize::from((reactor.ran.len(), reactor.internal.len()) != before);
        }
        assert_eq!(reactor.internal, [2], "an internal task was accepted before the quit and not run");
        assert_eq!(reactor.ran, [1], "a task was accepted before the quit and not run");
        outcomes.note(if turns == 1 { "in one batch" } else { "in two" });
    });
}

/// The loop is dropped after a turn, while one thread sends an internal task and another posts:
/// each has one fate, as tasks do. Up to four pre-emptions.
pub fn an_internal_task_sent_while_the_loop_is_dropped_has_one_fate<Q: Protocol>() {
    explore(Some(4), &["run", "handed out", "given back"], |outcomes| {
        let mut reactor = Reactor::<Q>::with_room_for(1);
        let poster = reactor.spawn(|shared| _ = shared.post(1));
        let sender = reactor.spawn(|shared| shared.post_internal(2).err());
        reactor.turn(|_, _| ());
        let handed_out = reactor.shared().queue.close().internal;
        let given_back: Vec<_> = sender.join().unwrap().into_iter().collect();
        poster.join().unwrap();
        let fates =
            [("run", &reactor.internal[..]), ("handed out", &handed_out), ("given back", &given_back)];
        for fate in one_fate_each(&fates, [2]) {
            outcomes.note(fate);
        }
    });
}
