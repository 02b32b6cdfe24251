//! Memory of a loop after a burst: unused capacity is released, and recurring bursts keep their
//! capacity.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

#[cfg(target_env = "gnu")]
use crate::support::alone::alone;
use crate::support::counting::{allocations, assert_released, held, one_at_a_time};
use crate::support::net::until;
use crate::support::{Count, LIMIT, MIB, on_another_thread, turn, with_loop, with_watchdog};
use reveille::{EventLoop, LoopThread};

/// The tasks or timers of a burst.
const BURST: u64 = 200_000;

/// The memory that a loop may keep after a burst. The burst itself needs many times that.
const LEFT: usize = MIB;

fn count_if(holds: bool, count: &Count) {
    if holds {
        count.add();
    }
}

/// More uses than any collection waits for before it releases capacity.
const SMALL_USES: usize = 1000;

#[test]
fn memory_of_a_burst_of_tasks_is_released() {
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        let before = held();
        let r = ran.clone();
        on_another_thread(|| {
            for number in 0..BURST {
                let (r, words) = (r.clone(), [number; 3]);
                handle.queue_in_loop(move |_| count_if(words[0] == number, &r)).unwrap();
            }
        });
        for number in 0..BURST {
            let (r, words) = (ran.clone(), [number; 3]);
            event_loop.queue_in_loop(move |_| count_if(words[0] == number, &r));
        }
        let full = held();
        turn(event_loop);
        assert_eq!(ran.get() as u64, 2 * BURST);
        for _ in 0..SMALL_USES {
            on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
            event_loop.queue_in_loop(|_| ());
            turn(event_loop);
        }
        assert_released(before, full, LEFT);
    });
}

#[test]
fn memory_of_a_burst_of_timers_is_released() {
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let (handle, fired) = (event_loop.handle(), Count::default());
        // A timer from before the burst, which remains after it.
        let _lasting = event_loop.run_after(Duration::from_secs(3600), |_| ());
        for of_handle in [false, true] {
            let (before, fired_before) = (held(), fired.get());
            let ids: Vec<_> = (0..BURST)
                .map(|number| {
                    // Half of the timers are due soon, the others only after the test.
                    let delay = Duration::from_micros(number % 1000) * (1 + (number % 2) as u32 * 1_000_000);
                    let fired = fired.clone();
                    match of_handle {
                        false => event_loop.run_after(delay, move |_| fired.add()),
                        true => handle.run_after(delay, move |_| fired.add()).unwrap(),
                    }
                })
                .collect();
            turn(event_loop);
            let full = held();
            for id in ids.into_iter().skip(1).step_by(2) {
                event_loop.cancel(id);
            }
            while event_loop
                .next_deadline()
                .is_some_and(|next| next < event_loop.now() + Duration::from_secs(60))
            {
                turn(event_loop);
            }
            assert!(fired.get() > fired_before);
            for _ in 0..SMALL_USES {
                event_loop.run_after(Duration::ZERO, |_| ());
                turn(event_loop);
            }
            assert_released(before, full, LEFT);
        }
    });
}

/// The loop's collections are not used after the burst, so no use of them releases the memory.
#[test]
fn an_idle_loop_releases_the_memory_of_a_burst() {
    let _alone = one_at_a_time();
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("idle").unwrap();
        // Allocates what the loop needs for its first turns.
        thread.handle().call(|_| ()).unwrap();
        let before = held();
        let full = thread.handle().call(|event_loop| {
            let kept_by_each = Rc::new(());
            for number in 0..BURST {
                let (kept_by_each, words) = (Rc::clone(&kept_by_each), [number; 3]);
                event_loop.queue_in_loop(move |_| drop((kept_by_each, words)));
                let id = event_loop.run_after(Duration::from_secs(3600 + number), |_| ());
                event_loop.queue_in_loop(move |event_loop| _ = event_loop.cancel(id));
            }
            held()
        });
        let full = full.unwrap();
        until(|| held() < before + LEFT as i64);
        assert_released(before, full, LEFT);
    });
}

/// The arena of a thread keeps the free memory at its end, up to twice the largest block that has
/// ever been freed. The test runs in a separate process, because resident memory also depends on
/// the arenas of earlier tests of the same process, which a new thread may reuse.
#[cfg(target_env = "gnu")]
#[test]
fn memory_of_a_burst_of_timers_returns_to_the_kernel() {
    let _alone = one_at_a_time();
    alone(|| {
        let thread = LoopThread::spawn("idle").unwrap();
        thread.handle().call(|_| ()).unwrap();
        let before = resident();
        let (sender, all_have_fired) = mpsc::channel();
        let full = thread.handle().call(move |event_loop| {
            for _ in 0..5 * BURST {
                event_loop.run_after(Duration::ZERO, |_| ());
            }
            event_loop.run_after(Duration::ZERO, move |_| sender.send(()).unwrap());
            resident()
        });
        assert!(full.unwrap() > before + 32 * MIB);
        all_have_fired.recv().unwrap();
        until(|| resident() < before + 8 * MIB);
    });
}

/// The resident memory of the process, in bytes.
#[cfg(target_env = "gnu")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
}

/// The bursts follow each other within the number of uses for which a collection keeps its
/// capacity.
#[test]
fn recurring_bursts_allocate_nothing() {
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let run_bursts = |event_loop: &EventLoop, bursts: usize| {
            for _ in 0..bursts {
                for number in 0..20_000u64 {
                    event_loop.queue_in_loop(move |_| _ = std::hint::black_box(number));
                    event_loop.run_after(Duration::ZERO, move |_| _ = std::hint::black_box(number));
                }
                for _ in 0..50 {
                    turn(event_loop);
                    event_loop.queue_in_loop(|_| ());
                }
            }
        };
        run_bursts(event_loop, 4);
        let before = allocations();
        run_bursts(event_loop, 20);
        // The thread of the watchdog may allocate too, and so may the threads of waiting tests.
        let allocated = allocations() - before;
        assert!(allocated < 5, "{allocated} allocations");
    });
}
