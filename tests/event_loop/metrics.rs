//! The metrics of a loop. Times are compared only with bounds that hold on every machine.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::{LIMIT, on_another_thread, turn, with_clock, with_loop, with_watchdog};
use reveille::observe::LoopMetrics;
use reveille::time::VirtualClock;
use reveille::{EventLoop, LoopThread};

const STEP: Duration = Duration::from_millis(2);

/// Keeps the thread busy for at least [`STEP`].
fn be_busy() {
    let start = Instant::now();
    while start.elapsed() < STEP {
        std::hint::spin_loop();
    }
}

fn metrics(event_loop: &EventLoop) -> LoopMetrics {
    event_loop.handle().metrics().expect("metrics are enabled")
}

#[test]
fn a_loop_has_no_metrics_until_they_are_enabled() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        turn(event_loop);
        assert!(handle.metrics().is_none());
        on_another_thread(|| handle.enable_metrics());
        handle.enable_metrics();
        assert_eq!(metrics(event_loop).turns, 0);
        turn(event_loop);
        assert_eq!(metrics(event_loop).turns, 1);
    });
}

#[test]
fn the_time_of_each_phase_is_measured() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().metrics().build().unwrap();
        let before = Instant::now();
        let _before = event_loop.before_wait(|_| be_busy()).unwrap();
        let _after = event_loop.after_wait(|_| be_busy()).unwrap();
        let eventfd = reveille::EventFd::new(1).unwrap();
        let _source = eventfd.watch(&event_loop, |_, _| be_busy()).unwrap();
        event_loop.run_at(Instant::now(), |_| be_busy());
        event_loop.queue_in_loop(|_| be_busy());
        turn(&event_loop);
        let total = before.elapsed();
        let seen = metrics(&event_loop);
        assert!(seen.in_hooks >= 2 * STEP, "{seen:?}");
        for time in [seen.in_channels, seen.in_timers, seen.in_tasks] {
            assert!(time >= STEP, "{seen:?}");
        }
        assert!(seen.waiting > Duration::ZERO && seen.in_closes > Duration::ZERO);
        assert!(seen.busy() + seen.waiting <= total, "{seen:?}, {total:?}");
        assert_eq!((seen.turns, seen.task_delay.count(), seen.timer_delay.count()), (1, 1, 1));
    });
}

#[test]
fn time_between_the_turns_of_an_embedded_loop_is_not_measured() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().metrics().build().unwrap();
        let mut inside = Duration::ZERO;
        for _ in 0..10 {
            let start = Instant::now();
            turn(&event_loop);
            inside += start.elapsed();
            be_busy();
        }
        let seen = metrics(&event_loop);
        assert!(seen.busy() + seen.waiting <= inside, "{seen:?}, {inside:?}");
    });
}

#[test]
fn the_delay_of_a_task_counts_from_its_post() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().metrics().build().unwrap();
        let handle = event_loop.handle();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.queue_in_loop(|_| ());
            on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
            be_busy();
        });
        turn(&event_loop);
        assert_eq!(metrics(&event_loop).task_delay.count(), 1);
        let first = metrics(&event_loop);
        turn(&event_loop);
        let second = metrics(&event_loop).since(&first);
        assert_eq!((second.turns, second.task_delay.count()), (1, 2));
        // The shorter of the two delays.
        assert!(second.task_delay.quantile(0.0).unwrap() >= STEP, "{second:?}");
    });
}

#[test]
fn tasks_queued_before_the_metrics_are_not_measured() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        for _ in 0..3 {
            event_loop.queue_in_loop(|_| ());
            on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        }
        be_busy();
        handle.enable_metrics();
        let enabled = Instant::now();
        event_loop.queue_in_loop(|_| ());
        on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        turn(event_loop);
        let (delays, since) = (metrics(event_loop).task_delay, enabled.elapsed());
        assert_eq!(delays.count(), 2);
        let longest = delays.quantile(1.0).unwrap();
        assert!(longest - longest / 16 <= since, "{delays:?} {since:?}");
    });
}

#[test]
fn tasks_dropped_by_a_quit_leave_no_times() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().metrics().drop_tasks_on_quit().build().unwrap();
        (0..5).for_each(|_| event_loop.queue_in_loop(|_| ()));
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(metrics(&event_loop).task_delay.count(), 0);
        event_loop.queue_in_loop(|_| ());
        turn(&event_loop);
        assert_eq!(metrics(&event_loop).task_delay.count(), 1);
    });
}

/// The delay that a virtual clock gives each of these timers, in seconds.
fn late(event_loop: &EventLoop, clock: &VirtualClock, delays: impl IntoIterator<Item = u64>) {
    let end = clock.now() + Duration::from_secs(100_000);
    for delay in delays {
        event_loop.run_at(end - Duration::from_secs(delay), |_| ());
    }
    clock.advance(Duration::from_secs(100_000));
    turn(event_loop);
}

#[test]
fn the_delay_of_a_timer_is_measured_with_the_clock_of_the_loop() {
    with_clock(|event_loop, clock| {
        event_loop.handle().enable_metrics();
        event_loop.run_after(Duration::from_secs(3600), |_| ());
        event_loop.run_for(Duration::from_secs(7200)).unwrap();
        let delays = metrics(event_loop).timer_delay;
        assert_eq!((delays.count(), delays.quantile(1.0)), (1, Some(Duration::ZERO)));
        late(event_loop, clock, [1000]);
        let longest = metrics(event_loop).timer_delay.quantile(1.0).unwrap();
        assert!((1000..=1063).contains(&longest.as_secs()), "{longest:?}");
    });
}

#[test]
fn quantiles_are_exact_to_a_sixteenth() {
    with_clock(|event_loop, clock| {
        event_loop.handle().enable_metrics();
        assert_eq!(metrics(event_loop).timer_delay.quantile(0.5), None);
        late(event_loop, clock, 1..=1000);
        let before = metrics(event_loop);
        let delays = &before.timer_delay;
        assert_eq!(delays.count(), 1000);
        assert_eq!(delays.buckets().map(|(_, count)| count).sum::<u64>(), 1000);
        for (quantile, exact) in [(0.0, 1.0), (0.25, 250.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let delay = delays.quantile(quantile).unwrap().as_secs_f64();
            assert!((exact..=exact * 17.0 / 16.0).contains(&delay), "{quantile}: {delay}");
        }
        late(event_loop, clock, [9]);
        let added = metrics(event_loop).since(&before);
        assert_eq!(added.timer_delay.count(), 1);
        assert_eq!(added.timer_delay.quantile(0.0), added.timer_delay.quantile(1.0));
    });
}

#[test]
fn metrics_can_be_read_while_the_loop_is_blocked_and_after_its_end() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("measured").unwrap();
        let handle = thread.handle().clone();
        handle.enable_metrics();
        let ((open, gate), (started, start)) = (mpsc::channel::<()>(), mpsc::channel());
        handle
            .queue_in_loop(move |_| {
                started.send(()).unwrap();
                _ = gate.recv();
            })
            .unwrap();
        start.recv().unwrap();
        let blocked = handle.metrics().unwrap();
        assert_eq!(blocked.task_delay.count(), 1);
        drop(open);
        thread.join().unwrap();
        assert!(handle.metrics().unwrap().since(&blocked).turns >= 1);
    });
}
