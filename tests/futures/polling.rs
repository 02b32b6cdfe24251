//! When the loop polls futures, and what else it does meanwhile.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::futures::{Gate, run};
use crate::support::{
    Count, LIMIT, Recorder, is_readable, on_another_thread, turn, with_catching_loop, with_loop,
    with_watchdog,
};
use reveille::EventLoop;
use reveille::observe::Watchdog;
use reveille::task::{spawn_local, yield_now};

#[test]
fn futures_that_always_yield_do_not_starve_the_loop() {
    with_loop(|event_loop| {
        for _ in 0..2 {
            spawn_local(async {
                loop {
                    yield_now().await;
                }
            });
        }
        let handle = event_loop.handle();
        let fired = Rc::new(Cell::new(false));
        let has_fired = Rc::clone(&fired);
        event_loop.run_after(Duration::from_millis(1), move |_| {
            has_fired.set(true);
            std::thread::spawn(move || handle.queue_in_loop(EventLoop::quit));
        });
        event_loop.run().unwrap();
        assert!(fired.get());
    });
}

#[test]
fn a_turn_polls_a_limited_number_of_times() {
    with_loop(|event_loop| {
        let polls = Count::default();
        let counting = polls.clone();
        spawn_local(async move {
            loop {
                counting.add();
                yield_now().await;
            }
        });
        for turns in 1..4 {
            turn(event_loop);
            assert_eq!(polls.get(), 128 * turns);
        }
    });
}

#[test]
fn wake_ups_before_a_poll_are_coalesced() {
    with_loop(|event_loop| {
        let gate = Gate::default();
        event_loop.spawn_local(gate.wait());
        turn(event_loop);
        let waker = gate.waker();
        (0..10).for_each(|_| waker.wake_by_ref());
        let wakes = event_loop.handle().counters().wakes;
        on_another_thread(|| (0..10).for_each(|_| waker.wake_by_ref()));
        assert!(event_loop.handle().counters().wakes <= wakes + 1);
        turn(event_loop);
        turn(event_loop);
        assert_eq!(gate.polls.get(), 2);
    });
}

#[test]
fn woken_futures_are_polled_in_the_order_of_wake_ups() {
    with_loop(|event_loop| {
        let (polled, gates) = (Recorder::new(), [Gate::default(), Gate::default(), Gate::default()]);
        for (number, gate) in gates.iter().enumerate() {
            let (polled, wait) = (polled.clone(), gate.wait());
            event_loop.spawn_local(async move {
                wait.await;
                polled.record(number);
                yield_now().await;
                polled.record(number + 10);
            });
        }
        turn(event_loop);
        [2, 0, 1].iter().for_each(|&number: &usize| gates[number].open());
        turn(event_loop);
        assert_eq!(polled.take(), [2, 0, 1, 12, 10, 11]);
    });
}

#[test]
fn a_wake_up_between_turns_makes_an_embedded_loop_readable() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        event_loop.run_ready().unwrap();
        assert!(!is_readable(&event_loop));
        let gate = Gate::default();
        event_loop.spawn_local(gate.wait());
        assert!(is_readable(&event_loop), "a spawn is work");
        event_loop.run_ready().unwrap();
        assert!(!is_readable(&event_loop), "a future that waits is not");
        gate.waker().wake();
        assert!(is_readable(&event_loop), "a wake-up on this thread is");
        event_loop.run_ready().unwrap();
        assert!(!is_readable(&event_loop));
        on_another_thread(|| gate.waker().wake());
        assert!(is_readable(&event_loop), "and one on another thread");
        event_loop.run_ready().unwrap();
        assert!(!is_readable(&event_loop));
        assert_eq!(gate.polls.get(), 3);
        let yields = async {
            for _ in 0..128 * 200 {
                yield_now().await;
            }
        };
        event_loop.spawn_local(yields);
        event_loop.run_ready().unwrap();
        assert!(is_readable(&event_loop), "what a run has left is work");
    });
}

#[test]
fn a_loop_is_idle_while_its_futures_only_wait() {
    with_loop(|event_loop| {
        event_loop.spawn_local(std::future::pending::<()>());
        let woken = event_loop.spawn_local(async {
            reveille::time::sleep(Duration::from_millis(1)).await;
            yield_now().await;
        });
        event_loop.run_until_idle().unwrap();
        assert!(woken.is_finished());
        assert_eq!(event_loop.spawned_futures(), 1);
    });
}

#[test]
fn a_future_and_a_callback_spawn_and_post_to_each_other() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let recorded = seen.clone();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.spawn_local(async move {
                recorded.record("future");
                let again = recorded.clone();
                reveille::task::with_loop(|event_loop| {
                    event_loop.queue_in_loop(move |_| again.record("callback"));
                });
                yield_now().await;
                recorded.record("same turn");
            });
        });
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.take(), ["future", "same turn", "callback"]);
    });
}

#[test]
fn a_watchdog_names_a_future_that_blocks() {
    async fn a_slow_function(blocked: mpsc::Receiver<()>) {
        blocked.recv().unwrap();
    }
    with_catching_loop(|event_loop| {
        let (sender, receiver) = mpsc::channel();
        let (reports, reported) = mpsc::channel();
        let watchdog = Watchdog::with_report(Duration::from_millis(20), move |blocked| {
            if blocked.callback().starts_with("a spawned future") {
                let _ = (reports.send(blocked.callback().to_owned()), sender.send(()));
            }
        });
        watchdog.as_ref().unwrap().watch(&event_loop.handle());
        run(event_loop, a_slow_function(receiver));
        let report = reported.recv().unwrap();
        assert!(report.contains("support::futures::run<"), "{report}");
    });
}
