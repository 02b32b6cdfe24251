//! Every task has exactly one outcome: it is run once, or returned, or dropped with the loop and
//! counted. The effect of a request to quit on tasks is tested in `quit.rs`.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::tasks::post;
use crate::support::{Count, LIMIT, OnDrop, on_another_thread, turn, with_loop, with_watchdog};
use reveille::io::{Channel, Interest};
use reveille::{EventLoop, LoopHandle};

/// Drops the loop. A failed assertion in a destructor fails the test.
fn drop_loop(event_loop: EventLoop) {
    let handle = event_loop.handle();
    drop(event_loop);
    assert_eq!(handle.counters().panics, 0);
}

#[test]
fn tasks_posted_before_run_are_run() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Arc::default());
        assert!(post(&handle, &seen, "own thread"));
        assert!(on_another_thread(|| post(&handle, &seen, "another thread")));
        assert!(on_another_thread(|| handle.queue_in_loop(EventLoop::quit).is_ok()));
        event_loop.run().unwrap();
        let mut seen = seen.lock().unwrap();
        seen.sort_unstable();
        assert_eq!(*seen, ["another thread", "own thread"]);
    });
}

#[test]
fn a_task_posted_before_run_prevents_a_wait() {
    with_loop(|event_loop| {
        event_loop.queue_in_loop(EventLoop::quit);
        event_loop.run().unwrap();
        event_loop.handle().queue_in_loop(EventLoop::quit).unwrap();
        event_loop.run().unwrap();
        let handle = event_loop.handle();
        on_another_thread(|| handle.queue_in_loop(EventLoop::quit)).unwrap();
        event_loop.run().unwrap();
    });
}

#[test]
fn a_task_posted_from_a_task_runs_without_other_events() {
    with_loop(|event_loop| {
        // At each step the loop would sleep if the post did not count as work.
        event_loop.queue_in_loop(|event_loop| {
            event_loop.queue_in_loop(|event_loop| {
                event_loop.handle().queue_in_loop(EventLoop::quit).unwrap();
            });
        });
        event_loop.run().unwrap();
    });
}

#[test]
fn a_task_posted_from_a_destructor_runs_without_other_events() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let posts_when_dropped = OnDrop::new(move || handle.queue_in_loop(EventLoop::quit).unwrap());
        event_loop.queue_in_loop(move |_| posts_when_dropped.keep());
        event_loop.run().unwrap();

        let handle = event_loop.handle();
        let remote = handle.clone();
        let posts_when_dropped = OnDrop::new(move || handle.queue_in_loop(EventLoop::quit).unwrap());
        on_another_thread(|| remote.queue_in_loop(move |_| posts_when_dropped.keep()).unwrap());
        event_loop.run().unwrap();
    });
}

#[test]
fn a_task_posted_from_the_destructor_of_a_timer_or_channel_runs() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Arc::default());
        let posts_when_dropped = |what| {
            let (handle, seen) = (handle.clone(), Arc::clone(&seen));
            OnDrop::new(move || assert!(post(&handle, &seen, what)))
        };
        let fired = posts_when_dropped("timer that fired");
        event_loop.run_at(Instant::now(), move |_| fired.keep());
        let cancelled = posts_when_dropped("timer that was cancelled");
        let id = event_loop.run_after(Duration::MAX, move |_| cancelled.keep());
        assert!(event_loop.cancel(id));
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let closed = posts_when_dropped("channel");
        let channel = Channel::new(event_loop, ours, Interest::WRITABLE, move |_| closed.keep()).unwrap();
        channel.close();
        turn(event_loop);
        assert_eq!(*seen.lock().unwrap(), ["timer that was cancelled", "channel", "timer that fired"]);
    });
}

/// The results of posts by destructors while their loop was dropped: a name, and whether the post
/// was accepted.
type PostResults = Arc<Mutex<Vec<(&'static str, bool)>>>;

/// A value that posts to the loop when it is dropped, checks that the task is returned, and
/// records whether it was accepted.
fn attempts_post_when_dropped(
    handle: &LoopHandle,
    results: &PostResults,
    what: &'static str,
) -> OnDrop<impl FnOnce() + Send + use<>> {
    let (handle, results) = (handle.clone(), Arc::clone(results));
    OnDrop::new(move || {
        let drops = Count::default();
        let token = drops.drop_token();
        let result = handle.queue_in_loop(move |_| token.keep());
        assert_eq!(drops.get(), 0, "the refused task was dropped or run");
        results.lock().unwrap().push((what, result.is_ok()));
        drop(result);
        assert_eq!(drops.get(), 1, "the task was not returned with the error");
    })
}

#[test]
fn a_post_during_the_loops_drop_is_given_back() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, results) = (event_loop.handle(), PostResults::default());
        let posts = |what| attempts_post_when_dropped(&handle, &results, what);

        let timer = posts("timer");
        event_loop.run_after(Duration::MAX, move |_| timer.keep());
        let every = posts("repeating timer");
        event_loop.run_every(Duration::MAX, move |_| every.keep());
        let remote = posts("timer created through a handle");
        on_another_thread(|| handle.run_after(Duration::MAX, move |_| remote.keep()).unwrap());
        turn(&event_loop);
        let unseen = posts("timer created through a handle that the loop has not seen");
        on_another_thread(|| handle.run_every(Duration::MAX, move |_| unseen.keep()).unwrap());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let callback = posts("channel");
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, move |_| callback.keep()).unwrap();
        channel.detach();
        let local = posts("local task");
        event_loop.queue_in_loop(move |_| local.keep());
        let posted = posts("posted task");
        on_another_thread(|| handle.queue_in_loop(move |_| posted.keep()).unwrap());

        drop_loop(event_loop);
        let mut results = results.lock().unwrap();
        results.sort_unstable();
        let refused = [
            "channel",
            "local task",
            "posted task",
            "repeating timer",
            "timer",
            "timer created through a handle",
            "timer created through a handle that the loop has not seen",
        ];
        assert_eq!(*results, refused.map(|what| (what, false)));
    });
}

#[test]
fn a_task_queued_during_the_loops_drop_is_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let (h, token) = (handle.clone(), drops.drop_token());
        let queues_when_dropped = OnDrop::new(move || {
            // The loop still exists, so this runs at once. A task that it then queues has no caller
            // to return to.
            h.run_in_loop(move |event_loop| event_loop.queue_in_loop(move |_| token.keep())).unwrap();
        });
        event_loop.run_after(Duration::MAX, move |_| queues_when_dropped.keep());
        drop_loop(event_loop);
        assert_eq!(drops.get(), 1);
        assert_eq!(handle.counters().tasks_dropped, 1);
    });
}

#[test]
fn a_channel_cannot_be_made_during_the_loops_drop() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let (h, token) = (handle.clone(), drops.drop_token());
        let registers_when_dropped = OnDrop::new(move || {
            let register = move |event_loop: &EventLoop| {
                let (ours, _theirs) = UnixStream::pair().unwrap();
                assert!(Channel::new(event_loop, ours, Interest::READABLE, move |_| token.keep()).is_err());
            };
            h.run_in_loop(register).unwrap();
        });
        event_loop.run_after(Duration::MAX, move |_| registers_when_dropped.keep());
        drop_loop(event_loop);
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn timers_made_during_the_loops_drop_are_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let arms_when_dropped = |drops: &Count| {
            let (h, local, remote) = (handle.clone(), drops.drop_token(), drops.drop_token());
            OnDrop::new(move || {
                let arm = move |event_loop: &EventLoop| {
                    event_loop.run_after(Duration::ZERO, move |_| local.keep());
                };
                h.run_in_loop(arm).unwrap();
                let _ = h.run_after(Duration::ZERO, move |_| remote.keep());
            })
        };
        let in_task = arms_when_dropped(&drops);
        event_loop.queue_in_loop(move |_| in_task.keep());
        let in_timer = arms_when_dropped(&drops);
        event_loop.run_after(Duration::MAX, move |_| in_timer.keep());
        drop_loop(event_loop);
        assert_eq!(drops.get(), 4);
    });
}

#[test]
fn a_dropped_loop_gives_every_post_back() {
    with_watchdog(LIMIT, || {
        let (to_thread, from_main) = mpsc::channel::<LoopHandle>();
        let (to_main, from_thread) = mpsc::channel();
        let outlives_the_loop = thread::spawn(move || {
            let handle = from_main.recv().unwrap();
            to_main.send("received").unwrap();
            // Runs after the loop has been dropped.
            from_main.recv().unwrap_err();

            let called = Count::default();
            let add = || {
                let called = called.clone();
                move |_: &EventLoop| called.add()
            };
            let here = EventLoop::new().unwrap();
            let post =
                |error: reveille::Refused<_, reveille::task::PostError>| here.run_in_loop(error.into_inner());
            post(handle.queue_in_loop(add()).unwrap_err());
            post(handle.run_in_loop(add()).unwrap_err());
            post(handle.run_at(Instant::now(), add()).unwrap_err());
            post(handle.run_after(Duration::ZERO, add()).unwrap_err());
            post(handle.run_every(Duration::from_secs(1), add()).unwrap_err());
            assert_eq!(called.get(), 5, "a returned task could not be called");

            assert!(!handle.is_in_loop_thread());
            handle.quit();
            assert_eq!(handle.counters().tasks_dropped, 0);
            let error = handle.queue_in_loop(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), "the event loop has ended");
            assert_eq!(std::io::Error::from(error).kind(), ErrorKind::BrokenPipe);
        });
        let event_loop = EventLoop::new().unwrap();
        to_thread.send(event_loop.handle()).unwrap();
        assert_eq!(from_thread.recv().unwrap(), "received");
        drop(event_loop);
        drop(to_thread);
        outlives_the_loop.join().unwrap();
    });
}

#[test]
fn a_dropped_loops_own_thread_gets_its_tasks_back() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        drop(event_loop);
        let value = String::from("kept");
        let task = handle.queue_in_loop(move |_| drop(value)).unwrap_err().into_inner();
        assert!(handle.run_in_loop(task).is_err());
        assert!(!handle.is_in_loop_thread());
        assert_eq!(handle.counters().tasks_dropped, 0, "a returned task is not counted");
    });
}

#[test]
fn pending_tasks_are_dropped_once_with_the_loop_and_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        for _ in 0..3 {
            let (local, through_handle, posted) =
                (drops.drop_token(), drops.drop_token(), drops.drop_token());
            event_loop.queue_in_loop(move |_| local.keep());
            handle.queue_in_loop(move |_| through_handle.keep()).unwrap();
            on_another_thread(|| handle.queue_in_loop(move |_| posted.keep()).unwrap());
        }
        assert_eq!(handle.counters().tasks_dropped, 0);
        drop(event_loop);
        assert_eq!(drops.get(), 9);
        assert_eq!(handle.counters().tasks_dropped, 9);
    });
}

#[test]
fn internal_tasks_are_not_counted_as_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        handle.run_after(Duration::MAX, |_| ()).unwrap();
        on_another_thread(|| {
            handle.run_after(Duration::MAX, |_| ()).unwrap();
            let id = handle.run_every(Duration::MAX, |_| ()).unwrap();
            assert!(handle.cancel(id));
        });
        drop(event_loop);
        assert_eq!(handle.counters().tasks_dropped, 0, "timers were counted as tasks");
    });
}

#[test]
fn remote_timers_racing_the_loops_end_have_one_outcome() {
    with_watchdog(LIMIT, || {
        for round in 0..200 {
            let event_loop = EventLoop::new().unwrap();
            let (handle, drops) = (event_loop.handle(), Count::default());
            let (gone, start) = (AtomicBool::new(false), Barrier::new(2));
            thread::scope(|scope| {
                let producer = scope.spawn(|| {
                    let calls = Count::default();
                    let is_given_back = || {
                        calls.add();
                        let token = drops.drop_token();
                        handle.run_after(Duration::MAX, move |_| token.keep()).is_err()
                    };
                    start.wait();
                    // No more than this, because the loop's thread may have to wait for the core
                    // that runs this thread.
                    while calls.get() < 500 && !is_given_back() {
                        if calls.get() % 20 == 0 {
                            thread::yield_now();
                        }
                    }
                    while !gone.load(SeqCst) {
                        thread::yield_now();
                    }
                    assert!(is_given_back());
                    calls.get()
                });
                start.wait();
                for _ in 0..round % 5 {
                    turn(&event_loop);
                }
                drop(event_loop);
                gone.store(true, SeqCst);
                // The handle still exists, and keeps nothing alive.
                assert_eq!(producer.join().unwrap(), drops.get(), "round {round}");
            });
        }
    });
}
