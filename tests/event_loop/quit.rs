//! A request to quit: which tasks run before `run` returns, which work is left for the next run,
//! which loops the request affects, and posts that race with it.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::tasks::post;
use crate::support::{
    Count, LIMIT, Recorder, on_another_thread, wait_until_asleep, with_loop, with_watchdog,
};
use reveille::EventLoop;
use reveille::io::{Channel, Interest};

#[test]
fn tasks_accepted_before_quit_run_before_run_returns() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Arc::default());
        let (h, s) = (handle.clone(), Arc::clone(&seen));
        event_loop.queue_in_loop(move |event_loop| {
            assert!(post(&h, &s, "own thread"));
            assert!(on_another_thread(|| post(&h, &s, "another thread")));
            event_loop.quit();
        });
        event_loop.run().unwrap();
        let mut seen = seen.lock().unwrap();
        seen.sort_unstable();
        assert_eq!(*seen, ["another thread", "own thread"]);
    });
}

#[test]
fn tasks_accepted_before_a_callback_quits_are_run() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Arc::default());
        let (h, s) = (handle.clone(), Arc::clone(&seen));
        event_loop.run_at(Instant::now(), move |event_loop| {
            assert!(post(&h, &s, "from a timer"));
            event_loop.quit();
        });
        event_loop.run().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let s = Arc::clone(&seen);
        let channel = Channel::new(event_loop, ours, Interest::WRITABLE, move |event| {
            assert!(on_another_thread(|| post(&handle, &s, "from a channel")));
            event.event_loop().quit();
        });
        event_loop.run().unwrap();
        assert_eq!(*seen.lock().unwrap(), ["from a timer", "from a channel"]);
        drop(channel);
    });
}

#[test]
fn quit_in_the_last_turn_ends_the_next_run() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Arc::default());
        let (h, s) = (handle.clone(), Arc::clone(&seen));
        event_loop.quit();
        event_loop.queue_in_loop(move |event_loop| {
            // This batch is the last one of the first run. These tasks and this request come too
            // late for it, and belong to the next run.
            assert!(post(&h, &s, "own thread"));
            assert!(on_another_thread(|| post(&h, &s, "another thread")));
            event_loop.quit();
        });
        event_loop.run().unwrap();
        assert!(event_loop.is_quitting());
        event_loop.run().unwrap();
        assert!(!event_loop.is_quitting());
        let mut seen = seen.lock().unwrap();
        seen.sort_unstable();
        assert_eq!(*seen, ["another thread", "own thread"]);
    });
}

#[test]
fn posts_during_quit_wait_or_are_dropped_and_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, ran) = (event_loop.handle(), Count::default());
        let leave_one = |event_loop: &EventLoop| {
            let ran = ran.clone();
            event_loop.quit();
            event_loop.queue_in_loop(move |event_loop| {
                event_loop.queue_in_loop(move |event_loop| {
                    ran.add();
                    event_loop.quit();
                });
            });
        };
        leave_one(&event_loop);
        event_loop.run().unwrap();
        assert_eq!(ran.get(), 0);
        event_loop.run().unwrap();
        assert_eq!(ran.get(), 1);

        leave_one(&event_loop);
        event_loop.run().unwrap();
        drop(event_loop);
        assert_eq!(ran.get(), 1);
        assert_eq!(handle.counters().tasks_dropped, 1);
    });
}

#[test]
fn quit_before_run_returns_at_once() {
    with_loop(|event_loop| {
        for round in 0..100 {
            match round % 3 {
                0 => event_loop.quit(),
                1 => event_loop.handle().quit(),
                _ => on_another_thread({
                    let handle = event_loop.handle();
                    move || handle.quit()
                }),
            }
            assert!(event_loop.is_quitting());
            event_loop.run().unwrap();
            assert!(!event_loop.is_quitting());
            assert_eq!(event_loop.iteration(), round + 1);
        }
    });
}

#[test]
fn quit_before_run_still_makes_one_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let s = seen.clone();
        let channel =
            Channel::new(event_loop, ours, Interest::WRITABLE, move |_| s.record("channel")).unwrap();
        let s = seen.clone();
        event_loop.run_at(Instant::now(), move |_| s.record("timer"));
        let s = seen.clone();
        event_loop.queue_in_loop(move |event_loop| {
            s.record("task");
            event_loop.queue_in_loop(move |_| s.record("too late"));
        });
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(seen.take(), ["channel", "timer", "task"]);
        drop((channel, theirs));
    });
}

#[test]
fn quit_is_reset_when_run_returns() {
    with_loop(|event_loop| {
        for round in 1..=3 {
            // Two requests have the effect of one.
            event_loop.quit();
            event_loop.quit();
            event_loop.run().unwrap();
            let fired = Rc::new(Cell::new(false));
            let f = Rc::clone(&fired);
            event_loop.run_after(Duration::from_millis(1), move |event_loop| {
                f.set(true);
                event_loop.quit();
            });
            event_loop.run().unwrap();
            assert!(fired.get(), "round {round}: run returned before the timer fired");
        }
    });
}

#[test]
fn quit_from_another_thread_ends_a_sleeping_loop() {
    with_loop(|event_loop| {
        for _ in 0..20 {
            let (handle, loop_thread) = (event_loop.handle(), rustix::thread::gettid());
            thread::scope(|scope| {
                scope.spawn(move || {
                    wait_until_asleep(loop_thread);
                    handle.quit();
                });
                event_loop.run().unwrap();
            });
        }
    });
}

#[test]
fn quit_persists_until_run_honours_it() {
    with_loop(|event_loop| {
        event_loop.quit();
        // Neither call waits, although the loop has no work.
        event_loop.run_once(None).unwrap();
        event_loop.run_once(None).unwrap();
        assert!(event_loop.is_quitting());
        event_loop.run().unwrap();
        assert!(!event_loop.is_quitting());
    });
}

#[test]
fn quit_affects_only_its_own_loop() {
    with_loop(|event_loop| {
        let other = thread::spawn(|| {
            let event_loop = EventLoop::new().unwrap();
            event_loop.quit();
            event_loop.handle()
        });
        other.join().unwrap().quit();
        assert!(!event_loop.is_quitting());
    });
}

/// The number of posts of one thread, and how many of them were refused.
#[derive(Default)]
struct Tally {
    posted: usize,
    refused: usize,
}

#[test]
fn posts_that_race_with_quit_and_drop_have_one_outcome() {
    const ROUNDS: usize = 400;
    const PRODUCERS: usize = 3;
    const BEFORE_QUIT: usize = 20;

    with_watchdog(LIMIT, || {
        for round in 0..ROUNDS {
            let event_loop = EventLoop::new().unwrap();
            let handle = event_loop.handle();
            let (ran, drops, certain) = (Count::default(), Count::default(), Count::default());
            let start = Barrier::new(PRODUCERS + 1);
            let post = |tally: &mut Tally, also: Option<&Count>| {
                let (ran, token, also) = (ran.clone(), drops.drop_token(), also.cloned());
                tally.posted += 1;
                let result = handle.queue_in_loop(move |_| {
                    token.keep();
                    ran.add();
                    also.iter().for_each(Count::add);
                });
                let Err(refused) = result else { return true };
                tally.refused += 1;
                drop(refused.into_inner());
                false
            };
            let tally = thread::scope(|scope| {
                let producers: Vec<_> = (0..PRODUCERS)
                    .map(|number| {
                        let (start, post, handle, certain) = (&start, &post, &handle, &certain);
                        scope.spawn(move || {
                            let mut tally = Tally::default();
                            start.wait();
                            if number == 0 {
                                for _ in 0..BEFORE_QUIT + round % 7 {
                                    post(&mut tally, Some(certain));
                                }
                                handle.quit();
                            }
                            while post(&mut tally, None) {
                                thread::yield_now();
                            }
                            tally
                        })
                    })
                    .collect();
                start.wait();
                event_loop.run().unwrap();
                assert_eq!(
                    certain.get(),
                    BEFORE_QUIT + round % 7,
                    "a task accepted before the request to quit did not run"
                );
                drop(event_loop);
                let mut sum = Tally::default();
                for producer in producers {
                    let tally = producer.join().unwrap();
                    sum.posted += tally.posted;
                    sum.refused += tally.refused;
                }
                sum
            });
            let dropped = handle.counters().tasks_dropped as usize;
            assert_eq!(tally.posted, ran.get() + tally.refused + dropped, "round {round}");
            assert_eq!(drops.get(), tally.posted, "round {round}: a task was not dropped exactly once");
        }
    });
}
