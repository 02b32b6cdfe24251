//! When timers fire: never early, in the order of their deadlines, and at multiples of their
//! period. Also covers `next_deadline` and `deadline`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::bench::with_virtual_time;
use crate::support::clock::{HOUR, SECOND, wait_until};
use crate::support::{Count, Recorder, on_another_thread, panic_of, turn, with_loop};
use reveille::{EventLoop, LoopThread, TimerId};

#[test]
fn a_timer_is_never_early() {
    with_loop(|event_loop| {
        let left = Rc::new(Cell::new(0));
        for micros in [0, 1, 50, 300, 999, 1_000, 1_001, 1_500, 2_750, 7_300, 10_000] {
            let delay = Duration::from_micros(micros);
            left.set(left.get() + 2);
            let start = Instant::now();
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
            event_loop.run_after(delay, check(start));
            event_loop.run_at(start + delay, check(start));
        }
        event_loop.run().unwrap();
        assert_eq!(left.get(), 0);
    });
}

#[test]
fn a_delay_counts_from_the_call_not_the_turn_start() {
    with_loop(|event_loop| {
        let delay = Duration::from_millis(3);
        event_loop.queue_in_loop(move |event_loop| {
            wait_until(event_loop.now() + delay);
            let start = Instant::now();
            event_loop.run_after(delay, move |event_loop| {
                assert!(event_loop.now() >= start + delay);
                event_loop.quit();
            });
        });
        event_loop.run().unwrap();
    });
}

#[test]
fn timers_fire_by_deadline_and_ties_by_creation_order() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let base = Instant::now();
        let mut expected = Vec::new();
        for number in 0..200_u64 {
            // 10 deadlines in shuffled order, 20 timers each.
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
fn loop_and_handle_timers_fire_in_one_order() {
    thread_local! {
        static SEEN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    // Returns whether all timers were queued before the first deadline. On a machine too slow for
    // that, the order of the timers proves nothing.
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
fn a_past_deadline_fires_in_the_next_turn_without_waiting() {
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
        // After a turn, set a deadline from before that turn.
        event_loop.run_at(past, move |_| s.record("again"));
        event_loop.run_once(None).unwrap();
        assert_eq!(seen.take(), ["again"]);
    });
}

#[test]
fn a_repeating_timer_keeps_its_id_and_is_never_early() {
    const CALLS: u32 = 5;

    with_loop(|event_loop| {
        let period = Duration::from_millis(1);
        let (calls, drops) = (Rc::new(Cell::new(0)), Count::default());
        let (c, token) = (Rc::clone(&calls), drops.drop_token());
        let start = Instant::now();
        let id = event_loop.run_every(period, move |event_loop| {
            token.keep();
            c.set(c.get() + 1);
            assert!(event_loop.now() >= start + period * c.get(), "call {}", c.get());
            if c.get() == CALLS {
                event_loop.quit();
            }
        });
        event_loop.run().unwrap();
        assert_eq!(calls.get(), CALLS);
        assert_eq!(drops.get(), 0);
        assert!(event_loop.cancel(id), "the id stays valid after the first period");
        assert_eq!(drops.get(), 1);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_repeating_handle_timer_keeps_its_id_and_is_never_early() {
    with_loop(|event_loop| {
        let (handle, calls) = (event_loop.handle(), Count::default());
        let period = Duration::from_millis(1);
        let c = calls.clone();
        let start = Instant::now();
        let callback = move |event_loop: &EventLoop| {
            c.add();
            assert!(event_loop.now() >= start + period * c.get() as u32, "call {}", c.get());
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
fn repeating_deadlines_are_period_multiples_and_missed_ones_are_skipped() {
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
        // Late by 3.5 periods.
        let due = event_loop.next_deadline().unwrap();
        let late = due + period * 7 / 2;
        wait_until(late);
        turn(event_loop);
        let next = event_loop.next_deadline().unwrap();
        assert!(next > late, "missed deadlines are skipped");
        assert_eq!((next - first).as_nanos() % period.as_nanos(), 0);
        assert_eq!(calls.get(), 6);
    });
}

#[test]
fn next_deadline_is_that_of_the_earliest_timer() {
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
fn a_delay_beyond_the_clock_range_never_expires() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let never = |_: &EventLoop| panic!("the timer fired early");
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
    // A poll takes its timeout as a 31-bit number of milliseconds (24.8 days). These values are
    // below that limit, above it, and near multiples of 2^32.
    const MILLIS: [u64; 6] =
        [(1 << 31) - 2, (1 << 31) + 5, (1 << 32) - 1, (1 << 32) + 1, (1 << 33) + 1, 400 * 24 * 3600 * 1000];

    // Long enough for a truncated wait to return.
    const GRACE_PERIOD: Duration = Duration::from_millis(4);

    with_loop(|event_loop| {
        let other = LoopThread::spawn("other").unwrap();
        for millis in MILLIS {
            let wait = Duration::from_millis(millis);
            let id = event_loop.run_after(wait, |_| panic!("the timer fired early"));
            for limit in [Some(wait), Some(Duration::MAX), None] {
                let (handle, posted, turns) = (event_loop.handle(), Count::default(), event_loop.iteration());
                let p = posted.clone();
                let post = move |_: &EventLoop| handle.queue_in_loop(move |_| p.add()).unwrap();
                other.handle().run_after(GRACE_PERIOD, post).unwrap();
                event_loop.run_once(limit).unwrap();
                assert_eq!(posted.get(), 1, "{wait:?}: only the post has ended the wait");
                assert_eq!(event_loop.iteration(), turns + 1);
            }
            assert!(event_loop.cancel(id));
        }
    });
}

#[test]
fn a_loop_knows_the_deadlines_of_its_timers() {
    with_virtual_time(|builder, clock| {
        let event_loop = &builder.build().unwrap();
        let start = clock.now();
        let local = event_loop.run_after(2 * SECOND, |_| ());
        let handle = event_loop.handle();
        let remote = on_another_thread(|| handle.run_after(3 * SECOND, |_| ()).unwrap());
        assert_eq!(event_loop.deadline(local), Some(start + 2 * SECOND));
        turn(event_loop);
        assert_eq!(event_loop.deadline(remote), Some(start + 3 * SECOND));
        assert!(event_loop.reset(remote, 4 * SECOND));
        assert!(event_loop.reset(local, SECOND));
        assert_eq!(event_loop.deadline(remote), Some(start + 4 * SECOND));
        assert_eq!(event_loop.deadline(local), Some(start + SECOND));
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(event_loop.deadline(local), None, "the timer has fired");
        assert!(event_loop.cancel(remote));
        assert_eq!(event_loop.deadline(remote), None, "the timer was cancelled");
        let other_loop = on_another_thread(|| EventLoop::new().unwrap().run_after(SECOND, |_| ()));
        assert_eq!(event_loop.deadline(other_loop), None);
    });
}

#[test]
fn the_deadline_of_a_repeating_timer_moves_with_each_call() {
    with_virtual_time(|builder, clock| {
        let event_loop = &builder.build().unwrap();
        let start = clock.now();
        let id = Rc::new(Cell::new(None::<TimerId>));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (own, recorded) = (Rc::clone(&id), Rc::clone(&seen));
        id.set(Some(event_loop.run_every(SECOND, move |event_loop| {
            recorded.borrow_mut().push(event_loop.deadline(own.get().unwrap()));
        })));
        let timer = id.get().unwrap();
        for number in 1..=3 {
            assert_eq!(event_loop.deadline(timer), Some(start + number * SECOND));
            clock.advance(SECOND);
            turn(event_loop);
        }
        // Within the callback it is the deadline that the callback runs for.
        assert_eq!(seen.take(), [1, 2, 3].map(|number| Some(start + number * SECOND)));
        assert!(event_loop.cancel(timer));
        assert_eq!(event_loop.deadline(timer), None);
    });
}

#[test]
fn a_fired_remote_timer_has_no_deadline() {
    with_virtual_time(|builder, clock| {
        let event_loop = &builder.build().unwrap();
        let handle = event_loop.handle();
        let timer = on_another_thread(|| handle.run_after(SECOND, |_| ()).unwrap());
        turn(event_loop);
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(event_loop.deadline(timer), None);
    });
}
