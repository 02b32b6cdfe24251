//! Hooks: their place in the turn, what they may do, and their end.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::bomb::Bomb;
use crate::support::channels::pair;
use crate::support::clock::wait_for_tick;
use crate::support::ready::ready_channel;
use crate::support::{
    Count, LIMIT, Recorder, is_readable, on_another_thread, panic_of, turn, with_catching_loop, with_clock,
    with_loop, with_watchdog,
};
use reveille::io::{Channel, Interest};
use reveille::observe::Hook;
use reveille::{EventFd, EventLoop, TcpServer};

#[test]
fn hooks_run_around_the_wait_of_every_turn() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        let _after = event_loop.after_wait(move |_| s.record("after")).unwrap();
        let s = seen.clone();
        let _before = event_loop.before_wait(move |_| s.record("before")).unwrap();
        let s = seen.clone();
        let _second = event_loop.before_wait(move |_| s.record("before 2")).unwrap();
        let s = seen.clone();
        let _channel = ready_channel(event_loop, move |_| s.record("channel"));
        let s = seen.clone();
        event_loop.run_at(Instant::now(), move |_| s.record("timer"));
        let s = seen.clone();
        event_loop.queue_in_loop(move |_| s.record("task"));
        wait_for_tick(Instant::now());
        turn(event_loop);
        let (around, called) = (["before", "before 2"], ["after", "channel", "timer", "task"]);
        assert_eq!(seen.take(), [&around[..], &called, &around].concat());
        turn(event_loop);
        assert_eq!(seen.take()[..3], ["before", "before 2", "after"]);
    });
}

/// Makes one turn with a hook that adds work. Without the work the turn would sleep for ever.
fn assert_ends_the_wait(event_loop: &EventLoop, add: impl FnOnce(&EventLoop) + 'static) {
    let mut add = Some(add);
    let hook = event_loop.before_wait(move |event_loop| {
        if let Some(add) = add.take() {
            add(event_loop);
        }
    });
    event_loop.run_once(None).unwrap();
    hook.unwrap().close();
}

#[test]
fn work_added_before_the_wait_is_not_slept_over() {
    with_loop(|event_loop| {
        let ran = Count::default();
        let task = ran.clone();
        assert_ends_the_wait(event_loop, |event_loop| event_loop.queue_in_loop(move |_| task.add()));
        assert_eq!(ran.get(), 1, "a task");
        let task = ran.clone();
        assert_ends_the_wait(event_loop, |event_loop| {
            let handle = event_loop.handle();
            on_another_thread(move || handle.queue_in_loop(move |_| task.add()).unwrap());
        });
        assert_eq!(ran.get(), 2, "a task of another thread");
        let timer = ran.clone();
        assert_ends_the_wait(event_loop, |event_loop| {
            event_loop.run_at(Instant::now(), move |_| timer.add());
        });
        assert_eq!(ran.get(), 3, "a timer that is due");
        let (eventfd, called) = (EventFd::new(0).unwrap(), ran.clone());
        let writer = eventfd.try_clone().unwrap();
        let source = eventfd.watch(event_loop, move |_, _| called.add()).unwrap();
        assert_ends_the_wait(event_loop, move |_| writer.signal().unwrap());
        assert_eq!(ran.get(), 4, "an event");
        drop(source);
        let ((ours, theirs), called) = (pair(), ran.clone());
        let channel = Channel::new(event_loop, ours, Interest::EMPTY, move |event| {
            called.add();
            event.close();
        });
        drop(theirs);
        assert_ends_the_wait(event_loop, move |_| {
            channel.as_ref().unwrap().set_interest(Interest::READABLE).unwrap();
            std::mem::forget(channel);
        });
        assert_eq!(ran.get(), 5, "an interest in what is ready");
        assert_ends_the_wait(event_loop, EventLoop::quit);
        assert!(event_loop.is_quitting());
        event_loop.run().unwrap();
    });
}

#[test]
fn a_close_requested_before_the_wait_is_made_in_that_turn() {
    with_loop(|event_loop| {
        let stopped = Count::default();
        let counting = stopped.clone();
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        let mut server = Some(server);
        let _hook = event_loop.before_wait(move |_| {
            if let Some(server) = server.take() {
                let counting = counting.clone();
                server.stop(Duration::ZERO, move |event_loop, _| {
                    counting.add();
                    event_loop.quit();
                });
            }
        });
        event_loop.run().unwrap();
        assert_eq!(stopped.get(), 1);
    });
}

#[test]
fn a_task_queued_after_the_wait_runs_in_that_turn() {
    with_loop(|event_loop| {
        let turns = Recorder::new();
        let recording = turns.clone();
        let _hook = event_loop.after_wait(move |event_loop| {
            let (recording, turn) = (recording.clone(), event_loop.iteration());
            event_loop.queue_in_loop(move |event_loop| recording.record(event_loop.iteration() - turn));
        });
        event_loop.queue_in_loop(|_| ());
        event_loop.run_once(None).unwrap();
        assert_eq!(turns.take(), [0]);
    });
}

#[test]
fn a_hook_may_add_and_remove_hooks() {
    with_loop(|event_loop| {
        let (seen, hooks) = (Recorder::new(), Rc::new(RefCell::new(Vec::<Hook>::new())));
        let (s, own) = (seen.clone(), Rc::clone(&hooks));
        let first = event_loop.before_wait(move |event_loop| {
            s.record("first");
            let added = s.clone();
            let hook = event_loop.before_wait(move |_| added.record("added")).unwrap();
            // Removes this hook and the one behind it.
            let removed = own.replace(vec![hook]);
            assert_eq!(removed.len(), 2);
        });
        let s = seen.clone();
        let second = event_loop.before_wait(move |_| s.record("second"));
        hooks.borrow_mut().extend([first.unwrap(), second.unwrap()]);
        turn(event_loop);
        assert_eq!(seen.take(), ["first"]);
        turn(event_loop);
        turn(event_loop);
        assert_eq!(seen.take(), ["added", "added"], "no callback has run after the hook");
        hooks.take();
        turn(event_loop);
        assert_eq!(seen.take(), [""; 0]);
    });
}

#[test]
fn a_panic_in_a_hook_removes_only_that_hook() {
    with_catching_loop(|event_loop| {
        let calls = Count::default();
        let counting = calls.clone();
        let bad = event_loop.after_wait(|_| panic!("on purpose")).unwrap();
        let good = event_loop.after_wait(move |_| counting.add()).unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!((bad.is_open(), good.is_open(), calls.get()), (false, true, 2));
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn a_panic_before_the_wait_is_propagated_without_waiting() {
    with_loop(|event_loop| {
        let _hook = event_loop.before_wait(|_| panic!("on purpose")).unwrap();
        assert_eq!(panic_of(|| event_loop.run()), "on purpose");
    });
}

#[test]
fn panics_in_destructors_of_hooks_are_contained() {
    with_catching_loop(|event_loop| {
        let drops = Count::default();
        for n in 0..3 {
            let bomb = Bomb::new(&drops);
            let hook = match n {
                0 => event_loop.before_wait(move |_| bomb.keep()),
                1 => event_loop.after_wait(move |_| bomb.keep()),
                _ => event_loop.at_end(move |_| bomb.keep()),
            };
            turn(event_loop);
            drop(hook);
        }
        assert_eq!((drops.get(), event_loop.handle().counters().panics), (3, 3));
    });
}

#[test]
fn hooks_do_not_keep_a_loop_running() {
    with_loop(|event_loop| {
        let calls = Count::default();
        let counting = calls.clone();
        event_loop.before_wait(move |_| counting.add()).unwrap().detach();
        event_loop.run_until_idle().unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(calls.get(), 2, "the program may have left it something before each run");
        event_loop.queue_in_loop(|_| ());
        event_loop.run_until_idle().unwrap();
        assert_eq!(calls.get(), 4, "before the turn and after it");
    });
}

#[test]
fn ready_turns_finish_the_work_of_hooks() {
    with_loop(|event_loop| {
        let (ran, added) = (Count::default(), Cell::new(false));
        let counting = ran.clone();
        let _hook = event_loop.before_wait(move |event_loop| {
            if !added.replace(true) {
                let counting = counting.clone();
                event_loop.queue_in_loop(move |event_loop| event_loop.queue_in_loop(move |_| counting.add()));
            }
        });
        event_loop.run_ready().unwrap();
        assert_eq!(ran.get(), 1);
        assert!(!is_readable(event_loop), "no work is left");
    });
    with_clock(|event_loop, _| {
        let ran = Count::default();
        let counting = ran.clone();
        let mut counting = Some(counting);
        let _hook = event_loop.before_wait(move |event_loop| {
            if let Some(counting) = counting.take() {
                event_loop.queue_in_loop(move |event_loop| event_loop.queue_in_loop(move |_| counting.add()));
            }
        });
        event_loop.run_for(Duration::ZERO).unwrap();
        assert_eq!(ran.get(), 1);
    });
}

#[test]
fn the_hook_at_the_end_runs_once_before_sources_close() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, seen) = (event_loop.handle(), Recorder::new());
        let source = Rc::new(EventFd::new(0).unwrap().watch(&event_loop, |_, _| ()).unwrap());
        let (s, held, own) = (seen.clone(), Rc::clone(&source), thread::current().id());
        let hook = event_loop.at_end(move |event_loop| {
            s.record("end");
            assert!(held.is_open());
            assert_eq!(thread::current().id(), own);
            assert_eq!(event_loop.run_once(Duration::ZERO).unwrap_err().kind(), ErrorKind::ResourceBusy);
            event_loop.queue_in_loop(|_| unreachable!("the loop has ended"));
            let late = event_loop.before_wait(|_| unreachable!("the loop has ended"));
            assert!(late.unwrap_err().to_string().contains("is being dropped"));
            let late = event_loop.at_end(|_| unreachable!("the loop has ended"));
            assert!(late.unwrap_err().to_string().contains("is being dropped"));
            let handle = event_loop.handle();
            on_another_thread(|| handle.queue_in_loop(|_| unreachable!("the loop has ended")).unwrap());
        });
        let s = seen.clone();
        let second = event_loop.at_end(move |_| s.record("second")).unwrap();
        let s = seen.clone();
        let removed = event_loop.at_end(move |_| s.record("removed")).unwrap();
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!(seen.len(), 0, "a loop that can be run again has not ended");
        removed.close();
        drop(event_loop);
        assert_eq!(seen.take(), ["end", "second"]);
        assert!(!source.is_open() && !hook.unwrap().is_open() && !second.is_open());
        assert_eq!(handle.counters().tasks_dropped, 2);
        assert_eq!(handle.counters().panics, 0);
    });
}

#[test]
fn a_hook_cannot_be_added_to_a_loop_that_is_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (refused, is_refused) = (Count::default(), Count::default());
        let count = is_refused.clone();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        struct Value(Count, reveille::LoopHandle);
        impl Drop for Value {
            fn drop(&mut self) {
                let refused = self.0.clone();
                self.1
                    .run_in_loop(move |event_loop| {
                        if event_loop.at_end(|_| ()).is_err() {
                            refused.add();
                        }
                    })
                    .unwrap_or_else(|_| panic!("it is the thread of the loop"));
            }
        }
        let value = Value(count, event_loop.handle());
        let server = server.serve_fn(move |_, _| _ = &value.0).unwrap();
        std::mem::forget(server);
        drop(event_loop);
        assert_eq!((is_refused.get(), refused.get()), (1, 0));
    });
}
