//! The phases of a turn and their order, the work that is deferred to the next turn, and fairness:
//! a source that is always ready does not starve the others.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clock::wait_for_tick;
use crate::support::ready::ready_channel;
use crate::support::{Count, LIMIT, Recorder, turn, with_loop, with_watchdog};
use reveille::io::{Channel, ChannelEvent, Interest};
use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};

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
fn on_close_runs_after_the_tasks_of_the_turn() {
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
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"x").unwrap();
        event_loop.run().unwrap();
        let seen = seen.take();
        let iteration = seen[0].1;
        assert_eq!(seen, ["message", "timer", "task", "close"].map(|what| (what, iteration)));
    });
}

#[test]
fn tasks_and_timers_of_a_channel_callback_run_in_its_turn() {
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
                assert_eq!(through_handle.get(), 1, "tasks of the loop and of its handle ran out of order");
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
fn a_past_timer_made_in_a_timer_waits_a_turn() {
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
        assert_eq!(seen.take(), [0, 1, 2], "the current turn was counted inside its callbacks");
        assert_eq!(event_loop.iteration(), 3);
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(event_loop.iteration(), 4);
    });
}

#[test]
fn now_is_constant_during_a_turn_and_advances_between_turns() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let record_now = |seen: &Recorder<Instant>| {
            let seen = seen.clone();
            move |event_loop: &EventLoop| {
                seen.record(event_loop.now());
                wait_for_tick(Instant::now());
                seen.record(event_loop.now());
            }
        };
        let mut last = event_loop.now();
        for _ in 0..3 {
            let _channel = ready_channel(event_loop, record_now(&seen));
            event_loop.run_at(last, record_now(&seen));
            event_loop.queue_in_loop(record_now(&seen));
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
fn tasks_of_loop_and_handle_share_one_order() {
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

/// Runs the loop together with `load`, and quits it from another thread once it has served a timer,
/// a channel and a task.
fn assert_others_are_served(load: impl FnOnce(&EventLoop) + Send + 'static) {
    with_loop(|event_loop| {
        load(event_loop);
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
    assert_others_are_served(again);
}

#[test]
fn a_task_that_posts_itself_through_the_handle_starves_nothing() {
    fn again(event_loop: &EventLoop) {
        event_loop.handle().queue_in_loop(again).unwrap();
    }
    assert_others_are_served(again);
}

#[test]
fn a_timer_that_arms_itself_to_now_starves_nothing() {
    fn again(event_loop: &EventLoop) {
        event_loop.run_at(event_loop.now(), again);
    }
    assert_others_are_served(again);
}

#[test]
fn a_channel_that_is_always_ready_starves_nothing() {
    assert_others_are_served(|event_loop| always_ready_channel(event_loop, |_| ()).detach());
}

#[test]
fn events_beyond_one_wait_come_with_the_next() {
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
