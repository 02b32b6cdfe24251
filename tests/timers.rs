//! Timers: never early, in the order of their deadlines, and cancelled exactly.

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use reveille::{EventLoop, LoopThread, TimerId};
use support::{Count, LIMIT, OnDrop, Recorder, on_another_thread, panic_of, turn, with_loop, with_watchdog};

const HOUR: Duration = Duration::from_secs(3600);

fn wait_until(instant: Instant) {
    while Instant::now() < instant {
        std::hint::spin_loop();
    }
}

#[test]
fn a_timer_is_never_early() {
    with_loop(|event_loop| {
        let left = Rc::new(Cell::new(0));
        for micros in [0, 1, 50, 300, 999, 1_000, 1_001, 1_500, 2_750, 7_300, 10_000] {
            let delay = Duration::from_micros(micros);
            left.set(left.get() + 2);
            let asked = Instant::now();
            let check = |from: Instant| {
                let left = Rc::clone(&left);
                move |event_loop: &EventLoop| {
                    assert!(event_loop.now() >= from + delay && Instant::now() >= from + delay);
                    left.set(left.get() - 1);
                    if left.get() == 0 {
                        event_loop.quit();
                    }
                }
            };
            event_loop.run_after(delay, check(asked));
            event_loop.run_at(asked + delay, check(asked));
        }
        event_loop.run().unwrap();
        assert_eq!(left.get(), 0);
    });
}

#[test]
fn a_delay_counts_from_the_call_and_not_from_the_beginning_of_the_turn() {
    with_loop(|event_loop| {
        let delay = Duration::from_millis(3);
        event_loop.queue_in_loop(move |event_loop| {
            wait_until(event_loop.now() + delay);
            let asked = Instant::now();
            event_loop.run_after(delay, move |event_loop| {
                assert!(event_loop.now() >= asked + delay);
                event_loop.quit();
            });
        });
        event_loop.run().unwrap();
    });
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines_and_ties_in_the_order_made() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let base = Instant::now();
        let mut expected = Vec::new();
        for number in 0..200_u64 {
            // 10 deadlines, met in no particular order, 20 timers each.
            let deadline = base + Duration::from_nanos(number * 7 % 10);
            let s = seen.clone();
            event_loop.run_at(deadline, move |_| s.record((deadline, number)));
            expected.push((deadline, number));
        }
        expected.sort_unstable();
        wait_until(base + Duration::from_nanos(10));
        turn(event_loop);
        assert_eq!(seen.take(), expected);
    });
}

#[test]
fn timers_of_the_loop_and_of_its_handle_fire_in_one_order() {
    thread_local! {
        static SEEN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    // Whether all timers were in the queue before the first was due; if this machine was too slow for that, their order
    // shows nothing.
    fn in_time(event_loop: &EventLoop, ahead: Duration) -> bool {
        let handle = event_loop.handle();
        let base = Instant::now() + ahead;
        for number in (0..20_u64).rev() {
            let deadline = base + Duration::from_nanos(number);
            let record = move |_: &EventLoop| SEEN.with_borrow_mut(|seen| seen.push(number));
            match number % 3 {
                0 => event_loop.run_at(deadline, record),
                1 => handle.run_at(deadline, record).unwrap(),
                _ => on_another_thread(|| handle.run_at(deadline, record).unwrap()),
            };
        }
        turn(event_loop);
        let in_time = Instant::now() < base;
        wait_until(base + Duration::from_nanos(20));
        turn(event_loop);
        in_time
    }

    with_loop(|event_loop| {
        let mut ahead = Duration::from_millis(2);
        while !in_time(event_loop, ahead) {
            SEEN.take();
            ahead *= 2;
        }
        assert_eq!(SEEN.take(), (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn a_deadline_in_the_past_is_met_in_the_next_turn_without_a_wait() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let past = Instant::now();
        let s = seen.clone();
        event_loop.run_at(past.checked_sub(HOUR).unwrap_or(past), move |_| s.record("run_at"));
        let s = seen.clone();
        event_loop.run_after(Duration::ZERO, move |_| s.record("run_after"));
        event_loop.run_once(None).unwrap();
        assert_eq!(seen.take(), ["run_at", "run_after"]);
        let s = seen.clone();
        // After a turn, a deadline from before that turn.
        event_loop.run_at(past, move |_| s.record("again"));
        event_loop.run_once(None).unwrap();
        assert_eq!(seen.take(), ["again"]);
    });
}

#[test]
fn a_cancelled_timer_does_not_fire_and_the_others_do() {
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
        assert!(ids.iter().all(|&id| !event_loop.cancel(id)), "after the fact");
        assert_eq!(drops.get(), 50);
    });
}

#[test]
fn a_timer_that_is_due_in_the_same_turn_can_be_cancelled_by_an_earlier_one() {
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
fn a_timer_of_a_handle_that_is_due_in_the_same_turn_can_be_cancelled_by_an_earlier_one() {
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
            // Late enough for all to be due in one turn, if they are known by then.
            for &id in &victims {
                assert!(event_loop.cancel(id));
                assert!(!event_loop.cancel(id));
            }
        });
        // Arms the handle's timers; the canceller comes before them in the same batch.
        event_loop.queue_in_loop(|event_loop| wait_until(event_loop.now() + Duration::from_millis(5)));
        turn(event_loop);
        turn(event_loop);
        assert_eq!(called.get(), 0);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_repeating_timer_can_cancel_itself_from_its_callback() {
    with_loop(|event_loop| {
        let (drops, id) = (Count::default(), Rc::new(Cell::new(None)));
        let (token, own, calls) = (drops.drop_token(), Rc::clone(&id), Rc::new(Cell::new(0)));
        let c = Rc::clone(&calls);
        id.set(Some(event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            token.keep();
            c.set(c.get() + 1);
            if c.get() == 3 {
                assert!(event_loop.cancel(own.get().unwrap()));
                assert!(!event_loop.cancel(own.get().unwrap()));
                event_loop.quit();
            }
        })));
        event_loop.run().unwrap();
        turn(event_loop);
        assert_eq!((calls.get(), drops.get()), (3, 1));
        assert_eq!(event_loop.next_deadline(), None);
        assert!(!event_loop.cancel(id.get().unwrap()));
    });
}

#[test]
fn a_repeating_timer_of_a_handle_can_cancel_itself_from_its_callback() {
    with_loop(|event_loop| {
        let (handle, drops, calls) = (event_loop.handle(), Count::default(), Count::default());
        let (tell, told) = mpsc::channel::<TimerId>();
        let (h, token, c) = (handle.clone(), drops.drop_token(), calls.clone());
        let callback = move |event_loop: &EventLoop| {
            token.keep();
            c.add();
            if c.get() == 3 {
                let id = told.recv().unwrap();
                assert!(h.cancel(id));
                assert!(!h.cancel(id) && !event_loop.cancel(id));
                event_loop.quit();
            }
        };
        let id = on_another_thread(|| handle.run_every(Duration::from_nanos(1), callback).unwrap());
        tell.send(id).unwrap();
        event_loop.run().unwrap();
        turn(event_loop);
        assert_eq!((calls.get(), drops.get()), (3, 1));
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_timer_that_is_due_once_cannot_be_cancelled_from_its_own_callback() {
    with_loop(|event_loop| {
        let id = Rc::new(Cell::new(None));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_after(Duration::ZERO, move |event_loop| {
            assert!(!event_loop.cancel(own.get().unwrap()));
        })));
        turn(event_loop);

        let (handle, (tell, told)) = (event_loop.handle(), mpsc::channel::<TimerId>());
        let h = handle.clone();
        let id = handle.run_after(Duration::ZERO, move |event_loop| {
            let id = told.recv().unwrap();
            assert!(!event_loop.cancel(id));
            assert!(!on_another_thread(|| h.cancel(id)));
            event_loop.quit();
        });
        tell.send(id.unwrap()).unwrap();
        event_loop.run().unwrap();
    });
}

#[test]
fn an_id_does_not_reach_the_timer_that_comes_after_its_own() {
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
        let (tell, told) = mpsc::channel();
        other
            .handle()
            .queue_in_loop(move |event_loop| tell.send(event_loop.run_after(HOUR, |_| ())).unwrap())
            .unwrap();
        let theirs = [told.recv().unwrap(), other.handle().run_after(HOUR, |_| ()).unwrap()];

        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        // The first of each kind on either loop, so that nothing but the loop tells their names apart.
        let ours = [event_loop.run_after(HOUR, |_| ()), handle.run_after(HOUR, |_| ()).unwrap()];
        for id in theirs {
            assert!(!event_loop.cancel(id) && !handle.cancel(id));
            assert!(!on_another_thread(|| handle.cancel(id)));
        }
        for id in ours {
            assert!(!other.handle().cancel(id));
        }
        assert!(ours.iter().all(|&id| event_loop.cancel(id)));
        assert!(theirs.iter().all(|&id| other.handle().cancel(id)));
    });
}

#[test]
fn a_timer_of_a_handle_can_be_cancelled_before_the_loop_has_seen_it() {
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
fn a_timer_of_a_handle_can_be_cancelled_when_the_loop_has_seen_it() {
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
fn another_thread_can_ask_for_the_end_of_a_timer_made_on_the_loop() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let token = drops.drop_token();
        let id = event_loop.run_after(HOUR, move |_| token.keep());
        assert!(on_another_thread(|| handle.cancel(id)), "there is a loop to carry it out");
        turn(&event_loop);
        assert_eq!(drops.get(), 1);
        assert_eq!(event_loop.next_deadline(), None);
        drop(event_loop);
        assert!(!on_another_thread(|| handle.cancel(id)), "there is no loop any more");
        assert!(!handle.cancel(id));
    });
}

#[test]
fn a_timer_that_is_cancelled_while_it_comes_due_either_fires_or_was_cancelled() {
    const ROUNDS: usize = 2_000;

    /// Keeps the loop awake, so that timers fire within microseconds and cancels have something to race with.
    fn stay_awake(event_loop: &EventLoop) {
        event_loop.queue_in_loop(stay_awake);
    }

    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle().clone();
        handle.queue_in_loop(stay_awake).unwrap();
        let mut fates = Vec::new();
        thread::scope(|scope| {
            let (to_rival, from_main) = mpsc::channel::<TimerId>();
            let (to_main, from_rival) = mpsc::channel();
            let rivals = handle.clone();
            scope.spawn(move || from_main.iter().for_each(|id| to_main.send(rivals.cancel(id)).unwrap()));
            for round in 0..ROUNDS {
                let (fired, drops) = (Count::default(), Count::default());
                let (f, token) = (fired.clone(), drops.drop_token());
                let delay = Duration::from_micros(round as u64 % 40);
                let id = handle.run_after(delay, move |_| {
                    token.keep();
                    f.add();
                });
                let id = id.unwrap();
                to_rival.send(id).unwrap();
                for _ in 0..round % 300 {
                    std::hint::spin_loop();
                }
                let cancelled = usize::from(handle.cancel(id)) + usize::from(from_rival.recv().unwrap());
                fates.push((fired, cancelled, drops));
            }
            drop(to_rival);
        });
        // What was not cancelled had started, so it is over when the loop is.
        thread.join().unwrap();
        for (round, (fired, cancelled, drops)) in fates.iter().enumerate() {
            assert_eq!(fired.get() + cancelled, 1, "round {round}");
            assert_eq!(drops.get(), 1, "round {round}");
        }
    });
}

#[test]
fn a_repeating_timer_that_another_thread_cancels_does_not_fire_again() {
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
            // A call may have been under way. Behind this task it is over, and none comes after.
            let (passed, has_passed) = mpsc::channel();
            let count = calls.clone();
            handle.queue_in_loop(move |_| passed.send(count.get()).unwrap()).unwrap();
            let made = has_passed.recv().unwrap();
            assert_eq!(drops.get(), 1);
            assert_eq!(calls.get(), made);
        }
    });
}

#[test]
fn a_repeating_timer_keeps_its_id_and_never_gets_ahead_of_its_period() {
    const CALLS: u32 = 5;

    with_loop(|event_loop| {
        let period = Duration::from_millis(1);
        let (calls, drops) = (Rc::new(Cell::new(0)), Count::default());
        let (c, token) = (Rc::clone(&calls), drops.drop_token());
        let asked = Instant::now();
        let id = event_loop.run_every(period, move |event_loop| {
            token.keep();
            c.set(c.get() + 1);
            assert!(event_loop.now() >= asked + period * c.get(), "call {}", c.get());
            if c.get() == CALLS {
                event_loop.quit();
            }
        });
        event_loop.run().unwrap();
        assert_eq!(calls.get(), CALLS);
        assert_eq!(drops.get(), 0);
        assert!(event_loop.cancel(id), "the id of the first period is still good");
        assert_eq!(drops.get(), 1);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_repeating_timer_of_a_handle_keeps_its_id_and_never_gets_ahead_of_its_period() {
    with_loop(|event_loop| {
        let (handle, calls) = (event_loop.handle(), Count::default());
        let period = Duration::from_millis(1);
        let c = calls.clone();
        let asked = Instant::now();
        let callback = move |event_loop: &EventLoop| {
            c.add();
            assert!(event_loop.now() >= asked + period * c.get() as u32, "call {}", c.get());
            if c.get() == 5 {
                event_loop.quit();
            }
        };
        let id = on_another_thread(|| handle.run_every(period, callback).unwrap());
        event_loop.run().unwrap();
        assert_eq!(calls.get(), 5);
        assert!(handle.cancel(id) && !event_loop.cancel(id));
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn the_deadlines_of_a_repeating_timer_are_multiples_of_its_period_and_those_missed_are_skipped() {
    with_loop(|event_loop| {
        let period = Duration::from_millis(2);
        let calls = Rc::new(Cell::new(0));
        let c = Rc::clone(&calls);
        event_loop.run_every(period, move |_| c.set(c.get() + 1));
        let first = event_loop.next_deadline().unwrap();
        for _ in 0..5 {
            wait_until(event_loop.next_deadline().unwrap() + Duration::from_micros(500));
            turn(event_loop);
            let next = event_loop.next_deadline().unwrap();
            let since_first = (next - first).as_nanos();
            assert_eq!(since_first % period.as_nanos(), 0, "it does not drift");
        }
        // Late by three periods and a half.
        let due = event_loop.next_deadline().unwrap();
        let late = due + period * 7 / 2;
        wait_until(late);
        turn(event_loop);
        let next = event_loop.next_deadline().unwrap();
        assert!(next > late, "nothing that has been missed is made up for");
        assert_eq!((next - first).as_nanos() % period.as_nanos(), 0);
        assert_eq!(calls.get(), 6);
    });
}

#[test]
fn next_deadline_is_that_of_the_first_timer() {
    with_loop(|event_loop| {
        assert_eq!(event_loop.next_deadline(), None);
        let base = Instant::now();
        let late = event_loop.run_at(base + 2 * HOUR, |_| ());
        assert_eq!(event_loop.next_deadline(), Some(base + 2 * HOUR));
        let early = event_loop.run_at(base + HOUR, |_| ());
        assert_eq!(event_loop.next_deadline(), Some(base + HOUR));
        event_loop.cancel(early);
        assert_eq!(event_loop.next_deadline(), Some(base + 2 * HOUR));
        event_loop.cancel(late);
        assert_eq!(event_loop.next_deadline(), None);
        let handle = event_loop.handle();
        on_another_thread(|| handle.run_at(base + HOUR, |_| ()).unwrap());
        turn(event_loop);
        assert_eq!(event_loop.next_deadline(), Some(base + HOUR));
    });
}

#[test]
fn a_timer_cannot_repeat_every_zero_seconds() {
    with_loop(|event_loop| {
        let message = "a timer cannot repeat every zero seconds";
        assert_eq!(panic_of(|| event_loop.run_every(Duration::ZERO, |_| ())), message);
        assert_eq!(panic_of(|| event_loop.handle().run_every(Duration::ZERO, |_| ())), message);
        turn(event_loop);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_delay_too_long_for_the_clock_never_ends() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let never = |_: &EventLoop| panic!("this has not been long");
        let ids = [
            event_loop.run_after(Duration::MAX, never),
            event_loop.run_every(Duration::MAX, never),
            handle.run_after(Duration::MAX, never).unwrap(),
            on_another_thread(|| handle.run_every(Duration::MAX, never).unwrap()),
        ];
        turn(event_loop);
        let far_ahead = Instant::now() + 50 * 365 * 24 * HOUR;
        assert!(event_loop.next_deadline().unwrap() > far_ahead);
        for id in ids {
            assert!(event_loop.cancel(id));
        }
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_wait_of_weeks_neither_spins_nor_ends_early() {
    // A poll takes its timeout as 31 bits of milliseconds, 24.8 days. These are below, above, and at multiples of 32 bits.
    const MILLIS: [u64; 6] =
        [(1 << 31) - 2, (1 << 31) + 5, (1 << 32) - 1, (1 << 32) + 1, (1 << 33) + 1, 400 * 24 * 3600 * 1000];

    // Time for a wait that is cut short to be over.
    const MEANWHILE: Duration = Duration::from_millis(4);

    with_loop(|event_loop| {
        let other = LoopThread::spawn("other").unwrap();
        for millis in MILLIS {
            let wait = Duration::from_millis(millis);
            let id = event_loop.run_after(wait, |_| panic!("this has not been long"));
            for limit in [Some(wait), Some(Duration::MAX), None] {
                let (handle, posted, turns) = (event_loop.handle(), Count::default(), event_loop.iteration());
                let p = posted.clone();
                let post = move |_: &EventLoop| handle.queue_in_loop(move |_| p.add()).unwrap();
                other.handle().run_after(MEANWHILE, post).unwrap();
                event_loop.run_once(limit).unwrap();
                assert_eq!(posted.get(), 1, "{wait:?}: only the post has ended the wait");
                assert_eq!(event_loop.iteration(), turns + 1);
            }
            assert!(event_loop.cancel(id));
        }
    });
}

#[test]
fn dropping_the_loop_drops_each_callback_once_and_calls_none() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops, called) = (event_loop.handle(), Count::default(), Count::default());
        let callback = || {
            let (token, called) = (drops.drop_token(), called.clone());
            move |_: &EventLoop| {
                token.keep();
                called.add();
            }
        };
        let ids = [
            event_loop.run_after(Duration::ZERO, callback()),
            event_loop.run_every(HOUR, callback()),
            handle.run_after(HOUR, callback()).unwrap(),
            handle.run_every(HOUR, callback()).unwrap(),
            on_another_thread(|| handle.run_after(Duration::ZERO, callback()).unwrap()),
        ];
        drop(event_loop);
        assert_eq!((drops.get(), called.get()), (5, 0));
        assert!(ids.iter().all(|&id| !handle.cancel(id)), "there is nothing left to cancel");

        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        handle.run_after(HOUR, callback()).unwrap();
        on_another_thread(|| handle.run_every(HOUR, callback()).unwrap());
        turn(&event_loop);
        drop(event_loop);
        assert_eq!((drops.get(), called.get()), (7, 0), "those the loop has seen as well");
    });
}

/// A value whose destructor does everything to the loop that a destructor can.
fn uses_the_loop_when_dropped(
    event_loop: &EventLoop,
    victim: TimerId,
    seen: &Recorder,
) -> OnDrop<impl FnOnce() + use<>> {
    thread_local! {
        static SEEN: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    }
    SEEN.set(Some(seen.clone()));
    let handle = event_loop.handle();
    OnDrop::new(move || {
        let use_it = move |event_loop: &EventLoop| {
            let seen = SEEN.with_borrow(|seen| seen.clone().unwrap());
            assert!(event_loop.cancel(victim));
            event_loop.run_after(Duration::ZERO, |_| ());
            event_loop.handle().run_after(Duration::ZERO, |_| ()).unwrap();
            event_loop.queue_in_loop(|_| ());
            event_loop.next_deadline().unwrap();
            seen.record("dropped");
        };
        handle.run_in_loop(use_it).unwrap();
    })
}

#[test]
fn the_destructor_of_a_callback_may_use_the_loop() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Recorder::new());
        let uses_it = || {
            let victim = event_loop.run_after(HOUR, |_| ());
            uses_the_loop_when_dropped(event_loop, victim, &seen)
        };

        let value = uses_it();
        event_loop.run_after(Duration::ZERO, move |_| value.keep());
        turn(event_loop);
        assert_eq!(seen.take(), ["dropped"], "when it has fired");

        let value = uses_it();
        let id = event_loop.run_after(HOUR, move |_| value.keep());
        assert!(event_loop.cancel(id));
        assert_eq!(seen.take(), ["dropped"], "when it is cancelled");

        let value = uses_it();
        let id = Rc::new(Cell::new(None));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            value.keep();
            event_loop.cancel(own.get().unwrap());
        })));
        wait_until(Instant::now() + Duration::from_nanos(2));
        turn(event_loop);
        assert_eq!(seen.take(), ["dropped"], "when it has cancelled itself");

        // These callbacks must be `Send`, which a recorder is not, so the loop's thread keeps that.
        let value = uses_it();
        let id = handle.run_after(HOUR, move |_| value.keep()).unwrap();
        assert!(handle.cancel(id));
        assert_eq!(seen.take(), ["dropped"], "when it is cancelled before it is armed");

        let value = uses_it();
        let id = handle.run_after(HOUR, move |_| value.keep()).unwrap();
        turn(event_loop);
        assert!(event_loop.cancel(id));
        assert_eq!(seen.take(), ["dropped"], "when it is cancelled after it is armed");
    });
}

#[test]
fn a_callback_that_another_thread_cancels_may_use_the_handle_in_its_destructor() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        on_another_thread(|| {
            let victim = handle.run_after(HOUR, |_| ()).unwrap();
            let h = handle.clone();
            let uses_it = OnDrop::new(move || {
                assert!(h.cancel(victim));
                h.run_after(Duration::ZERO, |_| ()).unwrap();
                h.queue_in_loop(EventLoop::quit).unwrap();
            });
            let id = handle.run_after(HOUR, move |_| uses_it.keep()).unwrap();
            assert!(handle.cancel(id));
        });
        event_loop.run().unwrap();
    });
}

#[test]
fn a_repeating_timer_may_make_and_cancel_others_in_its_callback() {
    with_loop(|event_loop| {
        let (seen, children) = (Recorder::new(), Rc::new(RefCell::new(Vec::new())));
        let (s, c, calls) = (seen.clone(), Rc::clone(&children), Cell::new(0));
        event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            // Past the timer's own next deadline, so that it is called before these and cancels half of them.
            wait_until(event_loop.now() + Duration::from_nanos(2));
            calls.set(calls.get() + 1);
            for id in c.take() {
                assert!(event_loop.cancel(id));
            }
            for number in 0..4 {
                let s = s.clone();
                let id = event_loop.run_after(Duration::ZERO, move |_| s.record(number));
                if number % 2 == 1 {
                    c.borrow_mut().push(id);
                }
            }
            if calls.get() == 3 {
                event_loop.quit();
            }
        });
        event_loop.run().unwrap();
        assert_eq!(seen.take(), [0, 2, 0, 2]);
    });
}
