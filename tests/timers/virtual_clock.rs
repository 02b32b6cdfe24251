//! A loop whose time is moved by a test: which callbacks run, in which order, and at which times.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::{HOUR, MINUTE, SECOND};
use crate::support::{
    Count, LIMIT, Recorder, on_another_thread, turn, wait_until_asleep, with_clock, with_watchdog,
};
use reveille::EventLoop;
use reveille::io::{Channel, Interest};
use reveille::time::{MissedTickBehavior, Repeat, VirtualClock};

/// Returns a callback that records the time of each call, in seconds since `start` by the loop's
/// clock.
fn record_time(times: &Recorder<u64>, start: Instant) -> impl FnMut(&EventLoop) + Clone + use<> {
    let times = times.clone();
    move |event_loop| times.record((event_loop.now() - start).as_secs())
}

#[test]
fn virtual_time_is_constant_until_it_is_moved() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        event_loop.run_after(SECOND, record_time(&times, start));
        for _ in 0..3 {
            turn(event_loop);
        }
        assert_eq!((event_loop.now(), clock.now()), (start, start));
        clock.advance(SECOND - Duration::from_nanos(1));
        turn(event_loop);
        assert_eq!(times.take(), []);
        clock.advance(Duration::from_nanos(1));
        turn(event_loop);
        assert_eq!(times.take(), [1]);
        assert_eq!(event_loop.now(), start + SECOND);
    });
}

#[test]
fn run_for_meets_each_deadline_in_order_and_on_time() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        event_loop.run_every(20 * MINUTE, record_time(&times, start));
        event_loop.run_at(start + 30 * MINUTE, record_time(&times, start));
        let (inner, handle) = (times.clone(), event_loop.handle());
        let (sender, received) = mpsc::channel();
        event_loop.run_after(MINUTE, move |event_loop| {
            // Timers that a callback starts, on the loop or through a handle, count from the time
            // of that callback. Tasks that it queues run at that time.
            event_loop.run_after(MINUTE, record_time(&inner, start));
            event_loop.queue_in_loop(record_time(&inner, start));
            let (sender, from) = (sender.clone(), start);
            handle
                .run_after(2 * MINUTE, move |event_loop| sender.send(event_loop.now() - from).unwrap())
                .unwrap();
        });
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(times.take(), [60, 120, 1200, 1800, 2400, 3600]);
        assert_eq!(received.recv(), Ok(3 * MINUTE));
        assert_eq!(clock.now(), start + HOUR);
        event_loop.run_for(20 * MINUTE - SECOND).unwrap();
        assert_eq!(times.take(), []);
        event_loop.run_for(SECOND).unwrap();
        assert_eq!(times.take(), [4800]);
    });
}

#[test]
fn work_started_by_the_final_deadline_is_done() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        let inner = times.clone();
        event_loop.run_after(SECOND, move |event_loop| {
            let (task, timer) = (record_time(&inner, start), record_time(&inner, start));
            event_loop.queue_in_loop(move |event_loop| event_loop.queue_in_loop(task));
            event_loop.run_after(Duration::ZERO, timer.clone());
            event_loop.run_after(SECOND, timer);
        });
        event_loop.run_for(SECOND).unwrap();
        assert_eq!(times.take(), [1, 1]);
        assert_eq!(clock.now(), start + SECOND);
    });
}

#[test]
fn quit_ends_the_run_and_the_clock_stops_there() {
    with_clock(|event_loop, clock| {
        let start = clock.now();
        event_loop.run_after(MINUTE, EventLoop::quit);
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(clock.now(), start + MINUTE);
        assert!(!event_loop.is_quitting(), "that was honoured");
        event_loop.run_for(HOUR).unwrap();
        assert_eq!(clock.now(), start + MINUTE + HOUR);
    });
}

/// Returns the times in milliseconds at which a repeating timer made by `make` is called. The clock
/// jumps by 3.5 seconds once, as if the loop had been blocked for that time, and then five times by
/// 0.5 seconds.
fn calls_of(
    when_late: MissedTickBehavior,
    make: impl FnOnce(&EventLoop, Repeat, Box<dyn FnMut(&EventLoop) + Send>) + Send + 'static,
) -> Vec<u64> {
    with_clock(move |event_loop, clock| {
        let start = clock.now();
        let (call, calls) = mpsc::channel();
        let record_time = move |event_loop: &EventLoop| {
            call.send((event_loop.now() - start).as_millis() as u64).unwrap();
        };
        make(event_loop, Repeat::every(SECOND).when_late(when_late), Box::new(record_time));
        // In this turn the loop receives a timer that was made through its handle.
        turn(event_loop);
        clock.advance(SECOND * 7 / 2);
        for _ in 0..5 {
            turn(event_loop);
        }
        for _ in 0..5 {
            clock.advance(SECOND / 2);
            turn(event_loop);
        }
        calls.try_iter().collect()
    })
}

#[test]
fn a_late_repeating_timer_follows_its_policy() {
    let calls = |when_late| {
        calls_of(when_late, |event_loop, repeat, record_time| {
            event_loop.run_every(repeat, record_time);
        })
    };
    assert_eq!(calls(MissedTickBehavior::Skip), [3500, 4000, 5000, 6000]);
    assert_eq!(calls(MissedTickBehavior::Burst), [3500, 3500, 3500, 4000, 5000, 6000]);
    assert_eq!(calls(MissedTickBehavior::Delay), [3500, 4500, 5500]);
    assert_eq!(MissedTickBehavior::default(), MissedTickBehavior::Skip);
}

#[test]
fn a_late_repeating_timer_of_a_handle_follows_its_policy() {
    let calls = |when_late| {
        calls_of(when_late, |event_loop, repeat, record_time| {
            let handle = event_loop.handle();
            on_another_thread(|| handle.run_every(repeat, record_time).unwrap());
        })
    };
    assert_eq!(calls(MissedTickBehavior::Skip), [3500, 4000, 5000, 6000]);
    assert_eq!(calls(MissedTickBehavior::Burst), [3500, 3500, 3500, 4000, 5000, 6000]);
    assert_eq!(calls(MissedTickBehavior::Delay), [3500, 4500, 5500]);
}

#[test]
fn a_fixed_delay_counts_from_the_end_of_the_callback() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        let (mut noted, slow) = (record_time(&times, start), clock.clone());
        event_loop.run_every(Repeat::every(SECOND).when_late(MissedTickBehavior::Delay), move |event_loop| {
            noted(event_loop);
            slow.advance(10 * SECOND);
        });
        event_loop.run_for(30 * SECOND).unwrap();
        assert_eq!(times.take(), [1, 12, 23]);
    });
}

#[test]
fn a_timer_that_catches_up_makes_one_call_a_turn() {
    with_clock(|event_loop, clock| {
        let calls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&calls);
        let repeat = Repeat::every(SECOND).when_late(MissedTickBehavior::Burst);
        event_loop.run_every(repeat, move |_| counted.set(counted.get() + 1));
        clock.advance(MINUTE);
        for turns in 1..=60 {
            turn(event_loop);
            assert_eq!(calls.get(), turns);
        }
        turn(event_loop);
        assert_eq!(calls.get(), 60, "it has caught up");
    });
}

#[test]
fn a_repeating_timer_may_start_at_any_time() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        event_loop.run_every(Repeat::every(10 * SECOND).first_at(start), record_time(&times, start));
        event_loop
            .run_every(Repeat::every(10 * SECOND).first_at(start + 3 * SECOND), record_time(&times, start));
        let handle = event_loop.handle();
        let third = Repeat::every(10 * SECOND).first_at(start + 5 * SECOND);
        // A recorder is not `Send`. A timer made through a handle on the loop's own thread must be
        // `Send` nevertheless, so it uses a channel.
        let (sender, received) = mpsc::channel();
        handle
            .run_every(third, move |event_loop| sender.send((event_loop.now() - start).as_secs()).unwrap())
            .unwrap();
        event_loop.run_for(20 * SECOND).unwrap();
        assert_eq!(times.take(), [0, 3, 10, 13, 20]);
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [5, 15]);
    });
}

#[test]
fn a_step_wakes_a_loop_sleeping_on_another_thread() {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let (hand_out, handed_out) = mpsc::channel();
        let loops_clock = clock.clone();
        let thread = thread::spawn(move || {
            let event_loop = EventLoop::builder().virtual_clock(loops_clock).build().unwrap();
            hand_out.send((event_loop.handle(), rustix::thread::gettid())).unwrap();
            event_loop.run_after(HOUR, EventLoop::quit);
            event_loop.run().unwrap();
        });
        let (handle, thread_id) = handed_out.recv().unwrap();
        wait_until_asleep(thread_id);
        clock.advance(HOUR / 2);
        handle.call(|_| ()).unwrap();
        assert!(!thread.is_finished());
        wait_until_asleep(thread_id);
        clock.advance(HOUR / 2);
        thread.join().unwrap();
    });
}

/// A step at any point of a turn: the loop must not sleep over it, in whichever phase it is.
#[test]
fn no_step_is_slept_over() {
    with_watchdog(LIMIT, || {
        const STEPS: u64 = 2_000;
        let clock = VirtualClock::new();
        let start = clock.now();
        let (sender, received) = mpsc::channel();
        let loops_clock = clock.clone();
        let thread = thread::spawn(move || {
            let event_loop = EventLoop::builder().virtual_clock(loops_clock).build().unwrap();
            let ready = sender.clone();
            event_loop.run_every(SECOND, move |event_loop| {
                let steps = (event_loop.now() - start).as_secs();
                sender.send(steps).unwrap();
                if steps == STEPS {
                    event_loop.quit();
                }
            });
            ready.send(0).unwrap();
            event_loop.run().unwrap();
        });
        // Each step is made as soon as the loop has reported the previous one, which is before it
        // sleeps again.
        for step in 0..STEPS {
            assert_eq!(received.recv(), Ok(step));
            clock.advance(SECOND);
        }
        assert_eq!(received.recv(), Ok(STEPS));
        thread.join().unwrap();
    });
}

#[test]
fn several_loops_may_share_one_clock() {
    with_clock(|event_loop, clock| {
        let (sender, received) = mpsc::channel();
        let others_clock = clock.clone();
        let (ready, is_ready) = mpsc::channel();
        let other = thread::spawn(move || {
            let event_loop = EventLoop::builder().virtual_clock(others_clock).build().unwrap();
            event_loop.run_after(2 * MINUTE, move |event_loop| {
                sender.send("other").unwrap();
                event_loop.quit();
            });
            ready.send(()).unwrap();
            event_loop.run().unwrap();
        });
        is_ready.recv().unwrap();
        let times = Recorder::new();
        event_loop.run_every(MINUTE, record_time(&times, clock.now()));
        event_loop.run_for(2 * MINUTE).unwrap();
        assert_eq!(times.take(), [60, 120]);
        assert_eq!(received.recv(), Ok("other"));
        other.join().unwrap();
        clock.advance(MINUTE);
        turn(event_loop);
        assert_eq!(times.take(), [180], "the end of one loop is nothing to another");
    });
}

#[test]
fn ready_descriptors_are_served_before_time_advances() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut noted = record_time(&times, start);
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
            noted(event.event_loop());
        })
        .unwrap();
        event_loop.run_every(SECOND, move |_| theirs.write_all(b"x").unwrap());
        event_loop.run_for(3 * SECOND).unwrap();
        assert_eq!(times.take(), [1, 2, 3]);
    });
}

#[test]
fn run_for_on_a_real_clock_runs_for_its_duration() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let calls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&calls);
        let began = Instant::now();
        event_loop.run_every(Duration::from_millis(1), move |_| counted.set(counted.get() + 1));
        event_loop.run_for(Duration::from_millis(20)).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(20));
        assert!(calls.get() > 0);
        event_loop.run_after(Duration::from_millis(1), EventLoop::quit);
        event_loop.run_for(Duration::MAX).unwrap();
        assert!(!event_loop.is_quitting());
    });
}

/// Longer than any clock can represent.
const ENDLESS: Duration = Duration::MAX;

#[test]
fn a_clock_stops_at_the_end_of_time() {
    with_clock(|event_loop, clock| {
        let (fired, start) = (Count::default(), clock.now());
        let fires = || {
            let fired = fired.clone();
            move |_: &EventLoop| fired.add()
        };
        let handle = event_loop.handle();
        event_loop.run_after(ENDLESS, fires());
        event_loop.run_every(ENDLESS, fires());
        handle.run_after(ENDLESS, fires()).unwrap();
        handle.run_every(ENDLESS, fires()).unwrap();
        let far = start.checked_add(Duration::from_secs(u64::MAX / 4)).unwrap();
        event_loop.run_at(far, fires());
        let moved = event_loop.run_after(SECOND, fires());
        assert!(event_loop.reset(moved, ENDLESS));
        for _ in 0..2 {
            clock.advance(ENDLESS);
            assert!(clock.now() > start + 500 * 365 * 24 * HOUR);
            turn(event_loop);
            turn(event_loop);
            assert!(event_loop.next_deadline().unwrap() > clock.now());
        }
        // This includes timers made at the end.
        event_loop.run_after(Duration::from_nanos(1), fires());
        event_loop.run_for(ENDLESS).unwrap();
        assert_eq!(fired.get(), 0);
        event_loop.run_after(Duration::ZERO, fires());
        event_loop.run_for(SECOND).unwrap();
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn a_run_to_the_end_of_time_meets_every_deadline() {
    with_clock(|event_loop, clock| {
        let (fired, century) = (Count::default(), 100 * 365 * 24 * HOUR);
        for periods in 1..=5 {
            let fired = fired.clone();
            event_loop.run_after(century * periods, move |_| fired.add());
        }
        let repeats = Count::default();
        let r = repeats.clone();
        event_loop.run_every(2 * century, move |_| r.add());
        event_loop.run_for(ENDLESS).unwrap();
        assert_eq!((fired.get(), repeats.get()), (5, 2));
        let end = clock.now();
        event_loop.run_for(ENDLESS).unwrap();
        assert_eq!(clock.now(), end);
    });
}

/// The times are those of a loop that existed throughout, whenever the timer was made.
#[test]
fn a_repeating_timer_with_a_past_start_keeps_its_phase() {
    with_clock(|event_loop, clock| {
        let (times, start) = (Recorder::new(), clock.now());
        let first = start.checked_sub(90 * MINUTE).unwrap();
        event_loop.run_every(Repeat::every(HOUR).first_at(first), record_time(&times, start));
        event_loop.run_for(2 * HOUR).unwrap();
        assert_eq!(times.take(), [0, 30 * 60, 90 * 60]);
    });
}
