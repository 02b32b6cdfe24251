use std::time::Duration;

use super::*;
use crate::event_loop::EventLoop;

/// A watchdog without a thread. A callback is reported as soon as it is seen a second time.
fn patrol(event_loop: &EventLoop) -> Patrol<fn(&Blocked)> {
    let handle = event_loop.handle();
    handle.add_watcher();
    let watched = Watched {
        beat: handle.pulse().beat(),
        event_loop: handle,
        since: Instant::now(),
        next: Duration::ZERO,
        reported: None,
    };
    let report: fn(&Blocked) = |_| unreachable!("nothing is blocked");
    Patrol {
        shared: Arc::default(),
        limit: Duration::ZERO,
        loops: vec![watched],
        report: Contained::new(report),
    }
}

#[test]
fn a_loop_leaves_its_watchdog_when_it_is_dropped() {
    let event_loop = EventLoop::new().unwrap();
    let mut patrol = patrol(&event_loop);
    event_loop.queue_in_loop(|_| ());
    event_loop.run_once(Duration::ZERO).unwrap();
    patrol.check();
    assert_eq!(patrol.loops.len(), 1);
    drop(event_loop);
    patrol.check();
    assert_eq!(patrol.loops.len(), 0);
}

#[test]
fn a_loop_that_is_watched_twice_is_watched_once() {
    let event_loop = EventLoop::new().unwrap();
    let mut patrol = patrol(&event_loop);
    let requests = Arc::clone(&patrol.shared);
    for _ in 0..2 {
        event_loop.handle().add_watcher();
        requests.requests.lock().added.push(event_loop.handle());
        assert!(patrol.wait(Duration::ZERO));
        assert_eq!(patrol.loops.len(), 1);
    }
    // The patrol's own watcher is left.
    event_loop.handle().remove_watcher();
    event_loop.queue_in_loop(|event_loop| assert_eq!(event_loop.handle().pulse().beat(), 0));
    event_loop.run_once(Duration::ZERO).unwrap();
    event_loop.handle().add_watcher();
}

#[test]
fn a_loop_counts_its_outermost_callbacks() {
    let event_loop = EventLoop::new().unwrap();
    let patrol = patrol(&event_loop);
    let beat = || event_loop.handle().pulse().beat();
    assert_eq!(beat(), 0);
    event_loop.queue_in_loop(|event_loop| {
        let handle = event_loop.handle();
        assert_eq!(handle.pulse().beat(), 1);
        handle.call(|event_loop| assert_eq!(event_loop.handle().pulse().beat(), 1)).unwrap();
        assert!(handle.pulse().describe(1).unwrap().starts_with("a task ("));
        assert_eq!(handle.pulse().describe(0), None);
    });
    event_loop.run_once(Duration::ZERO).unwrap();
    assert_eq!(beat(), 2);
    drop(patrol);
}

#[test]
fn only_a_callback_that_is_seen_twice_is_reported() {
    let event_loop = EventLoop::new().unwrap();
    let mut patrol = patrol(&event_loop);
    let mut watched = patrol.loops.pop().unwrap();
    let mut check = move || watched.check(Duration::ZERO).map(|blocked| blocked.is_over());
    assert_eq!([check(), check()], [None, None], "the loop is idle");
    let (calls, called) = std::sync::mpsc::channel();
    event_loop.queue_in_loop(move |_| {
        let seen = [check(), check()];
        calls.send((seen, check)).unwrap();
    });
    event_loop.queue_in_loop(|_| ());
    event_loop.run_once(Duration::ZERO).unwrap();
    let (seen, mut check) = called.recv().unwrap();
    assert_eq!(seen, [None, Some(false)]);
    assert_eq!([check(), check()], [Some(true), None]);
}
