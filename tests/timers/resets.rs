//! Resetting timers to new deadlines, and the timerfd (the alarm) that wakes the loop.

use std::cell::{Cell, OnceCell};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::{HOUR, SECOND};
use crate::support::{Count, LIMIT, Recorder, on_another_thread, turn, with_clock, with_loop, with_watchdog};
use reveille::{EventLoop, LoopHandle, TimerId};

/// Returns a callback that records its name and the elapsed seconds.
fn record_call(
    calls: &Recorder<(&'static str, u64)>,
    name: &'static str,
    start: Instant,
) -> impl FnMut(&EventLoop) + use<> {
    let calls = calls.clone();
    move |event_loop| calls.record((name, (event_loop.now() - start).as_secs()))
}

// --- On the loop

#[test]
fn a_reset_timer_fires_once_at_its_new_deadline() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let later = event_loop.run_after(5 * SECOND, record_call(&calls, "later", start));
        let sooner = event_loop.run_after(5 * SECOND, record_call(&calls, "sooner", start));
        let far = event_loop.run_after(5 * HOUR, record_call(&calls, "from far", start));
        let back = event_loop.run_after(5 * SECOND, record_call(&calls, "there and back", start));
        assert!(event_loop.reset(later, 9 * SECOND));
        assert!(event_loop.reset(sooner, SECOND));
        assert!(event_loop.reset(far, 2 * SECOND));
        assert!(event_loop.reset(back, 3 * HOUR) && event_loop.reset(back, 4 * SECOND));
        event_loop.run_for(6 * HOUR).unwrap();
        assert_eq!(calls.take(), [("sooner", 1), ("from far", 2), ("there and back", 4), ("later", 9)]);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_timer_can_be_reset_to_an_instant() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = event_loop.run_after(HOUR, record_call(&calls, "moved", start));
        assert!(event_loop.reset_at(id, start + 3 * SECOND));
        let (handle, (sender, received)) = (event_loop.handle(), mpsc::channel());
        let (by_handle, second) = on_another_thread(|| {
            let callback =
                move |event_loop: &EventLoop| sender.send((event_loop.now() - start).as_secs()).unwrap();
            let id = handle.run_after(HOUR, callback).unwrap();
            (id, handle.reset_at(id, start + 2 * SECOND))
        });
        assert!(second);
        event_loop.run_for(4 * SECOND).unwrap();
        assert_eq!((calls.take(), received.try_recv()), (vec![("moved", 3)], Ok(2)));
        assert!(!event_loop.reset_at(id, start) && !event_loop.reset_at(by_handle, start));
    });
}

#[test]
fn a_timer_that_is_reset_repeatedly_does_not_fire() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = event_loop.run_after(60 * SECOND, record_call(&calls, "idle", start));
        event_loop.run_every(SECOND, move |event_loop| {
            if event_loop.now() < start + 1000 * SECOND {
                assert!(event_loop.reset(id, 60 * SECOND));
            }
        });
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(calls.take(), [("idle", 999 + 60)]);
    });
}

#[test]
fn a_reset_timer_orders_ties_by_its_reset() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let moved = event_loop.run_after(SECOND, record_call(&calls, "made first, moved", start));
        event_loop.run_after(2 * SECOND, record_call(&calls, "made second", start));
        assert!(event_loop.reset(moved, 2 * SECOND));
        event_loop.run_after(2 * SECOND, record_call(&calls, "made third", start));
        event_loop.run_for(3 * SECOND).unwrap();
        assert_eq!(calls.take(), [("made second", 2), ("made first, moved", 2), ("made third", 2)]);
    });
}

#[test]
fn a_timer_can_reset_a_later_one_of_the_same_turn() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = Rc::new(OnceCell::new());
        let ids = Rc::clone(&id);
        event_loop.run_after(SECOND, move |event_loop| {
            assert!(event_loop.reset(*ids.get().unwrap(), 10 * SECOND));
        });
        id.set(event_loop.run_after(SECOND, record_call(&calls, "moved", start))).unwrap();
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(calls.take(), []);
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(calls.take(), [("moved", 11)]);
    });
}

#[test]
fn a_timer_reset_to_now_fires_in_the_next_turn() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = event_loop.run_after(HOUR, record_call(&calls, "moved", start));
        event_loop.run_after(SECOND, move |event_loop| assert!(event_loop.reset(id, Duration::ZERO)));
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(calls.take(), []);
        turn(event_loop);
        assert_eq!(calls.take(), [("moved", 1)]);
    });
}

#[test]
fn a_repeating_timer_that_resets_itself_repeats_from_there() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = Rc::new(OnceCell::new());
        let own = Rc::clone(&id);
        let mut record_tick = record_call(&calls, "tick", start);
        id.set(event_loop.run_every(SECOND, move |event_loop| {
            record_tick(event_loop);
            if event_loop.now() == start + 2 * SECOND {
                assert!(event_loop.reset(*own.get().unwrap(), 10 * SECOND));
            }
        }))
        .unwrap();
        event_loop.run_for(14 * SECOND).unwrap();
        assert_eq!(calls.take().into_iter().map(|(_, at)| at).collect::<Vec<_>>(), [1, 2, 12, 13, 14]);
        assert!(event_loop.reset(*id.get().unwrap(), SECOND / 2), "it keeps its id");
    });
}

#[test]
fn a_timer_that_has_ended_cannot_be_reset() {
    with_clock(|event_loop, clock| {
        let own = Rc::new(OnceCell::new());
        let itself = Rc::clone(&own);
        let moved = Rc::new(Cell::new(None));
        let was_moved = Rc::clone(&moved);
        own.set(event_loop.run_after(SECOND, move |event_loop| {
            was_moved.set(Some(event_loop.reset(*itself.get().unwrap(), SECOND)));
        }))
        .unwrap();
        let cancelled = event_loop.run_after(SECOND, |_| panic!("it was cancelled"));
        assert!(event_loop.cancel(cancelled) && !event_loop.reset(cancelled, SECOND));
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(moved.get(), Some(false), "a one-shot timer has ended when its callback starts");
        assert!(!event_loop.reset(*own.get().unwrap(), SECOND));
        assert_eq!(event_loop.next_deadline(), None);
        let foreign = on_another_thread(|| EventLoop::new().unwrap().run_after(HOUR, |_| ()));
        event_loop.run_after(HOUR, |_| ());
        assert!(!event_loop.reset(foreign, SECOND) && !event_loop.handle().reset(foreign, SECOND));
    });
}

#[test]
fn a_timer_can_be_reset_beyond_the_clock_range() {
    with_clock(|event_loop, clock| {
        let id = event_loop.run_after(SECOND, |_| ());
        assert!(event_loop.reset(id, Duration::MAX));
        event_loop.run_for(1000 * HOUR).unwrap();
        assert!(event_loop.next_deadline().unwrap() > clock.now() + 50 * 365 * 24 * HOUR);
        assert!(event_loop.cancel(id));
    });
}

// --- From other threads

/// Covers timers made through the handle and on the loop, armed (`seen`) and not yet armed.
fn reset_from_another_thread(
    make: impl FnOnce(&EventLoop, &LoopHandle, mpsc::Sender<u64>, Instant) -> TimerId + Send + 'static,
    seen: bool,
) {
    with_clock(move |event_loop, clock| {
        let (handle, start) = (event_loop.handle(), clock.now());
        let (sender, received) = mpsc::channel();
        let id = make(event_loop, &handle, sender, start);
        if seen {
            turn(event_loop);
        }
        assert!(on_another_thread(|| handle.reset(id, 9 * SECOND)));
        event_loop.run_for(8 * SECOND).unwrap();
        assert_eq!(received.try_recv(), Err(mpsc::TryRecvError::Empty));
        // The time is 8 s, the deadline 9 s.
        assert!(on_another_thread(|| handle.reset(id, 2 * SECOND)));
        event_loop.run_for(SECOND).unwrap();
        assert_eq!(received.try_recv(), Err(mpsc::TryRecvError::Empty));
        // The time is 9 s, the deadline 10 s. Half a second is sooner.
        assert!(on_another_thread(|| handle.reset(id, SECOND / 2)));
        event_loop.run_for(SECOND / 2).unwrap();
        assert_eq!(received.try_recv(), Ok(9));
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(received.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    });
}

#[test]
fn a_handle_timer_can_be_reset_before_and_after_arming() {
    for seen in [false, true] {
        reset_from_another_thread(
            |_, handle, sender, start| {
                let callback =
                    move |event_loop: &EventLoop| sender.send((event_loop.now() - start).as_secs()).unwrap();
                on_another_thread(|| handle.run_after(5 * SECOND, callback).unwrap())
            },
            seen,
        );
    }
}

/// The task that arms the timer is queued by this thread. The task that resets it, queued by
/// another thread, runs first.
#[test]
fn a_timer_reset_elsewhere_before_arming_fires_on_time() {
    with_clock(|event_loop, clock| {
        let (fired, handle) = (Count::default(), event_loop.handle());
        let f = fired.clone();
        let id = handle.run_after(HOUR, move |_| f.add()).unwrap();
        assert!(on_another_thread(|| handle.reset(id, SECOND)));
        turn(event_loop);
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn another_thread_can_reset_a_timer_of_the_loop() {
    let make = |event_loop: &EventLoop, _: &LoopHandle, sender: mpsc::Sender<u64>, start: Instant| {
        event_loop.run_after(5 * SECOND, move |event_loop| {
            sender.send((event_loop.now() - start).as_secs()).unwrap()
        })
    };
    reset_from_another_thread(make, true);
}

#[test]
fn a_repeating_handle_timer_that_resets_itself_repeats_from_there() {
    with_clock(|event_loop, clock| {
        let (handle, start) = (event_loop.handle(), clock.now());
        let (sender, received) = mpsc::channel();
        let (tell_id, own_id) = mpsc::channel();
        let id = on_another_thread(|| {
            let by_handle = handle.clone();
            let mut id = None;
            handle.run_every(SECOND, move |event_loop| {
                let at = (event_loop.now() - start).as_secs();
                sender.send(at).unwrap();
                let id = *id.get_or_insert_with(|| own_id.recv().unwrap());
                match at {
                    2 => assert!(event_loop.reset(id, 10 * SECOND)),
                    12 => assert!(by_handle.reset(id, 3 * SECOND)),
                    _ => {}
                }
            })
        })
        .unwrap();
        tell_id.send(id).unwrap();
        event_loop.run_for(16 * SECOND).unwrap();
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [1, 2, 12, 15, 16]);
    });
}

/// The thread that resets the timer and the loop that fires it agree on which came first.
#[test]
fn a_timer_reset_while_due_either_fires_or_is_reset() {
    with_watchdog(LIMIT, || {
        for _ in 0..300 {
            let event_loop = EventLoop::new().unwrap();
            let (handle, fired) = (event_loop.handle(), Count::default());
            let counted = fired.clone();
            let id = handle.run_after(Duration::from_micros(50), move |_| counted.add()).unwrap();
            let mover = thread::spawn(move || {
                let moved = handle.reset(id, HOUR);
                handle.quit();
                (handle, moved)
            });
            event_loop.run().unwrap();
            let (handle, moved) = mover.join().unwrap();
            assert_eq!(fired.get(), usize::from(!moved));
            assert_eq!(handle.cancel(id), moved);
        }
    });
}

#[test]
fn a_timer_of_a_dropped_loop_cannot_be_reset() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        let ids = [event_loop.run_after(HOUR, |_| ()), handle.run_after(HOUR, |_| ()).unwrap()];
        drop(event_loop);
        for id in ids {
            assert!(!handle.reset(id, SECOND));
        }
    });
}

// --- The alarm

/// Returns the fdinfo of the only timerfd that a new loop watches (proc_pid_fdinfo(5)).
fn alarm(event_loop: &EventLoop) -> String {
    let fd_info =
        |fd: i32| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("an open descriptor");
    let watched = fd_info(event_loop.as_fd().as_raw_fd());
    let mut alarms = watched
        .lines()
        .filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next())
        .map(|fd| fd_info(fd.parse().expect("a descriptor")))
        .filter(|info| info.contains("clockid:"));
    let alarm = alarms.next().expect("a timerfd");
    assert!(alarms.next().is_none(), "it has only one");
    alarm
}

fn field(info: &str, name: &str) -> String {
    let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this name in fdinfo");
    line.trim().to_owned()
}

/// Returns the time until the alarm expires.
fn remaining(event_loop: &EventLoop) -> Duration {
    let value = field(&alarm(event_loop), "it_value:");
    let (seconds, nanos) = value.trim_matches(['(', ')']).split_once(", ").expect("a pair");
    Duration::new(seconds.parse().expect("seconds"), nanos.parse().expect("nanoseconds"))
}

/// Clock adjustments do not move the alarm: clock id 1 is CLOCK_MONOTONIC (timerfd_create(2),
/// clock_gettime(2)).
#[test]
fn the_alarm_uses_the_monotonic_clock() {
    with_loop(|event_loop| assert_eq!(field(&alarm(event_loop), "clockid:"), "1"));
}

/// The test reads the clock before the loop sets the alarm and after it has read the remaining
/// time, so the speed of the machine does not matter.
#[test]
fn the_alarm_is_set_with_nanosecond_precision() {
    /// Returns `None` if a deadline has passed meanwhile.
    fn check(event_loop: &EventLoop) -> Option<()> {
        let began = Instant::now();
        // Each deadline is earlier than the previous one. Otherwise the alarm would keep its
        // setting.
        for nanos in
            [1_900_000_001, 1_800_499_999, 1_700_999_999, 1_600_500_001, 1_523_456_789, 1_400_000_000]
        {
            let deadline = began + Duration::from_nanos(nanos);
            event_loop.run_at(deadline, |_| ());
            let before = Instant::now();
            turn(event_loop);
            let remaining = remaining(event_loop);
            let after = Instant::now();
            let least = deadline.checked_duration_since(after)?;
            assert!(least <= remaining, "{remaining:?} is early: at least {least:?}");
            assert!(remaining <= deadline - before, "{remaining:?} is late: at most {:?}", deadline - before);
        }
        Some(())
    }
    with_watchdog(LIMIT, || {
        // A machine that stalled for a second has to try again.
        while check(&EventLoop::new().unwrap()).is_none() {}
    });
}

#[test]
fn the_alarm_is_kept_while_no_deadline_is_earlier() {
    with_loop(|event_loop| {
        let now = Instant::now();
        let next = event_loop.run_at(now + HOUR, |_| ());
        turn(event_loop);
        event_loop.run_at(now + 2 * HOUR, |_| ());
        assert!(event_loop.cancel(next));
        turn(event_loop);
        assert!(
            remaining(event_loop) <= HOUR,
            "a spurious expiry is cheaper than a system call for each change"
        );
        event_loop.run_at(now + HOUR / 2, |_| ());
        turn(event_loop);
        assert!(remaining(event_loop) <= HOUR / 2);
    });
}

#[test]
fn a_spurious_alarm_does_not_suppress_the_next_alarm() {
    with_loop(|event_loop| {
        for _ in 0..3 {
            let cancelled = event_loop.run_after(Duration::from_millis(1), |_| panic!("it was cancelled"));
            turn(event_loop);
            assert!(event_loop.cancel(cancelled));
            // The turn that handles the expiry finds no timer at all.
            crate::support::wait_readable(event_loop);
            turn(event_loop);
            event_loop.run_after(Duration::from_millis(1), EventLoop::quit);
            event_loop.run().unwrap();
        }
    });
}

#[test]
fn the_loop_descriptor_is_readable_when_a_timer_is_due() {
    with_loop(|event_loop| {
        let fired = Rc::new(Cell::new(false));
        let fire = Rc::clone(&fired);
        event_loop.run_after(Duration::from_millis(2), move |_| fire.set(true));
        turn(event_loop);
        while !fired.get() {
            crate::support::wait_readable(event_loop);
            turn(event_loop);
        }
    });
}
