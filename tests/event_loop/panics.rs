//! A panic in a callback, or in a callback's destructor, ends that callback only, whether the panic
//! is caught or propagated out of the loop.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::wait_for_tick;
use crate::support::ready::ready_channel;
use crate::support::{Count, LIMIT, OnDrop, Recorder, panic_of, turn, with_catching_loop, with_watchdog};
use reveille::EventLoop;
use reveille::io::{Channel, Interest};

#[test]
fn a_panic_in_run_in_loop_unwinds_into_the_caller() {
    with_catching_loop(|event_loop| {
        assert_eq!(panic_of(|| event_loop.run_in_loop(|_| panic!("mine"))), "mine");
        assert_eq!(panic_of(|| event_loop.handle().run_in_loop(|_| panic!("mine too"))), "mine too");
        assert_eq!(event_loop.handle().counters().panics, 0);
        turn(event_loop);
    });
}

/// A loop on which three channels, three timers and three tasks are ready. Each records its call.
/// The second of a kind can panic.
struct Crowd {
    seen: Recorder,
    channels: Vec<Channel<UnixStream>>,
}

impl Crowd {
    fn new(event_loop: &EventLoop, panics_in: &[&'static str]) -> Crowd {
        let seen = Recorder::new();
        let callback = |what: &'static str, panics: bool| {
            let seen = seen.clone();
            move |_: &EventLoop| {
                seen.record(what);
                if panics {
                    panic!("{what} panics");
                }
            }
        };
        let panics = |what, position| panics_in.contains(&what) && position == 1;
        let due = Instant::now();
        let mut channels = Vec::new();
        for position in 0..3 {
            channels.push(ready_channel(event_loop, callback("channel", panics("channel", position))));
            event_loop.run_at(due, callback("timer", panics("timer", position)));
            event_loop.queue_in_loop(callback("task", panics("task", position)));
        }
        Crowd { seen, channels }
    }

    const ALL: [&str; 9] =
        ["channel", "channel", "channel", "timer", "timer", "timer", "task", "task", "task"];
}

#[test]
fn a_panic_costs_only_the_callback_it_happens_in() {
    for what in ["channel", "timer", "task"] {
        with_catching_loop(move |event_loop| {
            let crowd = Crowd::new(event_loop, &[what]);
            turn(event_loop);
            assert_eq!(crowd.seen.take(), Crowd::ALL);
            assert_eq!(event_loop.handle().counters().panics, 1);
            let open: Vec<_> = crowd.channels.iter().map(Channel::is_open).collect();
            assert_eq!(open, [true, what != "channel", true]);
            assert_eq!(event_loop.handle().counters().tasks_dropped, 0);

            event_loop.queue_in_loop(|event_loop| event_loop.quit());
            event_loop.run().unwrap();
        });
    }
}

#[test]
fn a_panic_in_a_posted_task_costs_only_that_task() {
    with_catching_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..10 {
                    let ran = ran.clone();
                    handle
                        .queue_in_loop(move |_| {
                            ran.add();
                            assert_ne!(number % 5, 3, "a panic of its own");
                        })
                        .unwrap();
                }
            });
        });
        turn(event_loop);
        assert_eq!(ran.get(), 10);
        assert_eq!(handle.counters().panics, 2);
    });
}

#[test]
fn a_repeating_timer_that_panics_ends() {
    with_catching_loop(|event_loop| {
        let (calls, drops) = (Count::default(), Count::default());
        let callback = || {
            let (calls, token) = (calls.clone(), drops.drop_token());
            move |_: &EventLoop| {
                token.keep();
                calls.add();
                panic!("no more of this");
            }
        };
        let period = Duration::from_nanos(1);
        let id = event_loop.run_every(period, callback());
        let remote = event_loop.handle().run_every(period, callback()).unwrap();
        // The timer created through a handle is armed by a task, and is due in the following turn.
        for _ in 0..4 {
            wait_for_tick(Instant::now());
            turn(event_loop);
        }
        assert_eq!((calls.get(), drops.get()), (2, 2));
        assert_eq!(event_loop.handle().counters().panics, 2);
        assert_eq!(event_loop.next_deadline(), None);
        assert!(!event_loop.cancel(id) && !event_loop.cancel(remote));
    });
}

#[test]
fn a_panic_in_a_timer_of_a_handle_costs_only_that_timer() {
    with_catching_loop(|event_loop| {
        let (handle, calls) = (event_loop.handle(), Count::default());
        for number in 0..3 {
            let calls = calls.clone();
            handle
                .run_at(Instant::now(), move |_| {
                    calls.add();
                    assert_ne!(number, 1, "a panic of its own");
                })
                .unwrap();
        }
        turn(event_loop);
        turn(event_loop);
        assert_eq!(calls.get(), 3);
        assert_eq!(handle.counters().panics, 1);
    });
}

fn propagating_loop() -> EventLoop {
    EventLoop::builder().propagate_panics().build().unwrap()
}

#[test]
fn a_propagated_panic_leaves_run_after_the_turn() {
    for what in ["channel", "timer", "task"] {
        with_watchdog(LIMIT, move || {
            let event_loop = propagating_loop();
            let crowd = Crowd::new(&event_loop, &[what]);
            assert_eq!(panic_of(|| event_loop.run()), format!("{what} panics"));
            assert_eq!(crowd.seen.take(), Crowd::ALL);
            assert_eq!(event_loop.iteration(), 1);

            let crowd = Crowd::new(&event_loop, &[what]);
            assert_eq!(panic_of(|| event_loop.run_once(Duration::ZERO)), format!("{what} panics"));
            assert_eq!(crowd.seen.take(), Crowd::ALL);
            assert_eq!(event_loop.handle().counters().panics, 2);
        });
    }
}

#[test]
fn the_first_panic_is_propagated_and_all_are_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = propagating_loop();
        let crowd = Crowd::new(&event_loop, &["task", "timer"]);
        assert_eq!(panic_of(|| event_loop.run()), "timer panics");
        assert_eq!(crowd.seen.take(), Crowd::ALL);
        assert_eq!(event_loop.handle().counters().panics, 2);
        turn(&event_loop);
    });
}

#[test]
fn a_loop_can_run_again_after_a_propagated_panic() {
    with_watchdog(LIMIT, || {
        let event_loop = propagating_loop();
        let seen = Recorder::new();
        let s = seen.clone();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.queue_in_loop(move |event_loop| {
                s.record("left over");
                event_loop.quit();
            });
            panic!("once");
        });
        assert_eq!(panic_of(|| event_loop.run()), "once");
        assert_eq!(seen.take(), [""; 0]);
        event_loop.run().unwrap();
        assert_eq!(seen.take(), ["left over"]);
    });
}

#[test]
fn a_propagated_panic_keeps_its_payload() {
    with_watchdog(LIMIT, || {
        let event_loop = propagating_loop();
        event_loop.queue_in_loop(|_| std::panic::panic_any(42_u8));
        let payload = catch_unwind(AssertUnwindSafe(|| event_loop.run())).unwrap_err();
        assert_eq!(payload.downcast_ref::<u8>(), Some(&42));
    });
}

#[test]
fn a_loop_can_be_dropped_after_a_propagated_panic() {
    with_watchdog(LIMIT, || {
        let (event_loop, drops) = (propagating_loop(), Count::default());
        let handle = event_loop.handle();
        let token = drops.drop_token();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.queue_in_loop(move |_| token.keep());
            panic!("the last");
        });
        assert_eq!(panic_of(move || event_loop.run()), "the last");
        assert_eq!(drops.get(), 1);
        assert_eq!(handle.counters().tasks_dropped, 1);
    });
}

fn panics_when_dropped() -> OnDrop<impl FnOnce()> {
    OnDrop::new(|| panic!("a destructor panics"))
}

/// Calls `first` before a turn in which other channels, timers and tasks are ready, and checks that
/// these are served.
fn assert_others_survive(first: impl FnOnce(&EventLoop) + Send + 'static) {
    with_catching_loop(|event_loop| {
        first(event_loop);
        let crowd = Crowd::new(event_loop, &[]);
        let result = catch_unwind(AssertUnwindSafe(|| turn(event_loop)));
        // Work deferred by the first turn must run in the next.
        turn(event_loop);
        let mut seen = crowd.seen.take();
        seen.sort_unstable();
        let mut all = Crowd::ALL;
        all.sort_unstable();
        assert_eq!(seen, all, "what else was ready is served");
        assert!(result.is_ok(), "the panic does not come out of the loop");
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_task_costs_only_that_task() {
    assert_others_survive(|event_loop| {
        let panics = panics_when_dropped();
        event_loop.queue_in_loop(move |_| panics.keep());
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_timer_costs_only_that_timer() {
    assert_others_survive(|event_loop| {
        let panics = panics_when_dropped();
        event_loop.run_at(Instant::now(), move |_| panics.keep());
    });
}

#[test]
fn a_panic_in_a_repeating_timers_destructor_costs_only_that_timer() {
    assert_others_survive(|event_loop| {
        let (panics, id) = (panics_when_dropped(), Rc::new(Cell::new(None)));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            panics.keep();
            assert!(event_loop.cancel(own.get().unwrap()));
        })));
        wait_for_tick(Instant::now());
    });
}

#[test]
fn a_panic_in_a_channels_destructor_costs_only_that_channel() {
    assert_others_survive(|event_loop| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let panics = panics_when_dropped();
        let channel = Channel::new(event_loop, ours, Interest::WRITABLE, move |event| {
            let _ = &theirs;
            panics.keep();
            event.close();
        });
        channel.unwrap().detach();
    });
}

#[test]
fn panics_in_destructors_do_not_stop_the_loops_drop() {
    with_watchdog(LIMIT, || {
        let (event_loop, drops) = (EventLoop::new().unwrap(), Count::default());
        let handle = event_loop.handle();
        // Two of each kind, so that work is left after the first panic.
        for _ in 0..2 {
            let panics_and_counts = || {
                let token = drops.drop_token();
                OnDrop::new(move || {
                    drop(token);
                    panic!("a destructor panics");
                })
            };
            let value = panics_and_counts();
            event_loop.queue_in_loop(move |_| value.keep());
            let value = panics_and_counts();
            event_loop.run_after(Duration::MAX, move |_| value.keep());
            let value = panics_and_counts();
            event_loop.run_every(Duration::MAX, move |_| value.keep());
            let value = panics_and_counts();
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let channel = Channel::new(&event_loop, ours, Interest::READABLE, move |_| value.keep());
            channel.unwrap().detach();
            let (task, timer) = (panics_and_counts(), panics_and_counts());
            thread::scope(|scope| {
                scope.spawn(|| {
                    handle.queue_in_loop(move |_| task.keep()).unwrap();
                    handle.run_after(Duration::MAX, move |_| timer.keep()).unwrap();
                });
            });
        }
        drop(event_loop);
        assert_eq!(drops.get(), 12);
        assert_eq!(handle.counters().panics, 12);
        assert_eq!(handle.counters().tasks_dropped, 4);
        assert!(handle.queue_in_loop(|_| ()).is_err());
        assert!(handle.run_after(Duration::ZERO, |_| ()).is_err());
        drop(EventLoop::new().expect("the thread is free for another loop"));
    });
}
