//! The last call of the hooks before the wait, before a call that runs the loop returns.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::ready::ready_channel;
use crate::support::{Count, Recorder, on_another_thread, panic_of, turn, with_clock, with_loop};
use reveille::EventLoop;

/// Adds a hook before the wait that takes the lines which callbacks have collected since its last
/// call. Returns the lines, and what it has taken.
fn flushing(event_loop: &EventLoop) -> (Recorder<&'static str>, Recorder<String>) {
    let (lines, flushed) = (Recorder::new(), Recorder::new());
    let (collected, f) = (lines.clone(), flushed.clone());
    let hook = event_loop.before_wait(move |_| f.record(collected.take().concat()));
    hook.unwrap().detach();
    (lines, flushed)
}

#[test]
fn hooks_run_once_more_before_every_run_returns() {
    type Run = fn(&EventLoop);
    let task = |event_loop: &EventLoop, lines: Recorder<&'static str>| {
        event_loop.queue_in_loop(move |_| lines.record("x"));
    };
    let timer = |event_loop: &EventLoop, lines: Recorder<&'static str>| {
        event_loop.run_after(Duration::ZERO, move |_| lines.record("x"));
    };
    let runs: [Run; 6] = [
        |event_loop| event_loop.run_until_idle().unwrap(),
        |event_loop| event_loop.run_once(None).unwrap(),
        |event_loop| event_loop.run_for(Duration::ZERO).unwrap(),
        |event_loop| event_loop.run_ready().unwrap(),
        |event_loop| {
            event_loop.quit();
            event_loop.run().unwrap();
        },
        |event_loop| {
            event_loop.run_after(Duration::ZERO, EventLoop::quit);
            event_loop.run().unwrap();
        },
    ];
    for add in [task, timer] {
        for (number, run) in runs.into_iter().enumerate() {
            with_clock(move |event_loop, _| {
                let (lines, flushed) = flushing(event_loop);
                add(event_loop, lines.clone());
                run(event_loop);
                assert_eq!((lines.len(), flushed.take().concat().as_str()), (0, "x"), "run {number}");
            });
        }
    }
}

#[test]
fn what_other_callbacks_collect_is_flushed_before_returning() {
    with_loop(|event_loop| {
        let (lines, flushed) = flushing(event_loop);
        let l = lines.clone();
        let channel = ready_channel(event_loop, move |_| l.record("channel"));
        turn(event_loop);
        assert_eq!(flushed.take(), ["", "channel"]);
        drop(channel);
        let (posted, seen) = (Count::default(), Recorder::new());
        let (count, s) = (posted.clone(), seen.clone());
        let mut posted = Some(posted);
        let hook = event_loop.before_wait(move |event_loop| {
            s.record(count.get());
            if let Some(posted) = posted.take() {
                let handle = event_loop.handle();
                on_another_thread(move || handle.queue_in_loop(move |_| posted.add()).unwrap());
            }
        });
        turn(event_loop);
        assert_eq!(seen.take(), [0, 1], "a task of another thread");
        drop(hook);
        flushed.take();
        let l = lines.clone();
        let _after = event_loop.after_wait(move |_| l.record("after"));
        turn(event_loop);
        assert_eq!(flushed.take(), ["", "after"]);
    });
}

#[test]
fn without_callbacks_a_turn_has_one_call_before_the_wait() {
    with_loop(|event_loop| {
        let (_, flushed) = flushing(event_loop);
        turn(event_loop);
        assert_eq!(flushed.take().len(), 1);
        event_loop.run_ready().unwrap();
        assert_eq!(flushed.take().len(), 1);
    });
}

#[test]
fn a_loop_is_idle_only_after_its_hooks() {
    fn assert_runs_all(event_loop: &EventLoop) {
        let (ran, mut left) = (Count::default(), 3);
        let counting = ran.clone();
        let _hook = event_loop.before_wait(move |event_loop| {
            if left > 0 {
                left -= 1;
                let counting = counting.clone();
                event_loop.run_after(Duration::from_micros(1), move |_| counting.add());
            }
        });
        event_loop.run_until_idle().unwrap();
        assert_eq!(ran.get(), 3);
    }
    with_loop(assert_runs_all);
    with_clock(|event_loop, _| assert_runs_all(event_loop));
}

#[test]
fn a_request_of_the_last_hook_call_ends_the_next_run() {
    with_loop(|event_loop| {
        let (done, ran) = (Rc::new(Cell::new(false)), Count::default());
        let (d, counting) = (Rc::clone(&done), ran.clone());
        let _hook = event_loop.before_wait(move |event_loop| {
            if d.take() {
                let counting = counting.clone();
                event_loop.queue_in_loop(move |_| counting.add());
                event_loop.quit();
            }
        });
        event_loop.run_after(Duration::ZERO, move |event_loop| {
            done.set(true);
            event_loop.quit();
        });
        event_loop.run().unwrap();
        assert_eq!((ran.get(), event_loop.is_quitting()), (0, true));
        event_loop.run().unwrap();
        assert_eq!((ran.get(), event_loop.is_quitting()), (1, false));
    });
}

#[test]
fn a_panic_of_the_last_hook_call_is_propagated() {
    with_loop(|event_loop| {
        let lines = Rc::new(Cell::new(0));
        let collected = Rc::clone(&lines);
        let hook = event_loop.before_wait(move |_| assert_eq!(collected.get(), 0, "on purpose")).unwrap();
        event_loop.queue_in_loop(move |_| lines.set(1));
        assert!(panic_of(|| event_loop.run_once(None)).contains("on purpose"));
        assert!(!hook.is_open());
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn the_last_call_of_hooks_is_no_turn() {
    with_loop(|event_loop| {
        let (_, flushed) = flushing(event_loop);
        event_loop.handle().enable_metrics();
        event_loop.run_until_idle().unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(flushed.take().len(), 2);
        let metrics = event_loop.handle().metrics().unwrap();
        assert_eq!((metrics.turns, metrics.waiting), (0, Duration::ZERO));
        event_loop.queue_in_loop(|_| ());
        event_loop.run_until_idle().unwrap();
        assert_eq!(flushed.take().len(), 2);
        assert_eq!((event_loop.handle().metrics().unwrap().turns, event_loop.iteration()), (1, 1));
    });
}
