//! What a turn does, in which order, and what a panic in it costs.

mod support;

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use reveille::{
    Buffer, Channel, ChannelEvent, CloseReason, ConnectionHandler, EventLoop, Interest, TcpConnection,
    TcpServer,
};
use support::{Count, LIMIT, OnDrop, Recorder, panic_of, turn, with_catching_loop, with_loop, with_watchdog};

/// A channel that is ready at once; its callback reads the one byte, then calls `then`.
fn ready_channel(event_loop: &EventLoop, mut then: impl FnMut(&EventLoop) + 'static) -> Channel<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(b"x").unwrap();
    let callback = move |event: &ChannelEvent<'_, UnixStream>| {
        // The other end lives as long as the channel, so that no hang-up calls it again.
        let _ = &theirs;
        assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
        then(event.event_loop());
    };
    Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()
}

/// A channel that is ready in every turn.
fn always_ready_channel(
    event_loop: &EventLoop,
    mut then: impl FnMut(&EventLoop) + 'static,
) -> Channel<UnixStream> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let callback = move |event: &ChannelEvent<'_, UnixStream>| {
        let _ = &theirs;
        then(event.event_loop());
    };
    Channel::new(event_loop, ours, Interest::WRITABLE, callback).unwrap()
}

fn wait_for_tick(since: Instant) {
    while Instant::now() <= since {
        std::hint::spin_loop();
    }
}

#[test]
fn a_turn_calls_channels_then_timers_then_tasks() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        event_loop.queue_in_loop(move |_| s.record("task"));
        let s = seen.clone();
        event_loop.run_at(Instant::now(), move |_| s.record("timer"));
        let s = seen.clone();
        let _channel = ready_channel(event_loop, move |_| s.record("channel"));
        wait_for_tick(Instant::now());
        turn(event_loop);
        assert_eq!(seen.take(), ["channel", "timer", "task"]);
    });
}

#[test]
fn what_is_closed_in_a_turn_is_told_so_after_the_tasks_of_that_turn() {
    struct Handler(Recorder<(&'static str, u64)>);

    impl ConnectionHandler for Handler {
        fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
            input.take_all();
            let event_loop = conn.event_loop();
            conn.close();
            let seen = self.0.clone();
            event_loop.queue_in_loop(move |event_loop| seen.record(("task", event_loop.iteration())));
            let seen = self.0.clone();
            event_loop
                .run_at(event_loop.now(), move |event_loop| seen.record(("timer", event_loop.iteration())));
            self.0.record(("message", event_loop.iteration()));
            Ok(())
        }

        fn on_close(&mut self, conn: &TcpConnection<'_>, _reason: &CloseReason) {
            self.0.record(("close", conn.event_loop().iteration()));
            conn.event_loop().quit();
        }
    }

    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        let server =
            TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| Handler(s.clone())).unwrap();
        let mut client = TcpStream::connect(server.local_addr()).unwrap();
        client.write_all(b"x").unwrap();
        event_loop.run().unwrap();
        let seen = seen.take();
        let iteration = seen[0].1;
        assert_eq!(seen, ["message", "timer", "task", "close"].map(|what| (what, iteration)));
    });
}

#[test]
fn what_a_channel_callback_starts_is_served_in_the_same_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = ready_channel(event_loop, move |event_loop| {
            s.record("channel");
            let (task, timer) = (s.clone(), s.clone());
            event_loop.queue_in_loop(move |_| task.record("task"));
            event_loop.run_at(event_loop.now(), move |_| timer.record("timer"));
        });
        turn(event_loop);
        assert_eq!(seen.take(), ["channel", "timer", "task"]);
    });
}

#[test]
fn a_task_queued_from_a_timer_runs_in_the_same_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        event_loop.run_at(Instant::now(), move |event_loop| {
            s.record("timer");
            let s = s.clone();
            event_loop.queue_in_loop(move |_| s.record("task"));
        });
        turn(event_loop);
        assert_eq!(seen.take(), ["timer", "task"]);
    });
}

#[test]
fn a_task_queued_from_a_task_waits_for_the_next_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        let posts = move |event_loop: &EventLoop| {
            s.record("first");
            let (local, through_handle) = (s.clone(), Count::default());
            event_loop.queue_in_loop(move |_| local.record("second"));
            let count = through_handle.clone();
            event_loop.handle().queue_in_loop(move |_| count.add()).unwrap();
            let s = s.clone();
            event_loop.queue_in_loop(move |_| {
                assert_eq!(through_handle.get(), 1, "the order is kept, whichever face was asked");
                s.record("third");
            });
        };
        event_loop.queue_in_loop(posts);
        turn(event_loop);
        assert_eq!(seen.take(), ["first"]);
        turn(event_loop);
        assert_eq!(seen.take(), ["second", "third"]);
    });
}

#[test]
fn a_timer_made_in_a_timer_with_a_past_deadline_waits_for_the_next_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        let long_ago = Instant::now();
        event_loop.run_at(long_ago, move |event_loop| {
            s.record("first");
            let s = s.clone();
            event_loop.run_at(long_ago, move |_| s.record("second"));
        });
        turn(event_loop);
        assert_eq!(seen.take(), ["first"]);
        turn(event_loop);
        assert_eq!(seen.take(), ["second"]);
    });
}

#[test]
fn a_due_timer_made_in_a_task_is_called_in_the_next_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.run_at(event_loop.now(), move |event_loop| s.record(event_loop.iteration()));
        });
        turn(event_loop);
        assert_eq!(seen.take(), []);
        turn(event_loop);
        assert_eq!(seen.take(), [1]);
    });
}

#[test]
fn a_channel_made_in_a_callback_is_first_called_in_the_next_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let made = Rc::new(RefCell::new(Vec::new()));
        let (s, m) = (seen.clone(), Rc::clone(&made));
        let first = ready_channel(event_loop, move |event_loop| {
            s.record("first");
            let s = s.clone();
            m.borrow_mut().push(ready_channel(event_loop, move |_| s.record("second")));
        });
        turn(event_loop);
        assert_eq!(seen.take(), ["first"]);
        turn(event_loop);
        assert_eq!(seen.take(), ["second"]);
        drop(first);
    });
}

#[test]
fn the_iteration_is_the_number_of_turns_made() {
    with_loop(|event_loop| {
        assert_eq!(event_loop.iteration(), 0);
        let seen = Recorder::new();
        for _ in 0..3 {
            let s = seen.clone();
            event_loop.queue_in_loop(move |event_loop| s.record(event_loop.iteration()));
            turn(event_loop);
        }
        assert_eq!(seen.take(), [0, 1, 2], "in a callback the turn that is under way does not count");
        assert_eq!(event_loop.iteration(), 3);
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(event_loop.iteration(), 4);
    });
}

#[test]
fn now_stands_still_during_a_turn_and_moves_between_turns() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let look = |seen: &Recorder<Instant>| {
            let seen = seen.clone();
            move |event_loop: &EventLoop| {
                seen.record(event_loop.now());
                wait_for_tick(Instant::now());
                seen.record(event_loop.now());
            }
        };
        let mut last = event_loop.now();
        for _ in 0..3 {
            let _channel = ready_channel(event_loop, look(&seen));
            event_loop.run_at(last, look(&seen));
            event_loop.queue_in_loop(look(&seen));
            wait_for_tick(Instant::now());
            let before = Instant::now();
            turn(event_loop);
            let seen = seen.take();
            assert_eq!(seen.len(), 6);
            assert!(seen.iter().all(|&now| now == seen[0]), "{seen:?}");
            assert!(seen[0] >= before && seen[0] < Instant::now());
            assert!(seen[0] > last);
            last = seen[0];
        }
    });
}

#[test]
fn now_is_the_present_outside_a_turn() {
    with_loop(|event_loop| {
        turn(event_loop);
        let before = Instant::now();
        let now = event_loop.now();
        assert!(before <= now && now <= Instant::now());
    });
}

#[test]
fn tasks_run_in_the_order_queued_whichever_face_was_asked() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for number in 0..100 {
            let s = Arc::clone(&seen);
            let task = move |_: &EventLoop| s.lock().unwrap().push(number);
            match number % 3 {
                0 => handle.queue_in_loop(task).unwrap(),
                1 => event_loop.handle().queue_in_loop(task).unwrap(),
                _ => event_loop.queue_in_loop(task),
            }
        }
        turn(event_loop);
        assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn run_in_loop_on_the_loops_thread_runs_at_once() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        assert!(handle.is_in_loop_thread());

        let ran = Cell::new(false);
        event_loop.run_in_loop(|_| ran.set(true));
        assert!(ran.get(), "before the loop runs");

        let count = Count::default();
        let c = count.clone();
        handle.run_in_loop(move |_| c.add()).unwrap();
        assert_eq!(count.get(), 1, "before the loop runs, through the handle");

        let seen = Recorder::new();
        let s = seen.clone();
        let h = handle.clone();
        event_loop.queue_in_loop(move |event_loop| {
            let c = count.clone();
            let inner = h.clone();
            h.run_in_loop(move |event_loop| {
                assert!(event_loop.handle().is_in_loop_thread());
                let c = c.clone();
                inner.run_in_loop(move |_| c.add()).unwrap();
            })
            .unwrap();
            assert_eq!(count.get(), 2, "from a task, and from a task run at once");
            event_loop.run_in_loop(|_| s.record("inner"));
            s.record("outer");
        });
        turn(event_loop);
        assert_eq!(seen.take(), ["inner", "outer"]);
    });
}

#[test]
fn a_panic_in_run_in_loop_is_the_callers() {
    with_catching_loop(|event_loop| {
        assert_eq!(panic_of(|| event_loop.run_in_loop(|_| panic!("mine"))), "mine");
        assert_eq!(panic_of(|| event_loop.handle().run_in_loop(|_| panic!("mine too"))), "mine too");
        assert_eq!(event_loop.handle().counters().panics, 0);
        turn(event_loop);
    });
}

/// Waits on another thread until the loop has served a timer and a channel, then asks it to quit.
fn serves_the_rest_beside(nuisance: impl FnOnce(&EventLoop)) {
    with_loop(|event_loop| {
        nuisance(event_loop);
        let (served, is_served) = mpsc::channel();
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let s = served.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
            s.send("channel").unwrap();
        })
        .unwrap();
        let s = served.clone();
        event_loop.run_after(Duration::from_millis(2), move |_| s.send("timer").unwrap());
        let handle = event_loop.handle();
        thread::scope(|scope| {
            let mut theirs = &theirs;
            scope.spawn(move || {
                assert_eq!(is_served.recv().unwrap(), "timer");
                theirs.write_all(b"x").unwrap();
                assert_eq!(is_served.recv().unwrap(), "channel");
                handle.queue_in_loop(move |_| served.send("task").unwrap()).unwrap();
                assert_eq!(is_served.recv().unwrap(), "task");
                handle.quit();
            });
            event_loop.run().unwrap();
        });
        drop(channel);
    });
}

#[test]
fn a_task_that_queues_itself_again_starves_nothing() {
    fn again(event_loop: &EventLoop) {
        event_loop.queue_in_loop(again);
    }
    serves_the_rest_beside(again);
}

#[test]
fn a_task_that_posts_itself_through_the_handle_starves_nothing() {
    fn again(event_loop: &EventLoop) {
        event_loop.handle().queue_in_loop(again).unwrap();
    }
    serves_the_rest_beside(again);
}

#[test]
fn a_timer_that_arms_itself_to_now_starves_nothing() {
    fn again(event_loop: &EventLoop) {
        event_loop.run_at(event_loop.now(), again);
    }
    serves_the_rest_beside(again);
}

#[test]
fn a_channel_that_is_always_ready_starves_nothing() {
    serves_the_rest_beside(|event_loop| always_ready_channel(event_loop, |_| ()).detach());
}

#[test]
fn what_does_not_fit_into_one_wait_comes_with_the_next() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().events_per_turn(1).build().unwrap();
        let seen = Recorder::new();
        let channels: Vec<_> = (0..4)
            .map(|number| {
                let s = seen.clone();
                ready_channel(&event_loop, move |_| s.record(number))
            })
            .collect();
        for _ in 0..channels.len() {
            turn(&event_loop);
            assert_eq!(seen.len(), event_loop.iteration() as usize);
        }
        let mut seen = seen.take();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    });
}

#[test]
fn running_a_loop_from_its_own_callback_is_an_error() {
    fn check(event_loop: &EventLoop) {
        let now = event_loop.now();
        wait_for_tick(Instant::now());
        for _ in 0..2 {
            assert_eq!(event_loop.run().unwrap_err().kind(), ErrorKind::ResourceBusy);
            assert_eq!(event_loop.run_once(Duration::ZERO).unwrap_err().kind(), ErrorKind::ResourceBusy);
            assert_eq!(event_loop.run_once(None).unwrap_err().kind(), ErrorKind::ResourceBusy);
        }
        assert_eq!(event_loop.now(), now, "the turn under way has not noticed");
    }

    with_loop(|event_loop| {
        let seen = Recorder::new();
        let from = |what| {
            let seen = seen.clone();
            move |event_loop: &EventLoop| {
                check(event_loop);
                seen.record(what);
            }
        };
        let _channel = ready_channel(event_loop, from("channel"));
        event_loop.run_at(Instant::now(), from("timer"));
        event_loop.queue_in_loop(from("task"));
        turn(event_loop);
        assert_eq!(seen.take(), ["channel", "timer", "task"]);
        assert_eq!(event_loop.iteration(), 1);

        event_loop.queue_in_loop(from("task in run"));
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(seen.take(), ["task in run"]);
    });
}

#[test]
fn a_second_loop_in_a_thread_is_an_error_until_the_first_is_dropped() {
    with_watchdog(LIMIT, || {
        let first = EventLoop::new().unwrap();
        let handle = first.handle();
        assert_eq!(EventLoop::new().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(EventLoop::builder().build().unwrap_err().kind(), ErrorKind::AlreadyExists);
        first.queue_in_loop(|event_loop| {
            assert_eq!(EventLoop::new().unwrap_err().kind(), ErrorKind::AlreadyExists);
            event_loop.quit();
        });
        first.run().unwrap();
        assert!(handle.is_in_loop_thread(), "the first one is still this thread's");
        drop(first);
        assert!(!handle.is_in_loop_thread());

        let second = EventLoop::new().unwrap();
        assert!(second.handle().is_in_loop_thread());
        assert!(!handle.is_in_loop_thread());
        assert!(handle.queue_in_loop(|_| ()).is_err(), "a handle of the first does not speak to the second");
        assert!(handle.run_in_loop(|_| ()).is_err());
        turn(&second);
    });
}

#[test]
fn two_loops_in_two_threads_run_side_by_side() {
    with_watchdog(LIMIT, || {
        // Each is inside a task while the other one is, or neither gets past the barrier.
        let met = Arc::new(Barrier::new(2));
        let homes = Arc::new(Mutex::new(Vec::new()));
        let serve = || {
            let event_loop = EventLoop::new().unwrap();
            let (met, homes) = (Arc::clone(&met), Arc::clone(&homes));
            event_loop.queue_in_loop(move |event_loop| {
                met.wait();
                homes.lock().unwrap().push(thread::current().id());
                event_loop.quit();
            });
            event_loop.run().unwrap();
        };
        thread::scope(|scope| {
            let other = scope.spawn(serve);
            let mut expected = [thread::current().id(), other.thread().id()];
            serve();
            other.join().unwrap();
            let mut homes = homes.lock().unwrap();
            expected.sort_unstable_by_key(|id| format!("{id:?}"));
            homes.sort_unstable_by_key(|id| format!("{id:?}"));
            assert_eq!(*homes, expected);
        });
    });
}

/// A loop on which a channel, a timer and a task are ready, each between two that record themselves.
struct Crowd {
    seen: Recorder,
    channels: Vec<Channel<UnixStream>>,
}

impl Crowd {
    fn new(event_loop: &EventLoop, panics_in: &[&'static str]) -> Crowd {
        let seen = Recorder::new();
        let callback = |what: &'static str, panics: bool| {
            let seen = seen.clone();
            move |_: &EventLoop| {
                seen.record(what);
                if panics {
                    panic!("{what} panics");
                }
            }
        };
        let panics = |what, position| panics_in.contains(&what) && position == 1;
        let due = Instant::now();
        let mut channels = Vec::new();
        for position in 0..3 {
            channels.push(ready_channel(event_loop, callback("channel", panics("channel", position))));
            event_loop.run_at(due, callback("timer", panics("timer", position)));
            event_loop.queue_in_loop(callback("task", panics("task", position)));
        }
        Crowd { seen, channels }
    }

    const ALL: [&str; 9] =
        ["channel", "channel", "channel", "timer", "timer", "timer", "task", "task", "task"];
}

#[test]
fn a_panic_costs_only_the_callback_it_happens_in() {
    for what in ["channel", "timer", "task"] {
        with_catching_loop(|event_loop| {
            let crowd = Crowd::new(event_loop, &[what]);
            turn(event_loop);
            assert_eq!(crowd.seen.take(), Crowd::ALL);
            assert_eq!(event_loop.handle().counters().panics, 1);
            let open: Vec<_> = crowd.channels.iter().map(Channel::is_open).collect();
            assert_eq!(open, [true, what != "channel", true]);
            assert_eq!(event_loop.handle().counters().tasks_dropped, 0);

            event_loop.queue_in_loop(|event_loop| event_loop.quit());
            event_loop.run().unwrap();
        });
    }
}

#[test]
fn a_panic_in_a_posted_task_costs_only_that_task() {
    with_catching_loop(|event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..10 {
                    let ran = ran.clone();
                    handle
                        .queue_in_loop(move |_| {
                            ran.add();
                            assert_ne!(number % 5, 3, "a panic of its own");
                        })
                        .unwrap();
                }
            });
        });
        turn(event_loop);
        assert_eq!(ran.get(), 10);
        assert_eq!(handle.counters().panics, 2);
    });
}

#[test]
fn a_repeating_timer_that_panics_is_over() {
    with_catching_loop(|event_loop| {
        let (calls, drops) = (Count::default(), Count::default());
        let callback = || {
            let (calls, token) = (calls.clone(), drops.drop_token());
            move |_: &EventLoop| {
                token.keep();
                calls.add();
                panic!("no more of this");
            }
        };
        let period = Duration::from_nanos(1);
        let id = event_loop.run_every(period, callback());
        let remote = event_loop.handle().run_every(period, callback()).unwrap();
        // The remote one is armed by a task, and due in the turn that follows.
        for _ in 0..4 {
            wait_for_tick(Instant::now());
            turn(event_loop);
        }
        assert_eq!((calls.get(), drops.get()), (2, 2));
        assert_eq!(event_loop.handle().counters().panics, 2);
        assert_eq!(event_loop.next_deadline(), None);
        assert!(!event_loop.cancel(id) && !event_loop.cancel(remote));
    });
}

#[test]
fn a_panic_in_a_timer_of_a_handle_costs_only_that_timer() {
    with_catching_loop(|event_loop| {
        let (handle, calls) = (event_loop.handle(), Count::default());
        for number in 0..3 {
            let calls = calls.clone();
            handle
                .run_at(Instant::now(), move |_| {
                    calls.add();
                    assert_ne!(number, 1, "a panic of its own");
                })
                .unwrap();
        }
        turn(event_loop);
        turn(event_loop);
        assert_eq!(calls.get(), 3);
        assert_eq!(handle.counters().panics, 1);
    });
}

fn propagating_loop() -> EventLoop {
    EventLoop::builder().propagate_panics(true).build().unwrap()
}

#[test]
fn a_propagated_panic_comes_out_of_run_and_run_once_after_the_turn() {
    for what in ["channel", "timer", "task"] {
        with_watchdog(LIMIT, || {
            let event_loop = propagating_loop();
            let crowd = Crowd::new(&event_loop, &[what]);
            assert_eq!(panic_of(|| event_loop.run()), format!("{what} panics"));
            assert_eq!(crowd.seen.take(), Crowd::ALL);
            assert_eq!(event_loop.iteration(), 1);

            let crowd = Crowd::new(&event_loop, &[what]);
            assert_eq!(panic_of(|| event_loop.run_once(Duration::ZERO)), format!("{what} panics"));
            assert_eq!(crowd.seen.take(), Crowd::ALL);
            assert_eq!(event_loop.handle().counters().panics, 2);
        });
    }
}

#[test]
fn of_several_panics_in_a_turn_the_first_is_propagated_and_all_are_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = propagating_loop();
        let crowd = Crowd::new(&event_loop, &["task", "timer"]);
        assert_eq!(panic_of(|| event_loop.run()), "timer panics");
        assert_eq!(crowd.seen.take(), Crowd::ALL);
        assert_eq!(event_loop.handle().counters().panics, 2);
        turn(&event_loop);
    });
}

#[test]
fn a_loop_can_be_run_again_after_a_panic_has_come_out_of_it() {
    with_watchdog(LIMIT, || {
        let event_loop = propagating_loop();
        let seen = Recorder::new();
        let s = seen.clone();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.queue_in_loop(move |event_loop| {
                s.record("left over");
                event_loop.quit();
            });
            panic!("once");
        });
        assert_eq!(panic_of(|| event_loop.run()), "once");
        assert_eq!(seen.take(), [""; 0]);
        event_loop.run().unwrap();
        assert_eq!(seen.take(), ["left over"]);
    });
}

#[test]
fn a_propagated_panic_takes_any_payload() {
    with_watchdog(LIMIT, || {
        let event_loop = propagating_loop();
        event_loop.queue_in_loop(|_| std::panic::panic_any(42_u8));
        let payload = catch_unwind(AssertUnwindSafe(|| event_loop.run())).unwrap_err();
        assert_eq!(payload.downcast_ref::<u8>(), Some(&42));
    });
}

#[test]
fn dropping_the_loop_after_a_panic_came_out_of_it_is_sound() {
    with_watchdog(LIMIT, || {
        let (event_loop, drops) = (propagating_loop(), Count::default());
        let handle = event_loop.handle();
        let token = drops.drop_token();
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.queue_in_loop(move |_| token.keep());
            panic!("the last");
        });
        assert_eq!(panic_of(move || event_loop.run()), "the last");
        assert_eq!(drops.get(), 1);
        assert_eq!(handle.counters().tasks_dropped, 1);
    });
}

fn panics_when_dropped() -> OnDrop<impl FnOnce()> {
    OnDrop::new(|| panic!("a destructor panics"))
}

/// Does `first` in a turn in which another channel, timer and task are ready, and checks that these are served.
fn survives_in_the_midst(first: impl FnOnce(&EventLoop)) {
    with_catching_loop(|event_loop| {
        first(event_loop);
        let crowd = Crowd::new(event_loop, &[]);
        let result = catch_unwind(AssertUnwindSafe(|| turn(event_loop)));
        // Whatever was kept from its turn must come with the next.
        turn(event_loop);
        let mut seen = crowd.seen.take();
        seen.sort_unstable();
        let mut all = Crowd::ALL;
        all.sort_unstable();
        assert_eq!(seen, all, "what else was ready is served");
        assert!(result.is_ok(), "the panic does not come out of the loop");
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_task_costs_only_that_task() {
    survives_in_the_midst(|event_loop| {
        let panics = panics_when_dropped();
        event_loop.queue_in_loop(move |_| panics.keep());
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_timer_costs_only_that_timer() {
    survives_in_the_midst(|event_loop| {
        let panics = panics_when_dropped();
        event_loop.run_at(Instant::now(), move |_| panics.keep());
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_repeating_timer_costs_only_that_timer() {
    survives_in_the_midst(|event_loop| {
        let (panics, id) = (panics_when_dropped(), Rc::new(Cell::new(None)));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            panics.keep();
            assert!(event_loop.cancel(own.get().unwrap()));
        })));
        wait_for_tick(Instant::now());
    });
}

#[test]
fn a_panic_in_the_destructor_of_a_channels_callback_costs_only_that_channel() {
    survives_in_the_midst(|event_loop| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let panics = panics_when_dropped();
        let channel = Channel::new(event_loop, ours, Interest::WRITABLE, move |event| {
            let _ = &theirs;
            panics.keep();
            event.close();
        });
        channel.unwrap().detach();
    });
}

#[test]
fn panics_in_destructors_while_the_loop_is_dropped_cost_no_other_its_own() {
    with_watchdog(LIMIT, || {
        let (event_loop, drops) = (EventLoop::new().unwrap(), Count::default());
        let handle = event_loop.handle();
        // Of everything two, so that there is something left to do after the first.
        for _ in 0..2 {
            let panics_and_counts = || {
                let token = drops.drop_token();
                OnDrop::new(move || {
                    drop(token);
                    panic!("a destructor panics");
                })
            };
            let value = panics_and_counts();
            event_loop.queue_in_loop(move |_| value.keep());
            let value = panics_and_counts();
            event_loop.run_after(Duration::MAX, move |_| value.keep());
            let value = panics_and_counts();
            event_loop.run_every(Duration::MAX, move |_| value.keep());
            let value = panics_and_counts();
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let channel = Channel::new(&event_loop, ours, Interest::READABLE, move |_| value.keep());
            channel.unwrap().detach();
            let (task, timer) = (panics_and_counts(), panics_and_counts());
            thread::scope(|scope| {
                scope.spawn(|| {
                    handle.queue_in_loop(move |_| task.keep()).unwrap();
                    handle.run_after(Duration::MAX, move |_| timer.keep()).unwrap();
                });
            });
        }
        drop(event_loop);
        assert_eq!(drops.get(), 12);
        assert_eq!(handle.counters().panics, 12);
        assert_eq!(handle.counters().tasks_dropped, 4);
        assert!(handle.queue_in_loop(|_| ()).is_err());
        assert!(handle.run_after(Duration::ZERO, |_| ()).is_err());
        drop(EventLoop::new().expect("the thread is free for another loop"));
    });
}

#[test]
fn a_loop_that_a_thread_local_keeps_goes_with_its_thread() {
    thread_local! {
        static KEPT: RefCell<Option<EventLoop>> = const { RefCell::new(None) };
    }
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let token = drops.drop_token();
        let kept = thread::spawn(move || {
            let event_loop = EventLoop::new().unwrap();
            event_loop.queue_in_loop(move |_| token.keep());
            let handle = event_loop.handle();
            KEPT.set(Some(event_loop));
            handle
        });
        let handle = kept.join().unwrap();
        assert_eq!(drops.get(), 1);
        assert_eq!(handle.counters().tasks_dropped, 1);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    });
}

#[test]
fn a_loop_that_is_dropped_from_inside_a_call_through_its_handle_ends_with_that_call() {
    thread_local! {
        static KEPT: RefCell<Option<EventLoop>> = const { RefCell::new(None) };
    }
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let token = drops.drop_token();
        event_loop.queue_in_loop(move |_| token.keep());
        KEPT.set(Some(event_loop));
        let d = drops.clone();
        handle
            .run_in_loop(move |event_loop| {
                drop(KEPT.take());
                assert_eq!(d.get(), 0, "the loop is there for as long as it is lent");
                assert_eq!(event_loop.iteration(), 0);
            })
            .unwrap();
        assert_eq!(drops.get(), 1);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    });
}
