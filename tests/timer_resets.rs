//! Timers that are moved, and the alarm that the kernel is told of.

mod support;

use std::cell::{Cell, OnceCell};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use reveille::{EventLoop, LoopHandle, TimerId};
use support::clock::{HOUR, SECOND};
use support::{Count, LIMIT, Recorder, on_another_thread, turn, with_clock, with_loop, with_watchdog};

/// A callback that notes its name and the second.
fn note(
    calls: &Recorder<(&'static str, u64)>,
    name: &'static str,
    start: Instant,
) -> impl FnMut(&EventLoop) + use<> {
    let calls = calls.clone();
    move |event_loop| calls.record((name, (event_loop.now() - start).as_secs()))
}

// --- On the loop
// ----------------------------------------------------------------------------------

#[test]
fn a_timer_that_is_moved_fires_once_and_at_its_new_deadline() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let later = event_loop.run_after(5 * SECOND, note(&calls, "later", start));
        let sooner = event_loop.run_after(5 * SECOND, note(&calls, "sooner", start));
        let far = event_loop.run_after(5 * HOUR, note(&calls, "from far", start));
        let back = event_loop.run_after(5 * SECOND, note(&calls, "there and back", start));
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
fn a_timer_may_be_moved_to_an_instant() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = event_loop.run_after(HOUR, note(&calls, "moved", start));
        assert!(event_loop.reset_at(id, start + 3 * SECOND));
        let (handle, (tell, told)) = (event_loop.handle(), mpsc::channel());
        let (by_handle, second) = on_another_thread(|| {
            let callback =
                move |event_loop: &EventLoop| tell.send((event_loop.now() - start).as_secs()).unwrap();
            let id = handle.run_after(HOUR, callback).unwrap();
            (id, handle.reset_at(id, start + 2 * SECOND))
        });
        assert!(second);
        event_loop.run_for(4 * SECOND).unwrap();
        assert_eq!((calls.take(), told.try_recv()), (vec![("moved", 3)], Ok(2)));
        assert!(!event_loop.reset_at(id, start) && !event_loop.reset_at(by_handle, start));
    });
}

#[test]
fn a_deadline_that_is_pushed_back_again_and_again_does_not_come() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = event_loop.run_after(60 * SECOND, note(&calls, "idle", start));
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
fn a_timer_that_is_moved_counts_as_made_then() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let moved = event_loop.run_after(SECOND, note(&calls, "made first, moved", start));
        event_loop.run_after(2 * SECOND, note(&calls, "made second", start));
        assert!(event_loop.reset(moved, 2 * SECOND));
        event_loop.run_after(2 * SECOND, note(&calls, "made third", start));
        event_loop.run_for(3 * SECOND).unwrap();
        assert_eq!(calls.take(), [("made second", 2), ("made first, moved", 2), ("made third", 2)]);
    });
}

#[test]
fn a_timer_that_is_due_in_the_same_turn_can_be_moved_by_an_earlier_one() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = Rc::new(OnceCell::new());
        let ids = Rc::clone(&id);
        event_loop.run_after(SECOND, move |event_loop| {
            assert!(event_loop.reset(*ids.get().unwrap(), 10 * SECOND));
        });
        id.set(event_loop.run_after(SECOND, note(&calls, "moved", start))).unwrap();
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(calls.take(), []);
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(calls.take(), [("moved", 11)]);
    });
}

#[test]
fn a_timer_moved_to_now_waits_for_the_next_turn() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = event_loop.run_after(HOUR, note(&calls, "moved", start));
        event_loop.run_after(SECOND, move |event_loop| assert!(event_loop.reset(id, Duration::ZERO)));
        clock.advance(SECOND);
        turn(event_loop);
        assert_eq!(calls.take(), []);
        turn(event_loop);
        assert_eq!(calls.take(), [("moved", 1)]);
    });
}

#[test]
fn a_repeating_timer_that_moves_itself_goes_on_from_there() {
    with_clock(|event_loop, clock| {
        let (calls, start) = (Recorder::new(), clock.now());
        let id = Rc::new(OnceCell::new());
        let own = Rc::clone(&id);
        let mut noted = note(&calls, "tick", start);
        id.set(event_loop.run_every(SECOND, move |event_loop| {
            noted(event_loop);
            if event_loop.now() == start + 2 * SECOND {
                assert!(event_loop.reset(*own.get().unwrap(), 10 * SECOND));
            }
        }))
        .unwrap();
        event_loop.run_for(14 * SECOND).unwrap();
        assert_eq!(calls.take().into_iter().map(|(_, at)| at).collect::<Vec<_>>(), [1, 2, 12, 13, 14]);
        assert!(event_loop.reset(*id.get().unwrap(), SECOND / 2), "it still has its id");
    });
}

#[test]
fn a_timer_that_has_ended_cannot_be_moved() {
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
        assert_eq!(moved.get(), Some(false), "what fires once has ended when its callback starts");
        assert!(!event_loop.reset(*own.get().unwrap(), SECOND));
        assert_eq!(event_loop.next_deadline(), None);
        let foreign = on_another_thread(|| EventLoop::new().unwrap().run_after(HOUR, |_| ()));
        event_loop.run_after(HOUR, |_| ());
        assert!(!event_loop.reset(foreign, SECOND) && !event_loop.handle().reset(foreign, SECOND));
    });
}

#[test]
fn a_timer_may_be_moved_beyond_what_the_clock_can_say() {
    with_clock(|event_loop, clock| {
        let id = event_loop.run_after(SECOND, |_| ());
        assert!(event_loop.reset(id, Duration::MAX));
        event_loop.run_for(1000 * HOUR).unwrap();
        assert!(event_loop.next_deadline().unwrap() > clock.now() + 50 * 365 * 24 * HOUR);
        assert!(event_loop.cancel(id));
    });
}

// --- From other threads
// ---------------------------------------------------------------------------

/// The timer is one of the handle or one of the loop; the loop has seen it, or has not.
fn moved_from_another_thread(
    make: impl FnOnce(&EventLoop, &LoopHandle, mpsc::Sender<u64>, Instant) -> TimerId + Send + 'static,
    seen: bool,
) {
    with_clock(move |event_loop, clock| {
        let (handle, start) = (event_loop.handle(), clock.now());
        let (tell, told) = mpsc::channel();
        let id = make(event_loop, &handle, tell, start);
        if seen {
            turn(event_loop);
        }
        assert!(on_another_thread(|| handle.reset(id, 9 * SECOND)));
        event_loop.run_for(8 * SECOND).unwrap();
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        // Now is 8, the deadline 9.
        assert!(on_another_thread(|| handle.reset(id, 2 * SECOND)));
        event_loop.run_for(SECOND).unwrap();
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        // Now is 9, the deadline 10; half a second is sooner.
        assert!(on_another_thread(|| handle.reset(id, SECOND / 2)));
        event_loop.run_for(SECOND / 2).unwrap();
        assert_eq!(told.try_recv(), Ok(9));
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    });
}

#[test]
fn a_timer_of_a_handle_can_be_moved_before_the_loop_has_seen_it_and_after() {
    for seen in [false, true] {
        moved_from_another_thread(
            |_, handle, tell, start| {
                let callback =
                    move |event_loop: &EventLoop| tell.send((event_loop.now() - start).as_secs()).unwrap();
                on_another_thread(|| handle.run_after(5 * SECOND, callback).unwrap())
            },
            seen,
        );
    }
}

/// The errand that arms the timer is this thread's own, and the one that moves it, from elsewhere,
/// overtakes it.
#[test]
fn a_timer_that_another_thread_moves_before_it_is_armed_fires_in_time() {
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
fn another_thread_can_have_a_timer_of_the_loop_moved() {
    let make = |event_loop: &EventLoop, _: &LoopHandle, tell: mpsc::Sender<u64>, start: Instant| {
        event_loop
            .run_after(5 * SECOND, move |event_loop| tell.send((event_loop.now() - start).as_secs()).unwrap())
    };
    moved_from_another_thread(make, true);
}

#[test]
fn a_repeating_timer_of_a_handle_that_is_moved_by_its_own_callback_goes_on_from_there() {
    with_clock(|event_loop, clock| {
        let (handle, start) = (event_loop.handle(), clock.now());
        let (tell, told) = mpsc::channel();
        let (tell_id, own_id) = mpsc::channel();
        let id = on_another_thread(|| {
            let by_handle = handle.clone();
            let mut id = None;
            handle.run_every(SECOND, move |event_loop| {
                let at = (event_loop.now() - start).as_secs();
                tell.send(at).unwrap();
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
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2, 12, 15, 16]);
    });
}

/// Whoever moves it and the loop that comes to it agree on which was first.
#[test]
fn a_timer_that_is_moved_while_it_comes_due_either_fires_or_was_moved() {
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
fn a_timer_of_a_loop_that_has_gone_cannot_be_moved() {
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
// ------------------------------------------------------------------------------------

/// What the kernel says of the one timerfd that a new loop watches.
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
    assert!(alarms.next().is_none(), "it has one");
    alarm
}

fn field(info: &str, name: &str) -> String {
    let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("what the kernel says of it");
    line.trim().to_owned()
}

/// How long the alarm has to go.
fn remaining(event_loop: &EventLoop) -> Duration {
    let value = field(&alarm(event_loop), "it_value:");
    let (seconds, nanos) = value.trim_matches(['(', ')']).split_once(", ").expect("a pair");
    Duration::new(seconds.parse().expect("seconds"), nanos.parse().expect("nanoseconds"))
}

/// No change of the date moves the clock that it goes by: 1 is CLOCK_MONOTONIC (timerfd_create(2),
/// clock_gettime(2)).
#[test]
fn the_alarm_goes_by_the_monotonic_clock() {
    with_loop(|event_loop| assert_eq!(field(&alarm(event_loop), "clockid:"), "1"));
}

/// The clock is read before the loop sets the alarm and after the kernel has been asked how long it
/// has to go, so the machine's pace plays no part.
#[test]
fn the_alarm_is_set_to_the_nanosecond_and_not_to_the_millisecond() {
    /// `None` if a deadline has come meanwhile.
    fn check(event_loop: &EventLoop) -> Option<()> {
        let began = Instant::now();
        // Each is closer than the one before, or the alarm would stay where it is.
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
        // A machine that was held up for a second has to try again.
        while check(&EventLoop::new().unwrap()).is_none() {}
    });
}

#[test]
fn the_alarm_stays_set_while_the_next_deadline_is_no_closer() {
    with_loop(|event_loop| {
        let now = Instant::now();
        let next = event_loop.run_at(now + HOUR, |_| ());
        turn(event_loop);
        event_loop.run_at(now + 2 * HOUR, |_| ());
        assert!(event_loop.cancel(next));
        turn(event_loop);
        assert!(
            remaining(event_loop) <= HOUR,
            "going off in vain is cheaper than telling the kernel each time"
        );
        event_loop.run_at(now + HOUR / 2, |_| ());
        turn(event_loop);
        assert!(remaining(event_loop) <= HOUR / 2);
    });
}

#[test]
fn an_alarm_that_goes_off_for_nobody_does_not_silence_the_next() {
    with_loop(|event_loop| {
        for _ in 0..3 {
            let nobody = event_loop.run_after(Duration::from_millis(1), |_| panic!("it was cancelled"));
            turn(event_loop);
            assert!(event_loop.cancel(nobody));
            // The turn that sees it has no timer at all.
            support::wait_readable(event_loop);
            turn(event_loop);
            event_loop.run_after(Duration::from_millis(1), EventLoop::quit);
            event_loop.run().unwrap();
        }
    });
}

#[test]
fn the_loops_descriptor_shows_that_a_timer_is_due() {
    with_loop(|event_loop| {
        let fired = Rc::new(Cell::new(false));
        let fire = Rc::clone(&fired);
        event_loop.run_after(Duration::from_millis(2), move |_| fire.set(true));
        turn(event_loop);
        while !fired.get() {
            support::wait_readable(event_loop);
            turn(event_loop);
        }
    });
}
