//! Cancelling timers on the loop's thread and on other threads. A cancelled timer does not fire.
//! The return value shows whether the timer was cancelled before it fired.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::{HOUR, wait_until};
use crate::support::{Count, LIMIT, Recorder, on_another_thread, turn, with_loop, with_watchdog};
use reveille::{EventLoop, LoopThread, TimerId};

#[test]
fn only_the_cancelled_timers_do_not_fire() {
    with_loop(|event_loop| {
        let (seen, drops) = (Recorder::new(), Count::default());
        let base = Instant::now();
        let ids: Vec<_> = (0..50)
            .map(|number| {
                let (s, token) = (seen.clone(), drops.drop_token());
                event_loop.run_at(base + Duration::from_nanos(number), move |_| {
                    token.keep();
                    s.record(number);
                })
            })
            .collect();
        for (number, &id) in ids.iter().enumerate() {
            if number % 3 == 0 {
                assert!(event_loop.cancel(id));
                assert!(!event_loop.cancel(id), "a second time");
            }
        }
        assert_eq!(drops.get(), 17, "a cancelled callback is dropped at once");
        wait_until(base + Duration::from_nanos(50));
        turn(event_loop);
        assert_eq!(seen.take(), (0..50).filter(|number| number % 3 != 0).collect::<Vec<_>>());
        assert!(ids.iter().all(|&id| !event_loop.cancel(id)), "after it fired");
        assert_eq!(drops.get(), 50);
    });
}

#[test]
fn a_timer_can_cancel_a_later_one_of_the_same_turn() {
    with_loop(|event_loop| {
        let (seen, victims) = (Recorder::new(), Rc::new(RefCell::new(Vec::<TimerId>::new())));
        let due = Instant::now();
        let (s, v) = (seen.clone(), Rc::clone(&victims));
        event_loop.run_at(due, move |event_loop| {
            s.record("first");
            for id in v.take() {
                assert!(event_loop.cancel(id));
                assert!(!event_loop.cancel(id));
            }
        });
        let record = |what| {
            let seen = seen.clone();
            move |_: &EventLoop| seen.record(what)
        };
        victims.borrow_mut().push(event_loop.run_at(due, record("cancelled")));
        event_loop.run_at(due, record("last"));
        victims.borrow_mut().push(event_loop.run_every(Duration::from_nanos(1), record("cancelled")));
        wait_until(Instant::now() + Duration::from_nanos(2));
        turn(event_loop);
        assert_eq!(seen.take(), ["first", "last"]);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_timer_can_cancel_a_later_handle_timer_of_the_same_turn() {
    with_loop(|event_loop| {
        let (handle, called) = (event_loop.handle(), Count::default());
        let victims: Vec<_> = (0..2)
            .map(|number| {
                let called = called.clone();
                let callback = move |_: &EventLoop| called.add();
                on_another_thread(|| match number {
                    0 => handle.run_at(Instant::now() + Duration::from_millis(2), callback).unwrap(),
                    _ => handle.run_every(Duration::from_millis(2), callback).unwrap(),
                })
            })
            .collect();
        event_loop.run_at(Instant::now(), move |event_loop| {
            // Late enough that all of them are due in one turn, if they are armed by then.
            for &id in &victims {
                assert!(event_loop.cancel(id));
                assert!(!event_loop.cancel(id));
            }
        });
        // This task arms the handle's timers. The cancelling timer precedes them in the same batch.
        event_loop.queue_in_loop(|event_loop| wait_until(event_loop.now() + Duration::from_millis(5)));
        turn(event_loop);
        turn(event_loop);
        assert_eq!(called.get(), 0);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_stale_id_does_not_cancel_a_later_timer() {
    with_loop(|event_loop| {
        let fired = Rc::new(Cell::new(0));
        let first = event_loop.run_after(HOUR, |_| panic!("cancelled"));
        assert!(event_loop.cancel(first));
        let f = Rc::clone(&fired);
        let second = event_loop.run_after(Duration::ZERO, move |_| f.set(f.get() + 1));
        assert_ne!(first, second);
        assert!(!event_loop.cancel(first));
        turn(event_loop);
        let f = Rc::clone(&fired);
        event_loop.run_after(Duration::ZERO, move |_| f.set(f.get() + 1));
        assert!(!event_loop.cancel(first) && !event_loop.cancel(second));
        turn(event_loop);
        assert_eq!(fired.get(), 2);
    });
}

#[test]
fn an_id_of_another_loop_cancels_nothing() {
    with_watchdog(LIMIT, || {
        let other = LoopThread::spawn("other").unwrap();
        let (id_sender, id_receiver) = mpsc::channel();
        other
            .handle()
            .queue_in_loop(move |event_loop| id_sender.send(event_loop.run_after(HOUR, |_| ())).unwrap())
            .unwrap();
        let other_ids = [id_receiver.recv().unwrap(), other.handle().run_after(HOUR, |_| ()).unwrap()];

        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        // The first timer of each kind on either loop, so that their ids differ only in the loop.
        let own_ids = [event_loop.run_after(HOUR, |_| ()), handle.run_after(HOUR, |_| ()).unwrap()];
        for id in other_ids {
            assert!(!event_loop.cancel(id) && !handle.cancel(id));
            assert!(!on_another_thread(|| handle.cancel(id)));
        }
        for id in own_ids {
            assert!(!other.handle().cancel(id));
        }
        assert!(own_ids.iter().all(|&id| event_loop.cancel(id)));
        assert!(other_ids.iter().all(|&id| other.handle().cancel(id)));
    });
}

#[test]
fn a_handle_timer_can_be_cancelled_before_it_is_armed() {
    with_loop(|event_loop| {
        let (handle, drops) = (event_loop.handle(), Count::default());
        let never = || {
            let token = drops.drop_token();
            move |_: &EventLoop| {
                token.keep();
                panic!("cancelled");
            }
        };
        on_another_thread(|| {
            let once = handle.run_after(Duration::ZERO, never()).unwrap();
            let every = handle.run_every(Duration::from_nanos(1), never()).unwrap();
            let late = handle.run_after(HOUR, never()).unwrap();
            let ids = [once, every, late];
            assert!(ids.iter().all(|&id| handle.cancel(id)));
            assert!(ids.iter().all(|&id| !handle.cancel(id)));
        });
        assert_eq!(drops.get(), 3, "dropped at once, by the thread that cancelled");
        let once = handle.run_after(Duration::ZERO, never()).unwrap();
        assert!(event_loop.cancel(once), "the loop's own thread can do so too");
        assert!(!event_loop.cancel(once));
        for _ in 0..3 {
            turn(event_loop);
        }
        assert_eq!(drops.get(), 4);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_handle_timer_can_be_cancelled_after_it_is_armed() {
    with_loop(|event_loop| {
        let (handle, drops) = (event_loop.handle(), Count::default());
        let ids = on_another_thread(|| {
            [(); 3].map(|()| {
                let token = drops.drop_token();
                handle.run_after(HOUR, move |_| token.keep()).unwrap()
            })
        });
        turn(event_loop);
        assert!(event_loop.next_deadline().is_some());
        assert!(event_loop.cancel(ids[0]) && !event_loop.cancel(ids[0]));
        assert!(handle.cancel(ids[1]) && !handle.cancel(ids[1]));
        assert!(on_another_thread(|| handle.cancel(ids[2]) && !handle.cancel(ids[2])));
        assert_eq!(drops.get(), 3);
        turn(event_loop);
        assert_eq!(event_loop.next_deadline(), None, "nothing is left in the loop's queue");
    });
}

#[test]
fn another_thread_can_cancel_a_timer_of_the_loop() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let token = drops.drop_token();
        let id = event_loop.run_after(HOUR, move |_| token.keep());
        assert!(on_another_thread(|| handle.cancel(id)), "the loop still exists and carries it out");
        turn(&event_loop);
        assert_eq!(drops.get(), 1);
        assert_eq!(event_loop.next_deadline(), None);
        drop(event_loop);
        assert!(!on_another_thread(|| handle.cancel(id)), "the loop has been dropped");
        assert!(!handle.cancel(id));
    });
}

#[test]
fn a_timer_cancelled_while_due_either_fires_or_is_cancelled() {
    const ROUNDS: usize = 2_000;

    /// Keeps the loop awake, so that timers fire within microseconds and race with cancels.
    fn stay_awake(event_loop: &EventLoop) {
        event_loop.queue_in_loop(stay_awake);
    }

    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle().clone();
        handle.queue_in_loop(stay_awake).unwrap();
        let mut outcomes = Vec::new();
        thread::scope(|scope| {
            let (to_canceller, from_main) = mpsc::channel::<TimerId>();
            let (to_main, from_canceller) = mpsc::channel();
            let canceller_handle = handle.clone();
            scope.spawn(move || {
                from_main.iter().for_each(|id| to_main.send(canceller_handle.cancel(id)).unwrap())
            });
            for round in 0..ROUNDS {
                let (fired, drops) = (Count::default(), Count::default());
                let (f, token) = (fired.clone(), drops.drop_token());
                let delay = Duration::from_micros(round as u64 % 40);
                let id = handle.run_after(delay, move |_| {
                    token.keep();
                    f.add();
                });
                let id = id.unwrap();
                to_canceller.send(id).unwrap();
                for _ in 0..round % 300 {
                    std::hint::spin_loop();
                }
                let cancelled = usize::from(handle.cancel(id)) + usize::from(from_canceller.recv().unwrap());
                outcomes.push((fired, cancelled, drops));
            }
            drop(to_canceller);
        });
        // A timer that was not cancelled had started, so it has finished when the loop ends.
        thread.join().unwrap();
        for (round, (fired, cancelled, drops)) in outcomes.iter().enumerate() {
            assert_eq!(fired.get() + cancelled, 1, "round {round}");
            assert_eq!(drops.get(), 1, "round {round}");
        }
    });
}

#[test]
fn a_repeating_timer_cancelled_elsewhere_does_not_fire_again() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle();
        for _ in 0..300 {
            let (calls, drops, (called, was_called)) =
                (Count::default(), Count::default(), mpsc::sync_channel(1));
            let (c, token) = (calls.clone(), drops.drop_token());
            let callback = move |_: &EventLoop| {
                token.keep();
                c.add();
                let _ = called.try_send(());
            };
            let id = handle.run_every(Duration::from_micros(20), callback).unwrap();
            was_called.recv().unwrap();
            assert!(handle.cancel(id));
            assert!(!handle.cancel(id));
            // A call may be in progress. It has finished before this task runs, and no call
            // follows.
            let (passed, has_passed) = mpsc::channel();
            let count = calls.clone();
            handle.queue_in_loop(move |_| passed.send(count.get()).unwrap()).unwrap();
            let made = has_passed.recv().unwrap();
            assert_eq!(drops.get(), 1);
            assert_eq!(calls.get(), made);
        }
    });
}
