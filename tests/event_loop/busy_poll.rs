//! A loop that spins before it sleeps: the work that it detects, the cost for other threads, and
//! that it sleeps in the end.
//!
//! Where a test relies on the loop spinning, this holds by construction: the spin lasts up to an
//! hour, and no test takes that long.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::HOUR;
use crate::support::{Count, LIMIT, OnDrop, turn, wait_until_asleep, wakes, with_watchdog};
use reveille::io::{Channel, Interest};
use reveille::{EventLoop, EventLoopBuilder, LoopHandle};
use rustix::thread::Pid;

fn spinning_for(duration: Duration) -> EventLoopBuilder {
    EventLoop::builder().propagate_panics().busy_poll(duration)
}

/// Runs a loop on a thread of its own while `test` uses its handle, and then quits the loop.
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
            // Quits also if an assertion fails; otherwise the test would hang.
            let quits = handle.clone();
            let _quit = OnDrop::new(move || quits.quit());
            test(&handle, loops)
        })
    })
}

/// Same as [`with_running_loop`]. When `test` begins, the loop has made a turn and spins.
fn with_spinning_loop<R: Send + 'static>(test: impl FnOnce(&LoopHandle) -> R + Send + 'static) -> R {
    with_running_loop(spinning_for(HOUR), |handle, _| {
        handle.call(|_| ()).unwrap();
        test(handle)
    })
}

/// Clock ticks that the thread has spent on a processor.
fn ticks(thread: Pid) -> u64 {
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let stat = fs::read_to_string(path).expect("the thread lives");
    let (_, after_name) = stat.rsplit_once(") ").expect("a name in parentheses");
    let field = |at: usize| after_name.split(' ').nth(at).expect("a field").parse::<u64>().expect("a number");
    // Fields 14 and 15 of the line, of which the first two have been removed.
    field(11) + field(12)
}

/// Waits until the thread has used so much processor time that it can only be spinning.
fn until_it_spins(thread: Pid) {
    let before = ticks(thread);
    while ticks(thread) < before + 5 {
        thread::yield_now();
    }
}

#[test]
fn posts_to_a_spinning_loop_write_nothing_and_run() {
    with_spinning_loop(|handle| {
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
fn internal_tasks_of_a_spinning_loop_write_nothing_and_run() {
    with_spinning_loop(|handle| {
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
fn a_post_during_the_first_spin_of_run_writes_nothing() {
    with_running_loop(spinning_for(HOUR), |handle, loops| {
        until_it_spins(loops);
        assert_eq!(wakes(handle), 0);
        handle.call(|_| ()).unwrap();
        assert_eq!(wakes(handle), 0);
    });
}

#[test]
fn a_post_to_a_spinning_run_once_writes_nothing() {
    with_watchdog(LIMIT, || {
        let event_loop = spinning_for(HOUR).build().unwrap();
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
fn a_spinning_loop_detects_ready_descriptors() {
    with_spinning_loop(|handle| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (got, has_got) = mpsc::channel();
        let watch = move |event_loop: &EventLoop| {
            let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
                let mut bytes = [0; 8];
                let read = event.source().read(&mut bytes).unwrap();
                // The test does not wait for the last event, which is the end of the other side.
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
fn timers_of_a_spinning_loop_fire_and_never_early() {
    with_spinning_loop(|handle| {
        let before = wakes(handle);
        for micros in [0, 1, 300, 1_000, 1_700, 12_000] {
            let (fired, has_fired) = mpsc::channel();
            let arm = move |event_loop: &EventLoop| {
                let (began, delay) = (Instant::now(), Duration::from_micros(micros));
                event_loop.run_after(delay, move |event_loop| {
                    fired.send((event_loop.now() >= began + delay, began.elapsed() >= delay)).unwrap();
                });
            };
            handle.call(arm).unwrap();
            assert_eq!(has_fired.recv().unwrap(), (true, true), "{micros} us");
        }
        assert_eq!(wakes(handle), before);
    });
}

#[test]
fn a_repeating_timer_repeats_on_a_spinning_loop() {
    with_spinning_loop(|handle| {
        let (fired, has_fired) = mpsc::channel();
        let (began, period) = (Instant::now(), Duration::from_millis(1));
        let id = handle.run_every(period, move |_| _ = fired.send(began.elapsed())).unwrap();
        for multiple in 1..=5 {
            assert!(has_fired.recv().unwrap() >= period * multiple);
        }
        assert!(handle.cancel(id));
    });
}

#[test]
fn quit_from_another_thread_ends_a_spin_without_a_write() {
    for _ in 0..20 {
        let (handle, before) = with_spinning_loop(|handle| (handle.clone(), wakes(handle)));
        // The loop has quit, and the thread has been joined.
        assert_eq!(wakes(&handle), before);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    }
}

#[test]
fn tasks_accepted_before_quit_run_on_a_spinning_loop() {
    let ran = Count::default();
    let counting = ran.clone();
    with_spinning_loop(move |handle| {
        for _ in 0..100 {
            let ran = counting.clone();
            handle.queue_in_loop(move |_| ran.add()).unwrap();
        }
    });
    assert_eq!(ran.get(), 100);
}

#[test]
fn run_once_spins_up_to_its_limit_and_no_longer() {
    with_watchdog(LIMIT, || {
        let event_loop = spinning_for(HOUR).build().unwrap();
        for micros in [1, 700, 2_500, 15_000] {
            let (limit, began) = (Duration::from_micros(micros), Instant::now());
            event_loop.run_once(limit).unwrap();
            assert!(began.elapsed() >= limit, "{limit:?}");
        }
        turn(&event_loop);
        assert_eq!(event_loop.iteration(), 5);
        // It does not spin when there is work to do.
        event_loop.queue_in_loop(|_| ());
        event_loop.run_once(None).unwrap();
        event_loop.quit();
        event_loop.run_once(None).unwrap();
        event_loop.run().unwrap();
        let fired = Rc::new(Cell::new(false));
        let f = Rc::clone(&fired);
        event_loop.run_after(Duration::from_millis(2), move |_| f.set(true));
        event_loop.run_once(None).unwrap();
        assert!(fired.get(), "a timer ends the spin");
    });
}

#[test]
fn run_once_keeps_waiting_after_the_spin() {
    with_watchdog(LIMIT, || {
        let event_loop = spinning_for(Duration::from_micros(50)).build().unwrap();
        for micros in [1, 700, 2_500, 15_000] {
            let (limit, began) = (Duration::from_micros(micros), Instant::now());
            event_loop.run_once(limit).unwrap();
            assert!(began.elapsed() >= limit, "{limit:?}");
        }
        let (began, delay) = (Instant::now(), Duration::from_millis(5));
        let fired = Rc::new(Cell::new(false));
        let f = Rc::clone(&fired);
        event_loop.run_after(delay, move |_| f.set(true));
        event_loop.run_once(None).unwrap();
        assert!(fired.get() && began.elapsed() >= delay);
    });
}

#[test]
fn a_loop_sleeps_after_an_unsuccessful_spin() {
    with_running_loop(spinning_for(Duration::from_micros(200)), |handle, loops| {
        handle.call(|_| ()).unwrap();
        for _ in 0..50 {
            wait_until_asleep(loops);
            let before = wakes(handle);
            handle.call(|_| ()).unwrap();
            assert_eq!(wakes(handle), before + 1);
        }
    });
}

#[test]
fn a_loop_spins_for_the_configured_time_before_it_sleeps() {
    let spin = Duration::from_millis(3);
    with_running_loop(spinning_for(spin), move |handle, loops| {
        for _ in 0..5 {
            // The turn that runs the call has made its last check of the clock before this call.
            let began = handle.call(|_| Instant::now()).unwrap();
            wait_until_asleep(loops);
            assert!(began.elapsed() >= spin);
        }
    });
}

#[test]
fn a_post_at_any_moment_of_a_short_spin_is_not_slept_over() {
    // The delay before each post is swept over the length of a turn and a spin, so that some posts
    // arrive while the loop is about to sleep.
    with_running_loop(spinning_for(Duration::from_micros(20)), |handle, _| {
        for round in 0..1_000 {
            for _ in 0..round % 500 * 4 {
                std::hint::spin_loop();
            }
            assert_eq!(handle.call(move |_| round).unwrap(), round);
        }
    });
}

#[test]
fn the_spin_time_may_be_the_maximum_duration() {
    with_running_loop(spinning_for(Duration::MAX), |handle, _| {
        assert_eq!(handle.call(|_| 7).unwrap(), 7);
        assert_eq!(handle.call(|_| 8).unwrap(), 8);
    });
}

/// One direction of the ping-pong: posts a task to `to`, which posts one back to `from`, until
/// `left` reaches zero.
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
fn two_spinning_loops_exchange_tasks_without_a_write() {
    with_spinning_loop(|one| {
        let one = one.clone();
        with_spinning_loop(move |other| {
            let before = (wakes(&one), wakes(other));
            let (over, is_over) = mpsc::channel();
            // With one processor for both loops each round takes a scheduler time slice, so the
            // number of rounds is small.
            ping(one.clone(), other.clone(), 200, over);
            is_over.recv().unwrap();
            assert_eq!((wakes(&one), wakes(other)), before);
        });
    });
}
