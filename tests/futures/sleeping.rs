//! Waiting for times, mostly on a virtual clock.

use std::cell::RefCell;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::futures::{CountingWaker, Gate, block_on, poll_once, run};
use crate::support::{Count, LIMIT, Recorder, panic_of, turn, with_clock, with_loop, with_watchdog};
use reveille::task::{spawn_local, with_loop as with_current_loop};
use reveille::time::{Elapsed, MissedTickBehavior, Repeat, interval, sleep, sleep_until, timeout};
use reveille::{EventLoop, LoopThread};

const SECOND: Duration = Duration::from_secs(1);

fn now() -> Instant {
    with_current_loop(|event_loop| event_loop.now())
}

#[test]
fn sleeps_end_at_their_deadlines_in_order() {
    with_clock(|event_loop, clock| {
        let (start, ended) = (clock.now(), Recorder::new());
        for seconds in [3, 1, 2, 0] {
            let ended = ended.clone();
            event_loop.spawn_local(async move {
                sleep(seconds * SECOND).await;
                sleep_until(start + 2 * seconds * SECOND).await;
                ended.record((seconds, now() - start));
            });
        }
        event_loop.run_for(10 * SECOND).unwrap();
        let expected = [0, 1, 2, 3].map(|seconds| (seconds, 2 * seconds * SECOND));
        assert_eq!(ended.take(), expected);
    });
}

#[test]
fn a_sleep_counts_from_its_creation() {
    with_clock(|event_loop, clock| {
        let start = clock.now();
        let end = run_for(event_loop, 10, async {
            let later = sleep(3 * SECOND);
            sleep(2 * SECOND).await;
            later.await;
            now()
        });
        assert_eq!(end, start + 3 * SECOND);
    });
}

/// Runs the future for so many seconds, in which it must end.
fn run_for<T: 'static>(event_loop: &EventLoop, seconds: u32, future: impl Future<Output = T> + 'static) -> T {
    let result = Rc::new(RefCell::new(None));
    let stored = Rc::clone(&result);
    event_loop.spawn_local(async move { _ = stored.replace(Some(future.await)) });
    event_loop.run_for(seconds * SECOND).unwrap();
    result.take().expect("the future has not ended")
}

#[test]
fn a_sleep_on_the_systems_clock_is_never_early() {
    with_loop(|event_loop| {
        let (start, delay) = (Instant::now(), Duration::from_millis(3));
        run(event_loop, async move { sleep(delay).await });
        assert!(start.elapsed() >= delay);
    });
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    with_clock(|event_loop, _| {
        let mut sleeping = sleep(SECOND);
        assert!(poll_once(&mut sleeping).is_pending());
        assert!(event_loop.next_deadline().is_some());
        drop(sleeping);
        assert!(event_loop.next_deadline().is_none());
        let joined = event_loop.spawn_local(sleep(SECOND));
        turn(event_loop);
        joined.abort();
        turn(event_loop);
        assert!(event_loop.next_deadline().is_none());
        let mut endless = sleep(Duration::MAX);
        assert!(poll_once(&mut endless).is_pending());
    });
}

#[test]
fn a_reset_moves_a_sleep_in_both_directions() {
    with_clock(|event_loop, clock| {
        let start = clock.now();
        let times = run_for(event_loop, 20, async move {
            let mut sleeping = pin!(sleep(5 * SECOND));
            assert!(timeout(SECOND, sleeping.as_mut()).await.is_err());
            sleeping.as_mut().reset(start + 3 * SECOND);
            sleeping.as_mut().await;
            let first = now() - start;
            sleeping.as_mut().reset(start + 4 * SECOND);
            assert!(timeout(Duration::ZERO, sleeping.as_mut()).await.is_err());
            sleeping.as_mut().reset(start + 9 * SECOND);
            assert_eq!(sleeping.deadline(), start + 9 * SECOND);
            sleeping.as_mut().await;
            (first, now() - start)
        });
        assert_eq!(times, (3 * SECOND, 9 * SECOND));
    });
}

#[test]
fn a_reset_of_a_sleep_whose_timer_has_fired_counts() {
    with_clock(|event_loop, clock| {
        let (mut sleeping, wakes) = (pin!(sleep(SECOND)), Count::default());
        let waker = CountingWaker::waker(&wakes);
        let context = &mut std::task::Context::from_waker(&waker);
        assert!(sleeping.as_mut().poll(context).is_pending());
        event_loop.run_for(2 * SECOND).unwrap();
        assert_eq!(wakes.get(), 1);
        sleeping.as_mut().reset(clock.now() + SECOND);
        assert!(sleeping.as_mut().poll(context).is_pending());
        assert_eq!(event_loop.next_deadline(), Some(clock.now() + SECOND));
    });
}

#[test]
fn a_sleep_wakes_the_future_that_polled_it_last() {
    with_clock(|event_loop, _| {
        let mut sleeping = sleep(SECOND);
        assert!(poll_once(&mut sleeping).is_pending());
        let joined = event_loop.spawn_local(sleeping);
        event_loop.run_for(2 * SECOND).unwrap();
        assert!(joined.is_finished());
    });
}

#[test]
fn a_timeout_counts_from_its_call_and_prefers_the_future() {
    with_clock(|event_loop, clock| {
        let start = clock.now();
        let results = run_for(event_loop, 20, async move {
            let limited = timeout(3 * SECOND, pending::<()>());
            sleep(SECOND).await;
            let first = limited.await;
            let at = now() - start;
            let tie = timeout(SECOND, sleep(SECOND)).await;
            let value = timeout(SECOND, async { 5 }).await;
            (first, at, tie, value)
        });
        let (Err(elapsed), at, Ok(()), Ok(5)) = results else { panic!("{results:?}") };
        assert_eq!(at, 3 * SECOND);
        let error: std::io::Error = Elapsed::into(elapsed);
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    });
}

#[test]
fn a_timed_out_future_is_dropped_with_the_timeout() {
    with_clock(|event_loop, _| {
        let drops = Count::default();
        let token = drops.drop_token();
        run_for(event_loop, 5, async move {
            let held = async move {
                token.keep();
                pending::<()>().await;
            };
            timeout(SECOND, held).await.unwrap_err();
        });
        assert_eq!(drops.get(), 1);
    });
}

/// The ticks of an interval, in seconds since the start: its deadlines, and when they were
/// returned. After the second tick the loop is blocked for 3.5 s.
fn ticks_of(when_late: MissedTickBehavior) -> Vec<(f32, f32)> {
    with_clock(move |event_loop, clock| {
        let (start, ticks, blocked) = (clock.now(), Recorder::new(), clock.clone());
        let recorded = ticks.clone();
        event_loop.spawn_local(async move {
            let mut interval = interval(Repeat::every(SECOND).when_late(when_late));
            for number in 0..6 {
                let tick = interval.tick().await;
                recorded.record(((tick - start).as_secs_f32(), (now() - start).as_secs_f32()));
                if number == 1 {
                    blocked.advance(Duration::from_millis(3500));
                    reveille::task::yield_now().await;
                }
            }
        });
        event_loop.run_for(20 * SECOND).unwrap();
        ticks.take()
    })
}

#[test]
fn an_interval_applies_the_policy_for_missed_ticks() {
    let skip = ticks_of(MissedTickBehavior::Skip);
    assert_eq!(skip.iter().map(|tick| tick.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 6.0, 7.0, 8.0]);
    let burst = ticks_of(MissedTickBehavior::Burst);
    assert_eq!(burst.iter().map(|tick| tick.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(burst[3].1, 5.5);
    let delay = ticks_of(MissedTickBehavior::Delay);
    assert_eq!(delay.iter().map(|tick| tick.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 6.5, 7.5, 8.5]);
}

#[test]
fn a_dropped_tick_loses_no_tick() {
    with_clock(|event_loop, clock| {
        let start = clock.now();
        let ticks = run_for(event_loop, 20, async move {
            let mut interval = interval(Repeat::every(2 * SECOND).first_at(start));
            let first = interval.tick().await;
            assert!(timeout(SECOND, interval.tick()).await.is_err());
            [first - start, interval.tick().await - start]
        });
        assert_eq!(ticks, [Duration::ZERO, 2 * SECOND]);
        assert!(panic_of(|| interval(Duration::ZERO)).contains("zero"));
    });
}

#[test]
fn another_thread_can_await_a_sleep() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("clock").unwrap();
        let sleeping = thread.handle().call(|_| sleep(Duration::from_millis(2))).unwrap();
        block_on(sleeping);
        let mut dropped = thread.handle().call(|_| sleep(LIMIT)).unwrap();
        assert!(poll_once(&mut dropped).is_pending());
        drop(dropped);
        let has_timer = thread.handle().call(|event_loop| event_loop.next_deadline().is_some());
        assert!(!has_timer.unwrap());
    });
}

#[test]
fn the_end_of_the_loop_ends_a_sleep_elsewhere_with_a_panic() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("clock").unwrap();
        let mut sleeping = thread.handle().call(|_| sleep(2 * LIMIT)).unwrap();
        let (polled, is_polled) = mpsc::channel();
        let waiting = thread::spawn(move || {
            assert!(poll_once(&mut sleeping).is_pending());
            let gate = Gate::default();
            block_on(async {
                let mut sleeping = pin!(sleeping);
                std::future::poll_fn(|context| {
                    let _ = std::pin::Pin::new(&mut gate.wait()).poll(context);
                    let pending = sleeping.as_mut().poll(context);
                    let _ = polled.send(());
                    pending
                })
                .await;
            });
        });
        is_polled.recv().unwrap();
        drop(thread);
        let payload = waiting.join().unwrap_err();
        assert_eq!(payload.downcast_ref::<String>().unwrap(), "the event loop of this sleep has ended");
    });
}

#[test]
fn sleeps_of_dropped_loops_end_with_their_futures() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        event_loop.spawn_local(async {
            let children = [1, 2].map(|_| spawn_local(sleep(LIMIT)));
            for child in children {
                child.await.unwrap();
            }
        });
        turn(&event_loop);
        turn(&event_loop);
        assert!(event_loop.next_deadline().is_some());
        drop(event_loop);
    });
}

#[test]
#[ignore = "takes seconds, and half a gigabyte"]
fn a_million_futures_wait_for_timers() {
    with_watchdog(5 * LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let before = crate::support::counting::counts();
        let started = Instant::now();
        for number in 0..1_000_000 {
            event_loop.spawn_local(async move { sleep(SECOND + Duration::from_micros(number)).await });
        }
        // The first polls, at most 128 in a turn.
        for _ in 0..=1_000_000 / 128 {
            turn(&event_loop);
        }
        let held = (crate::support::counting::counts() - before).held;
        let spawned = started.elapsed();
        event_loop.run_until_idle().unwrap();
        assert_eq!(event_loop.spawned_futures(), 0);
        println!("{held} bytes on the heap; spawned in {spawned:?}, ended after {:?}", started.elapsed());
    });
}
