//! A loop embedded in another one: `run_once`, and the descriptor that signals when to call it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Count, LIMIT, Recorder, is_readable, on_another_thread, panic_of, poll, turn, wait_readable,
    wait_until_asleep, with_loop, with_watchdog,
};
use reveille::io::{Channel, ChannelEvent, Interest};
use reveille::{EventLoop, LoopThread, TcpServer};
use rustix::event::epoll;

#[test]
fn run_once_with_a_zero_timeout_does_not_wait() {
    with_loop(|event_loop| {
        event_loop.run_once(Duration::ZERO).unwrap();
        event_loop.run_once(Some(Duration::ZERO)).unwrap();
        event_loop.run_after(Duration::MAX, |_| ());
        event_loop.run_once(Duration::ZERO).unwrap();
        assert_eq!(event_loop.iteration(), 3);
    });
}

#[test]
fn an_idle_run_once_waits_for_its_whole_timeout() {
    with_loop(|event_loop| {
        let waits = |event_loop: &EventLoop| {
            for micros in [1, 500, 1_000, 2_500, 20_000] {
                let (limit, start) = (Duration::from_micros(micros), Instant::now());
                event_loop.run_once(limit).unwrap();
                assert!(start.elapsed() >= limit, "{limit:?}");
            }
        };
        waits(event_loop);

        // Completed work leaves nothing behind that would end a later wait.
        event_loop.queue_in_loop(|event_loop| event_loop.queue_in_loop(|_| ()));
        let handle = event_loop.handle();
        on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        event_loop.run_after(Duration::ZERO, |_| ());
        turn(event_loop);
        turn(event_loop);
        waits(event_loop);

        event_loop.quit();
        event_loop.run().unwrap();
        waits(event_loop);

        let id = event_loop.run_after(Duration::from_millis(1), |_| ());
        event_loop.cancel(id);
        waits(event_loop);
    });
}

#[test]
fn run_once_makes_exactly_one_turn() {
    with_loop(|event_loop| {
        for _ in 0..3 {
            event_loop.queue_in_loop(|event_loop| event_loop.queue_in_loop(|_| ()));
            let turns = event_loop.iteration();
            event_loop.run_once(None).unwrap();
            assert_eq!(event_loop.iteration(), turns + 1);
            event_loop.run_once(Duration::from_secs(3600)).unwrap();
            assert_eq!(event_loop.iteration(), turns + 2);
        }
    });
}

#[test]
fn run_once_ends_its_wait_for_a_timer() {
    with_loop(|event_loop| {
        for limit in [None, Some(Duration::from_secs(3600)), Some(Duration::MAX)] {
            let (delay, start, fired) = (Duration::from_millis(2), Instant::now(), Count::default());
            let f = fired.clone();
            event_loop.run_after(delay, move |_| f.add());
            event_loop.run_once(limit).unwrap();
            assert!(start.elapsed() >= delay);
            assert_eq!(fired.get(), 1);
        }
    });
}

#[test]
fn run_once_ends_its_wait_for_a_post_or_a_descriptor() {
    with_loop(|event_loop| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
            s.record("descriptor");
        })
        .unwrap();
        let (handle, loops, posted) = (event_loop.handle(), rustix::thread::gettid(), Count::default());
        thread::scope(|scope| {
            let (to_thread, from_main) = mpsc::channel::<&str>();
            let (p, mut theirs) = (posted.clone(), &theirs);
            scope.spawn(move || {
                for what in from_main {
                    wait_until_asleep(loops);
                    let p = p.clone();
                    match what {
                        "post" => handle.queue_in_loop(move |_| p.add()).unwrap(),
                        _ => theirs.write_all(b"x").unwrap(),
                    }
                }
            });
            for limit in [None, Some(Duration::from_secs(3600))] {
                to_thread.send("post").unwrap();
                event_loop.run_once(limit).unwrap();
                to_thread.send("descriptor").unwrap();
                event_loop.run_once(limit).unwrap();
            }
            drop(to_thread);
        });
        assert_eq!(posted.get(), 2);
        assert_eq!(seen.take(), ["descriptor", "descriptor"]);
    });
}

#[test]
fn the_descriptor_of_an_idle_loop_is_not_readable() {
    with_loop(|event_loop| {
        assert!(!is_readable(event_loop), "a new one");
        turn(event_loop);
        assert!(!is_readable(event_loop), "one that has made a turn");
        event_loop.quit();
        event_loop.run().unwrap();
        assert!(!is_readable(event_loop), "one that has been run");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, |_| ()).unwrap();
        event_loop.run_after(Duration::from_secs(3600), |_| ());
        assert!(!is_readable(event_loop), "one with something to wait for");
        turn(event_loop);
        assert!(!is_readable(event_loop));
    });
}

#[test]
fn the_descriptor_of_a_loop_never_changes() {
    with_loop(|event_loop| {
        let number = event_loop.as_fd().as_raw_fd();
        event_loop.queue_in_loop(|_| ());
        turn(event_loop);
        assert_eq!(event_loop.as_fd().as_raw_fd(), number);
    });
}

#[test]
fn the_descriptor_shows_a_post_from_another_thread() {
    with_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        for round in 1..=50 {
            for _ in 0..2 {
                let ran = ran.clone();
                on_another_thread(|| handle.queue_in_loop(move |_| ran.add()).unwrap());
                assert!(is_readable(event_loop));
            }
            turn(event_loop);
            assert_eq!(ran.get(), 2 * round);
            assert!(!is_readable(event_loop));
        }
    });
}

#[test]
fn the_descriptor_shows_a_task_queued_between_turns() {
    with_loop(|event_loop| {
        for round in 0..10 {
            match round % 2 {
                0 => event_loop.queue_in_loop(|_| ()),
                _ => event_loop.handle().queue_in_loop(|_| ()).unwrap(),
            }
            assert!(is_readable(event_loop));
            turn(event_loop);
            assert!(!is_readable(event_loop));
        }
    });
}

#[test]
fn the_descriptor_shows_work_left_by_a_turn() {
    with_loop(|event_loop| {
        let ran = Count::default();
        let r = ran.clone();
        event_loop.queue_in_loop(move |event_loop| event_loop.queue_in_loop(move |_| r.add()));
        turn(event_loop);
        assert_eq!(ran.get(), 0);
        assert!(is_readable(event_loop), "a task that a task has queued");
        turn(event_loop);
        assert_eq!(ran.get(), 1);
        assert!(!is_readable(event_loop));

        event_loop.queue_in_loop(|event_loop| {
            let handle = event_loop.handle();
            on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        });
        turn(event_loop);
        assert!(is_readable(event_loop), "a task that another thread has posted during the tasks");
        turn(event_loop);
        assert!(!is_readable(event_loop));
    });
}

#[test]
fn the_descriptor_shows_work_left_by_a_panicked_turn() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        event_loop.queue_in_loop(|event_loop| {
            event_loop.queue_in_loop(|_| ());
            panic!("half way");
        });
        assert_eq!(panic_of(|| event_loop.run_once(Duration::ZERO)), "half way");
        assert!(is_readable(&event_loop));
        turn(&event_loop);
        assert!(!is_readable(&event_loop));
    });
}

#[test]
fn the_descriptor_shows_a_request_to_quit() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        on_another_thread(|| handle.quit());
        assert!(is_readable(event_loop));
        turn(event_loop);
        assert!(event_loop.is_quitting(), "a turn leaves it standing");
        assert!(is_readable(event_loop), "and so it is something to do");
        event_loop.run().unwrap();
        assert!(!is_readable(event_loop));
    });
}

#[test]
fn the_descriptor_shows_readiness_of_a_channels_interest() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let mut bytes = [0; 2];
            s.record(event.source().read(&mut bytes).unwrap());
        })
        .unwrap();
        turn(event_loop);
        assert!(!is_readable(event_loop));
        theirs.write_all(b"123").unwrap();
        assert!(is_readable(event_loop));
        turn(event_loop);
        assert!(is_readable(event_loop), "a byte is left");
        turn(event_loop);
        assert!(!is_readable(event_loop));
        assert_eq!(seen.take(), [2, 1]);

        theirs.write_all(b"4").unwrap();
        channel.close();
        assert!(!is_readable(event_loop), "the closed channel keeps the descriptor readable");
    });
}

#[test]
fn the_descriptor_shows_the_events_that_did_not_fit_into_a_turn() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().events_per_turn(1).build().unwrap();
        let calls = Count::default();
        let mut kept = Vec::new();
        for _ in 0..5 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"x").unwrap();
            let c = calls.clone();
            let callback = move |event: &ChannelEvent<'_, UnixStream>| {
                assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
                c.add();
            };
            kept.push((Channel::new(&event_loop, ours, Interest::READABLE, callback).unwrap(), theirs));
        }
        for round in 1..=5 {
            assert!(is_readable(&event_loop));
            turn(&event_loop);
            assert_eq!(calls.get(), round);
        }
        assert!(!is_readable(&event_loop));
    });
}

#[test]
fn the_descriptor_shows_that_a_connection_has_more_to_read() {
    const BYTES: usize = 16 * 1024;

    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
        let read = Recorder::new();
        let r = read.clone();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(move |_, input| {
            r.record(input.take_all().len());
            Ok::<_, io::Error>(())
        });
        let server = server.unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(&[0; BYTES]).unwrap();
        let (mut left, mut turns) = (BYTES, 0);
        while left > 0 {
            // The kernel has reported the input once. The later turns come from the readiness that
            // the loop has cached.
            wait_readable(&event_loop);
            turn(&event_loop);
            left -= read.take().into_iter().sum::<usize>();
            turns += 1;
        }
        assert!(turns > 2, "no turn reads it all");
        drop(client);
    });
}

#[test]
fn the_descriptor_shows_a_timer_only_when_due() {
    with_loop(|event_loop| {
        let fired = Count::default();
        for round in 1..=5 {
            let f = fired.clone();
            event_loop.run_after(Duration::from_millis(2), move |_| f.add());
            let deadline = event_loop.next_deadline().unwrap();
            let shown = is_readable(event_loop);
            assert!(!shown || Instant::now() >= deadline, "shown too early");
            wait_readable(event_loop);
            assert!(Instant::now() >= deadline, "shown too early");
            turn(event_loop);
            assert_eq!(fired.get(), round);
            assert!(!is_readable(event_loop));
        }

        let (handle, f) = (event_loop.handle(), fired.clone());
        on_another_thread(|| handle.run_after(Duration::ZERO, move |_| f.add()).unwrap());
        assert!(is_readable(event_loop), "the loop must take it first");
        turn(event_loop);
        assert!(event_loop.next_deadline().is_some_and(|deadline| deadline <= Instant::now()));
        assert!(is_readable(event_loop));
        turn(event_loop);
        assert_eq!(fired.get(), 6);
    });
}

/// Runs the loop from an outer one that waits with `wait`, while another loop sends each message
/// back.
fn ping_pong_from_outside(event_loop: &EventLoop, rounds: usize, wait: impl Fn()) {
    let (other, count) = (LoopThread::spawn("other").unwrap(), Count::default());
    for round in 0..rounds {
        let (here, count) = (event_loop.handle(), count.clone());
        let c = count.clone();
        let there = move |_: &EventLoop| here.queue_in_loop(move |_| c.add()).unwrap();
        other.handle().queue_in_loop(there).unwrap();
        while count.get() == round {
            wait();
            turn(event_loop);
        }
    }
    assert_eq!(count.get(), rounds);
}

#[test]
fn a_loop_inside_a_poll_misses_no_post() {
    with_loop(|event_loop| ping_pong_from_outside(event_loop, 2_000, || wait_readable(event_loop)));
}

#[test]
fn a_loop_inside_an_epoll_misses_no_post() {
    for flags in [epoll::EventFlags::IN, epoll::EventFlags::IN | epoll::EventFlags::ET] {
        with_loop(move |event_loop| {
            let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            epoll::add(&outer, event_loop, epoll::EventData::new_u64(7), flags).unwrap();
            ping_pong_from_outside(event_loop, 2_000, || {
                let mut events = Vec::with_capacity(4);
                epoll::wait(&outer, rustix::buffer::spare_capacity(&mut events), None).unwrap();
                assert_eq!(events.len(), 1);
            });
        });
    }
}

#[test]
fn an_outer_loop_serves_tasks_descriptors_and_timers() {
    with_loop(|event_loop| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            assert_eq!(event.source().read(&mut [0; 1]).unwrap(), 1);
            s.record("descriptor");
            let s = s.clone();
            event.event_loop().run_after(Duration::from_micros(300), move |_| s.record("timer"));
        })
        .unwrap();
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let mut theirs = &theirs;
            scope.spawn(move || {
                for _ in 0..20 {
                    theirs.write_all(b"x").unwrap();
                    handle.queue_in_loop(|event_loop| event_loop.queue_in_loop(|_| ())).unwrap();
                }
            });
            while seen.len() < 40 {
                let left =
                    event_loop.next_deadline().map(|next| next.saturating_duration_since(Instant::now()));
                poll(event_loop, left);
                turn(event_loop);
            }
        });
        assert_eq!(seen.take().iter().filter(|&&what| what == "timer").count(), 20);
    });
}
