//! The heap allocations of spawned futures, on the loop's thread and on others.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use crate::support::counting::{Counts, counts};
use crate::support::futures::{Gate, run};
use crate::support::{LIMIT, on_another_thread, turn, with_clock, with_loop, with_watchdog};
use reveille::io::Async;
use reveille::{EventLoop, task, time};

const FUTURES: u64 = 1_000;

/// The allocations and frees of `call` on this thread, once its collections have grown.
fn blocks_of(mut call: impl FnMut()) -> (u64, u64) {
    (0..3).for_each(|_| call());
    let before = counts();
    call();
    let Counts { allocated, freed, .. } = counts() - before;
    (allocated, freed)
}

#[test]
fn a_spawn_and_its_join_allocate_once() {
    with_loop(|event_loop| {
        let measured = run(event_loop, async {
            let mut handles = Vec::with_capacity(FUTURES as usize);
            let mut blocks = (0, 0);
            for _ in 0..4 {
                let before = counts();
                for number in 0..FUTURES {
                    handles.push(task::spawn_local(async move { [number; 20] }));
                }
                for (number, handle) in handles.drain(..).enumerate() {
                    assert_eq!(handle.await.unwrap()[0], number as u64);
                }
                let Counts { allocated, freed, .. } = counts() - before;
                blocks = (allocated, freed);
            }
            blocks
        });
        assert_eq!(measured, (FUTURES, FUTURES));
    });
}

#[test]
fn a_spawn_from_another_thread_allocates_once_there() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        for _ in 0..4 {
            let (sent, freed) = on_another_thread(|| {
                let before = counts();
                for _ in 0..FUTURES {
                    drop(handle.spawn(async { task::yield_now().await }).unwrap());
                }
                let Counts { allocated, freed, .. } = counts() - before;
                (allocated, freed)
            });
            // The queue grows too.
            assert!((FUTURES..FUTURES + 20).contains(&sent), "{sent} allocations");
            assert!(freed < 20);
            let before = counts();
            event_loop.run_until_idle().unwrap();
            let Counts { allocated, freed, .. } = counts() - before;
            assert!(allocated < 20, "{allocated} allocations");
            assert!((FUTURES..FUTURES + 20).contains(&freed));
        }
    });
}

#[test]
fn yields_and_wake_ups_on_the_loop_allocate_nothing() {
    with_loop(|event_loop| {
        let (ping, is_set) = (Gate::default(), Rc::new(Cell::new(0)));
        let (wait, seen) = (ping.clone(), Rc::clone(&is_set));
        event_loop.spawn_local(poll_fn(move |context| {
            let mut wait = wait.wait();
            let _ = std::pin::Pin::new(&mut wait).poll(context);
            seen.set(seen.get() + 1);
            Poll::<()>::Pending
        }));
        turn(event_loop);
        let waker = ping.waker();
        assert_eq!(
            blocks_of(|| {
                for _ in 0..FUTURES {
                    waker.wake_by_ref();
                    turn(event_loop);
                }
            }),
            (0, 0)
        );
        assert_eq!(is_set.get(), 4 * FUTURES + 1);
        event_loop.spawn_local(async {
            loop {
                task::yield_now().await;
            }
        });
        assert_eq!(blocks_of(|| (0..10).for_each(|_| turn(event_loop))), (0, 0));
    });
}

#[test]
fn a_wake_up_from_another_thread_allocates_nothing() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let gate = Gate::default();
        event_loop.spawn_local(gate.wait());
        turn(&event_loop);
        let waker = gate.waker();
        let (start, started) = std::sync::mpsc::sync_channel::<()>(0);
        let (done, is_done) = std::sync::mpsc::sync_channel::<(u64, u64)>(0);
        let waking = thread::spawn(move || {
            for () in started {
                let before = counts();
                waker.wake_by_ref();
                let Counts { allocated, freed, .. } = counts() - before;
                done.send((allocated, freed)).unwrap();
            }
        });
        let mut last = (1, 1);
        for _ in 0..20 {
            start.send(()).unwrap();
            last = is_done.recv().unwrap();
            turn(&event_loop);
        }
        assert_eq!((last, gate.polls.get()), ((0, 0), 21));
        drop(start);
        waking.join().unwrap();
    });
}

#[test]
fn a_sleep_allocates_nothing() {
    with_clock(|event_loop, clock| {
        event_loop.spawn_local(async {
            loop {
                time::sleep(Duration::from_secs(1)).await;
                let _ = time::timeout(Duration::from_secs(2), time::sleep(Duration::from_secs(1))).await;
            }
        });
        let blocks = blocks_of(|| {
            for _ in 0..100 {
                clock.advance(Duration::from_secs(1));
                turn(event_loop);
            }
        });
        assert_eq!(blocks, (0, 0));
    });
}

#[test]
fn a_wait_for_a_descriptor_allocates_nothing() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let received = Rc::new(Cell::new(0));
        let counting = Rc::clone(&received);
        event_loop.spawn_local(async move {
            let stream = Async::new(ours).unwrap();
            let mut buffer = [0; 16];
            loop {
                let read = stream.read_with(|mut stream| stream.read(&mut buffer)).await;
                counting.set(counting.get() + read.unwrap());
            }
        });
        turn(event_loop);
        let blocks = blocks_of(|| {
            for _ in 0..100 {
                let before = received.get();
                theirs.write_all(b"x").unwrap();
                while received.get() == before {
                    event_loop.run_once(LIMIT).unwrap();
                }
            }
        });
        assert_eq!((blocks, received.get()), ((0, 0), 400));
    });
}
