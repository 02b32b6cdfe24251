//! Memory after a burst: room that is not needed any more is given back, and room that is needed again and again is kept.

// A global allocator can be counted in no other way.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use reveille::{EventLoop, LoopThread};
use support::net::until;
use support::{Count, LIMIT, MIB, on_another_thread, turn, with_loop, with_watchdog};

/// The system's allocator, with a count of what the process has asked for.
struct Counting;

/// Bytes asked for and not given back.
static KEPT: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every method passes its arguments on to the system's allocator as they are, and returns what that returns. What they do
// besides touches nothing but two numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        KEPT.fetch_add(layout.size() as i64, SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        KEPT.fetch_sub(layout.size() as i64, SeqCst);
        // SAFETY: `pointer` came from `alloc` or `realloc` with this layout, as the caller promises, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        KEPT.fetch_add(new_size as i64 - layout.size() as i64, SeqCst);
        // SAFETY: as for `dealloc`, and `new_size` is the caller's to vouch for.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counts are the process's, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tasks, or timers, of a burst.
const BURST: u64 = 200_000;

/// What a loop may keep of a burst. A burst takes many times that.
const LEFT: i64 = MIB as i64;

fn kept() -> i64 {
    KEPT.load(SeqCst)
}

#[track_caller]
fn assert_released(before: i64, full: i64) {
    assert!(full > before + 5 * LEFT, "the burst took only {} bytes", full - before);
    let left = kept() - before;
    assert!(left < LEFT, "{left} bytes are left of {}", full - before);
}

fn count_if(holds: bool, count: &Count) {
    if holds {
        count.add();
    }
}

/// More than any collection waits for.
const SMALL_USES: usize = 1000;

#[test]
fn a_burst_of_tasks_leaves_no_room_behind() {
    let _alone = alone();
    with_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        let before = kept();
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
        let full = kept();
        turn(event_loop);
        assert_eq!(ran.get() as u64, 2 * BURST);
        for _ in 0..SMALL_USES {
            on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
            event_loop.queue_in_loop(|_| ());
            turn(event_loop);
        }
        assert_released(before, full);
    });
}

#[test]
fn a_burst_of_timers_leaves_no_room_behind() {
    let _alone = alone();
    with_loop(|event_loop| {
        let (handle, fired) = (event_loop.handle(), Count::default());
        // It is there before the burst and after it.
        let _lasting = event_loop.run_after(Duration::from_secs(3600), |_| ());
        for of_handle in [false, true] {
            let (before, fired_before) = (kept(), fired.get());
            let ids: Vec<_> = (0..BURST)
                .map(|number| {
                    // Some are near, and some are far.
                    let delay = Duration::from_micros(number % 1000) * (1 + (number % 2) as u32 * 1_000_000);
                    let fired = fired.clone();
                    match of_handle {
                        false => event_loop.run_after(delay, move |_| fired.add()),
                        true => handle.run_after(delay, move |_| fired.add()).unwrap(),
                    }
                })
                .collect();
            turn(event_loop);
            let full = kept();
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
            assert_released(before, full);
        }
    });
}

/// It does nothing after the burst, and so gives nothing up by what it does.
#[test]
fn an_idle_loop_gives_back_the_room_of_a_burst() {
    let _alone = alone();
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("idle").unwrap();
        // Its stack and what it needs for its first turns.
        thread.handle().call(|_| ()).unwrap();
        let before = kept();
        let full = thread.handle().call(|event_loop| {
            let kept_by_each = Rc::new(());
            for number in 0..BURST {
                let (kept_by_each, words) = (Rc::clone(&kept_by_each), [number; 3]);
                event_loop.queue_in_loop(move |_| drop((kept_by_each, words)));
                let id = event_loop.run_after(Duration::from_secs(3600 + number), |_| ());
                event_loop.queue_in_loop(move |event_loop| _ = event_loop.cancel(id));
            }
            kept()
        });
        let full = full.unwrap();
        until(|| kept() < before + LEFT);
        assert_released(before, full);
    });
}

/// The arena of a thread keeps what is free at its end, up to twice the largest block that has ever been freed.
#[cfg(target_env = "gnu")]
#[test]
fn memory_of_a_burst_of_timers_goes_back_to_the_kernel() {
    let _alone = alone();
    with_watchdog(3 * LIMIT, || {
        let thread = LoopThread::spawn("idle").unwrap();
        thread.handle().call(|_| ()).unwrap();
        let before = resident();
        let (fired, all_have_fired) = mpsc::channel();
        let full = thread.handle().call(move |event_loop| {
            for _ in 0..5 * BURST {
                event_loop.run_after(Duration::ZERO, |_| ());
            }
            event_loop.run_after(Duration::ZERO, move |_| fired.send(()).unwrap());
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

/// Peaks that come again within the uses for which room is kept cost nothing.
#[test]
fn bursts_that_recur_keep_their_room() {
    let _alone = alone();
    with_loop(|event_loop| {
        let peaks = |event_loop: &EventLoop, peaks: usize| {
            for _ in 0..peaks {
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
        peaks(event_loop, 4);
        let before = ALLOCATIONS.load(SeqCst);
        peaks(event_loop, 20);
        // The thread that waits for this one may allocate, too, and other tests wait.
        let allocated = ALLOCATIONS.load(SeqCst) - before;
        assert!(allocated < 5, "{allocated} allocations");
    });
}
