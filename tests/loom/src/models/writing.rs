//! Claims about the cost of wake-ups: at most one write for each sleep, and none while the loop is
//! awake.

use std::sync::Arc;

use loom::thread;

use super::explore;
use crate::protocol::{Protocol, Wake};
use crate::reactor::Reactor;

/// Two posts and a quit during one sleep: exactly one of the three must write.
pub fn one_sleep_is_ended_by_one_producer<Q: Protocol>() {
    explore(None, &["by a post", "by the quit"], |outcomes| {
        let reactor = Reactor::<Q>::new();
        assert!(reactor.shared().queue.may_sleep(), "a new queue has work");
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| shared.post(task).unwrap()));
        let quit = reactor.shared().quit();
        let posts = posters.map(|poster| poster.join().unwrap());
        let needed = posts.iter().chain([&quit]).filter(|wake| **wake == Wake::Needed).count();
        assert_eq!(needed, 1, "exactly one producer must end a sleep");
        outcomes.note(if quit == Wake::Needed { "by the quit" } else { "by a post" });
    });
}

/// A socket wakes the loop while two threads post: there are never more writes than announced
/// sleeps, and fewer if the socket has ended a sleep. A write can still arrive late, when the loop
/// is awake or in its next sleep, and then causes a spurious turn. Up to two preemptions.
pub fn writes_never_outnumber_sleeps<Q: Protocol>() {
    explore(Some(2), &["as many", "fewer"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        // A new queue counts as asleep, but that sleep was not announced and is not counted.
        reactor.shared().queue.awake();
        let posters = [1, 2].map(|task| reactor.spawn(move |shared| shared.post(task).unwrap()));
        let socket = reactor.spawn(|shared| shared.epoll.fill_socket());
        reactor.run_until_ran(2);
        for poster in posters {
            poster.join().unwrap();
        }
        socket.join().unwrap();
        let writes = reactor.shared().epoll.writes();
        assert!(writes <= reactor.sleeps, "{writes} writes for {} sleeps", reactor.sleeps);
        outcomes.note(if writes < reactor.sleeps { "fewer" } else { "as many" });
    });
}

/// A task posts or quits, directly or through a thread that it starts and joins. The loop is awake
/// while it runs a task, so no write is needed. A posted task is run in the next turn.
pub fn a_push_from_a_running_task_needs_no_write<Q: Protocol>() {
    explore(None, &["woken", "not woken"], |outcomes| {
        let mut reactor = Reactor::<Q>::new();
        reactor.spawn(|shared| shared.post(1).unwrap());
        let mut quit = false;
        while !quit {
            quit = reactor.turn(|shared, task| {
                let wake = match task {
                    1 => shared.post(2).unwrap(),
                    2 => {
                        let shared = Arc::clone(shared);
                        thread::spawn(move || shared.post(3)).join().unwrap().unwrap()
                    }
                    _ => shared.quit(),
                };
                assert_eq!(wake, Wake::NotNeeded, "a running task must not wake the loop");
            });
        }
        assert_eq!(reactor.ran, [1, 2, 3], "the tasks ran out of order");
        outcomes.note(if reactor.woken > 0 { "woken" } else { "not woken" });
    });
}
