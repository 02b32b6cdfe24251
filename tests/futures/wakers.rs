//! Wakers on other threads, and wakers that outlive their future or their loop.

use std::rc::Rc;
use std::task::Waker;
use std::thread;

use crate::support::futures::{Gate, block_on, run};
use crate::support::{
    Count, LIMIT, OnDrop, on_another_thread, turn, wait_until_asleep, wakes, with_loop, with_watchdog,
};
use reveille::{EventLoop, LoopThread};

#[test]
fn a_wake_up_of_another_thread_ends_the_sleep() {
    with_loop(|event_loop| {
        let gate = Gate::default();
        let (opened, this_thread) = (gate.clone(), rustix::thread::gettid());
        let joined = event_loop.spawn_local(gate.wait());
        turn(event_loop);
        thread::spawn(move || {
            wait_until_asleep(this_thread);
            opened.open();
        });
        run(event_loop, joined).unwrap();
    });
}

#[test]
fn wake_ups_of_many_threads_lose_no_message() {
    with_watchdog(LIMIT, || {
        const THREADS: u64 = 4;
        const MESSAGES: u64 = 5_000;
        let event_loop = EventLoop::new().unwrap();
        let (gate, sum) = (Gate::default(), std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
        let waiting = gate.clone();
        let joined = {
            let sum = std::sync::Arc::clone(&sum);
            std::future::poll_fn(move |context| {
                let mut polled = waiting.wait();
                let _ = std::pin::Pin::new(&mut polled).poll(context);
                match sum.load(std::sync::atomic::Ordering::Relaxed) == THREADS * MESSAGES {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
        };
        let joined = event_loop.spawn_local(joined);
        turn(&event_loop);
        for _ in 0..THREADS {
            let (sum, waker) = (std::sync::Arc::clone(&sum), gate.waker());
            thread::spawn(move || {
                for _ in 0..MESSAGES {
                    sum.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    waker.wake_by_ref();
                }
            });
        }
        run(&event_loop, joined).unwrap();
    });
}

#[test]
fn a_waker_of_an_ended_future_does_nothing() {
    with_loop(|event_loop| {
        let gate = Gate::default();
        gate.unlock();
        event_loop.spawn_local(gate.wait());
        turn(event_loop);
        // It has the slot of the first one.
        let next = Gate::default();
        event_loop.spawn_local(next.wait());
        turn(event_loop);
        let wakes_before = wakes(&event_loop.handle());
        gate.waker().wake();
        on_another_thread(|| gate.waker().wake());
        assert_eq!(wakes(&event_loop.handle()), wakes_before);
        turn(event_loop);
        assert_eq!((gate.polls.get(), next.polls.get()), (1, 1));
    });
}

#[test]
fn a_waker_of_an_ended_loop_does_nothing() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let gate = Gate::default();
        event_loop.spawn_local(gate.wait());
        turn(&event_loop);
        drop(event_loop);
        let next = EventLoop::new().unwrap();
        let other = Gate::default();
        next.spawn_local(other.wait());
        turn(&next);
        gate.waker().wake();
        on_another_thread(|| gate.waker().wake());
        turn(&next);
        assert_eq!((gate.polls.get(), other.polls.get()), (1, 1));
    });
}

#[test]
fn the_last_waker_on_another_thread_drops_no_future() {
    with_watchdog(LIMIT, || {
        for is_ended_by_its_loop in [false, true] {
            let event_loop = EventLoop::new().unwrap();
            let (gate, drops, home) = (Gate::default(), Count::default(), thread::current().id());
            let counting = drops.clone();
            let token = Rc::new(OnDrop::new(move || {
                assert_eq!(thread::current().id(), home);
                counting.add();
            }));
            let wait = gate.wait();
            event_loop.spawn_local(async move {
                wait.await;
                token.keep();
            });
            turn(&event_loop);
            let waker: Waker = gate.waker();
            if is_ended_by_its_loop {
                drop(event_loop);
            } else {
                gate.open();
                turn(&event_loop);
            }
            assert_eq!(drops.get(), 1, "dropped with the waker alive");
            drop(gate);
            on_another_thread(move || drop(waker));
            assert_eq!(drops.get(), 1);
        }
    });
}

#[test]
fn two_loops_wake_each_others_futures() {
    with_watchdog(LIMIT, || {
        let threads = [LoopThread::spawn("one").unwrap(), LoopThread::spawn("two").unwrap()];
        let inner = threads[1].handle().clone();
        let outer = threads[0].handle().spawn(async move {
            let mut sum = 0;
            for number in 0..1_000 {
                sum += inner.spawn(async move { number }).unwrap().await.unwrap();
            }
            sum
        });
        assert_eq!(block_on(outer.unwrap()).unwrap(), 499_500);
    });
}
