//! A loop that looks for work before it sleeps: what it sees, what it costs others, and that it
//! sleeps in the end.
//!
//! Where a test says that a loop is looking, that is so by construction: it may look for an hour,
//! and no test lasts that long.

mod support;

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use reveille::io::{Channel, Interest};
use reveille::{EventLoop, EventLoopBuilder, LoopHandle};
use rustix::thread::Pid;
use support::clock::HOUR;
use support::{Count, LIMIT, OnDrop, turn, until_asleep, wakes, with_watchdog};

fn looking_for(duration: Duration) -> EventLoopBuilder {
    EventLoop::builder().propagate_panics(true).busy_poll(duration)
}

/// Runs a loop on a thread of its own while `test` speaks to it, and then has it quit.
fn with_running_loop<R: Send + 'static>(
    builder: EventLoopBuilder,
    test: impl FnOnce(&LoopHandle, Pid) -> R + Send + 'static,
) -> R {
    with_watchdog(LIMIT, || {
        thread::scope(|scope| {
            let (started, start) = mpsc::channel();
            scope.spawn(move || {
                let event_loop = builder.build().unwrap();
                started.send((event_loop.handle(), rustix::thread::gettid())).unwrap();
                event_loop.run().unwrap();
            });
            let (handle, loops) = start.recv().unwrap();
            // Also if an assertion fails, or that would be a hang.
            let quits = handle.clone();
            let _quit = OnDrop::new(move || quits.quit());
            test(&handle, loops)
        })
    })
}

/// As [`with_running_loop`], and when `test` begins the loop has made a turn and looks.
fn with_looking_loop<R: Send + 'static>(test: impl FnOnce(&LoopHandle) -> R + Send + 'static) -> R {
    with_running_loop(looking_for(HOUR), |handle, _| {
        handle.call(|_| ()).unwrap();
        test(handle)
    })
}

/// Clock ticks that the thread has been on a processor.
fn ticks(thread: Pid) -> u64 {
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let stat = fs::read_to_string(path).expect("the thread lives");
    let (_, after_name) = stat.rsplit_once(") ").expect("a name in parentheses");
    let field = |at: usize| after_name.split(' ').nth(at).expect("a field").parse::<u64>().expect("a number");
    // Fields 14 and 15 of all, of which two have gone.
    field(11) + field(12)
}

/// Waits until the thread has worked for so long that it can have been nowhere but in its loop.
fn until_it_spins(thread: Pid) {
    let before = ticks(thread);
    while ticks(thread) < before + 5 {
        thread::yield_now();
    }
}

#[test]
fn posts_to_a_loop_that_looks_write_nothing_and_are_seen() {
    with_looking_loop(|handle| {
        let before = wakes(handle);
        let ran = Count::default();
        for _ in 0..300 {
            let ran = ran.clone();
            handle.queue_in_loop(move |_| ran.add()).unwrap();
            handle.call(|_| ()).unwrap();
        }
        assert_eq!(ran.get(), 300);
        assert_eq!(wakes(handle), before);
    });
}

#[test]
fn errands_for_a_loop_that_looks_write_nothing_and_are_seen() {
    with_looking_loop(|handle| {
        let before = wakes(handle);
        let (fired, has_fired) = mpsc::channel();
        for _ in 0..100 {
            let fired = fired.clone();
            handle.run_at(Instant::now(), move |_| fired.send(()).unwrap()).unwrap();
            has_fired.recv().unwrap();
        }
        assert_eq!(wakes(handle), before);
    });
}

#[test]
fn a_post_to_a_loop_in_its_first_look_after_run_was_called_writes_nothing() {
    with_running_loop(looking_for(HOUR), |handle, loops| {
        until_it_spins(loops);
        assert_eq!(wakes(handle), 0);
        handle.call(|_| ()).unwrap();
        assert_eq!(wakes(handle), 0);
    });
}

#[test]
fn a_post_to_a_loop_that_looks_in_run_once_writes_nothing() {
    with_watchdog(LIMIT, || {
        let event_loop = looking_for(HOUR).build().unwrap();
        let (handle, loops) = (event_loop.handle(), rustix::thread::gettid());
        thread::scope(|scope| {
            let poster = scope.spawn(|| {
                until_it_spins(loops);
                handle.queue_in_loop(|_| ()).unwrap();
                wakes(&handle)
            });
            event_loop.run_once(None).unwrap();
            assert_eq!(poster.join().unwrap(), 0);
        });
        assert_eq!(handle.counters().tasks_run, 1);
    });
}

#[test]
fn a_loop_that_looks_sees_its_descriptors() {
    with_looking_loop(|handle| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (got, has_got) = mpsc::channel();
        let watch = move |event_loop: &EventLoop| {
            let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
                let mut bytes = [0; 8];
                let read = event.source().read(&mut bytes).unwrap();
                // Nobody waits for the last, which is the end of the other side.
                let _ = got.send(bytes[..read].to_vec());
            });
            channel.unwrap().detach();
        };
        handle.call(watch).unwrap();
        let before = wakes(handle);
        for byte in 0..100 {
            theirs.write_all(&[byte]).unwrap();
            assert_eq!(has_got.recv().unwrap(), [byte]);
        }
        assert_eq!(wakes(handle), before);
    });
}

#[test]
fn timers_of_a_loop_that_looks_fire_and_never_early() {
    with_looking_loop(|handle| {
        let before = wakes(handle);
        for micros in [0, 1, 300, 1_000, 1_700, 12_000] {
            let (fired, has_fired) = mpsc::channel();
            let arm = move |event_loop: &EventLoop| {
                let (asked, delay) = (Instant::now(), Duration::from_micros(micros));
                event_loop.run_after(delay, move |event_loop| {
                    fired.send((event_loop.now() >= asked + delay, asked.elapsed() >= delay)).unwrap();
                });
            };
            handle.call(arm).unwrap();
            assert_eq!(has_fired.recv().unwrap(), (true, true), "{micros} us");
        }
        assert_eq!(wakes(handle), before);
    });
}

#[test]
fn a_repeating_timer_repeats_on_a_loop_that_looks() {
    with_looking_loop(|handle| {
        let (fired, has_fired) = mpsc::channel();
        let (asked, period) = (Instant::now(), Duration::from_millis(1));
        let id = handle.run_every(period, move |_| _ = fired.send(asked.elapsed())).unwrap();
        for multiple in 1..=5 {
            assert!(has_fired.recv().unwrap() >= period * multiple);
        }
        assert!(handle.cancel(id));
    });
}

#[test]
fn quit_from_another_thread_ends_a_look_without_a_write() {
    for _ in 0..20 {
        let (handle, before) = with_looking_loop(|handle| (handle.clone(), wakes(handle)));
        // It has quit, and the thread has been joined.
        assert_eq!(wakes(&handle), before);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    }
}

#[test]
fn what_was_accepted_before_quit_runs_on_a_loop_that_looks() {
    let ran = Count::default();
    let counting = ran.clone();
    with_looking_loop(move |handle| {
        for _ in 0..100 {
            let ran = counting.clone();
            handle.queue_in_loop(move |_| ran.add()).unwrap();
        }
    });
    assert_eq!(ran.get(), 100);
}

#[test]
fn run_once_looks_for_as_long_as_it_may_and_no_longer() {
    with_watchdog(LIMIT, || {
        let event_loop = looking_for(HOUR).build().unwrap();
        for micros in [1, 700, 2_500, 15_000] {
            let (limit, asked) = (Duration::from_micros(micros), Instant::now());
            event_loop.run_once(limit).unwrap();
            assert!(asked.elapsed() >= limit, "{limit:?}");
        }
        turn(&event_loop);
        assert_eq!(event_loop.iteration(), 5);
        // Nor does it look when there is something to do.
        event_loop.queue_in_loop(|_| ());
        event_loop.run_once(None).unwrap();
        event_loop.quit();
        event_loop.run_once(None).unwrap();
        event_loop.run().unwrap();
        let fired = Rc::new(Cell::new(false));
        let f = Rc::clone(&fired);
        event_loop.run_after(Duration::from_millis(2), move |_| f.set(true));
        event_loop.run_once(None).unwrap();
        assert!(fired.get(), "a timer ends the look");
    });
}

#[test]
fn run_once_goes_on_waiting_when_the_look_is_over() {
    with_watchdog(LIMIT, || {
        let event_loop = looking_for(Duration::from_micros(50)).build().unwrap();
        for micros in [1, 700, 2_500, 15_000] {
            let (limit, asked) = (Duration::from_micros(micros), Instant::now());
            event_loop.run_once(limit).unwrap();
            assert!(asked.elapsed() >= limit, "{limit:?}");
        }
        let (asked, delay) = (Instant::now(), Duration::from_millis(5));
        let fired = Rc::new(Cell::new(false));
        let f = Rc::clone(&fired);
        event_loop.run_after(delay, move |_| f.set(true));
        event_loop.run_once(None).unwrap();
        assert!(fired.get() && asked.elapsed() >= delay);
    });
}

#[test]
fn a_loop_that_has_looked_in_vain_sleeps_and_is_woken_by_one_write() {
    with_running_loop(looking_for(Duration::from_micros(200)), |handle, loops| {
        handle.call(|_| ()).unwrap();
        for _ in 0..50 {
            until_asleep(loops);
            let before = wakes(handle);
            handle.call(|_| ()).unwrap();
            assert_eq!(wakes(handle), before + 1);
        }
    });
}

#[test]
fn a_loop_looks_for_its_time_before_it_sleeps() {
    let look = Duration::from_millis(3);
    with_running_loop(looking_for(look), move |handle, loops| {
        for _ in 0..5 {
            // The turn that answers has made its last look at the clock before this is asked.
            let asked = handle.call(|_| Instant::now()).unwrap();
            until_asleep(loops);
            assert!(asked.elapsed() >= look);
        }
    });
}

#[test]
fn a_post_at_any_moment_of_a_short_look_is_not_slept_over() {
    // The pause before each post is swept over the length of a turn and a look, so that some posts
    // meet the loop on its way to sleep.
    with_running_loop(looking_for(Duration::from_micros(20)), |handle, _| {
        for round in 0..1_000 {
            for _ in 0..round % 500 * 4 {
                std::hint::spin_loop();
            }
            assert_eq!(handle.call(move |_| round).unwrap(), round);
        }
    });
}

#[test]
fn a_look_may_be_as_long_as_a_duration_can_say() {
    with_running_loop(looking_for(Duration::MAX), |handle, _| {
        assert_eq!(handle.call(|_| 7).unwrap(), 7);
        assert_eq!(handle.call(|_| 8).unwrap(), 8);
    });
}

/// One way of the ping-pong: a task for `to`, which sends one back to `from`, until none are left.
fn ping(from: LoopHandle, to: LoopHandle, left: u32, over: mpsc::Sender<()>) {
    let (here, there) = (from, to.clone());
    let posted = to.queue_in_loop(move |_| {
        if left == 0 {
            over.send(()).unwrap();
        } else {
            ping(there, here, left - 1, over);
        }
    });
    posted.unwrap();
}

#[test]
fn two_loops_that_look_answer_each_other_without_a_write() {
    with_looking_loop(|one| {
        let one = one.clone();
        with_looking_loop(move |other| {
            let before = (wakes(&one), wakes(other));
            let (over, is_over) = mpsc::channel();
            // Turns of the scheduler if there is one processor for both, so not very many.
            ping(one.clone(), other.clone(), 200, over);
            is_over.recv().unwrap();
            assert_eq!((wakes(&one), wakes(other)), before);
        });
    });
}
