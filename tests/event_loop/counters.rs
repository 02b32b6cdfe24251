//! The counters of a loop: when each of them changes, and which events are not counted.
//! `task_accounts.rs` compares the counters with the outcome of each task.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::tasks::{NO_TASKS, Tasks, tasks};
use crate::support::{
    Count, LIMIT, OnDrop, net, on_another_thread, turn, with_catching_loop, with_loop, with_watchdog,
};
use reveille::io::{Channel, Interest};
use reveille::task::{LoopCounters, MailboxLimit};
use reveille::{ConnectionHandle, EventLoop, LoopThread, TcpServer};

#[test]
fn a_new_loop_and_its_idle_turns_count_nothing() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        assert_eq!(handle.counters(), LoopCounters::default());
        (0..10).for_each(|_| turn(event_loop));
        assert_eq!(handle.counters(), LoopCounters::default());
    });
}

#[test]
fn a_task_is_counted_when_posted_and_when_run() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        event_loop.queue_in_loop(|_| ());
        assert_eq!(tasks(&handle), Tasks { posted: 1, ..NO_TASKS });
        handle.queue_in_loop(|_| ()).unwrap();
        assert_eq!(tasks(&handle), Tasks { posted: 2, ..NO_TASKS });
        on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        assert_eq!(tasks(&handle), Tasks { posted: 3, ..NO_TASKS });
        on_another_thread(|| handle.run_in_loop(|_| ()).unwrap());
        assert_eq!(tasks(&handle), Tasks { posted: 4, ..NO_TASKS });
        turn(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, run: 4, batches: 1, longest: 4, ..NO_TASKS });
        // A task that runs at once is never posted.
        event_loop.run_in_loop(|_| ());
        handle.run_in_loop(|_| ()).unwrap();
        assert_eq!(tasks(&handle).posted, 4);
    });
}

#[test]
fn the_longest_batch_counts_tasks_queued_before_the_turn() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let mut sum = 0;
        for (batch, longest) in [(1, 1), (5, 5), (3, 5), (1_000, 1_000), (999, 1_000)] {
            for number in 0..batch {
                match number % 2 {
                    0 => event_loop.queue_in_loop(|_| ()),
                    _ => on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap()),
                }
            }
            let batches = tasks(&handle).batches;
            turn(event_loop);
            turn(event_loop);
            sum += batch;
            let expected = Tasks { posted: sum, run: sum, batches: batches + 1, longest, ..NO_TASKS };
            assert_eq!(tasks(&handle), expected);
        }
    });
}

#[test]
fn a_task_queued_by_a_task_joins_the_next_batch() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        event_loop.queue_in_loop(|event_loop| {
            (0..3).for_each(|_| event_loop.queue_in_loop(|_| ()));
        });
        turn(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, run: 1, batches: 1, longest: 1, ..NO_TASKS });
        turn(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, run: 4, batches: 2, longest: 3, ..NO_TASKS });
    });
}

#[test]
fn a_panic_in_any_callback_is_counted_once() {
    with_catching_loop(|event_loop| {
        let handle = event_loop.handle();
        let panics = || handle.counters().panics;
        event_loop.queue_in_loop(|_| panic!("on purpose"));
        turn(event_loop);
        assert_eq!(panics(), 1, "a task");
        on_another_thread(|| handle.queue_in_loop(|_| panic!("on purpose")).unwrap());
        turn(event_loop);
        assert_eq!(panics(), 2, "a task of another thread");
        event_loop.run_at(Instant::now(), |_| panic!("on purpose"));
        turn(event_loop);
        assert_eq!(panics(), 3, "a timer");
        on_another_thread(|| _ = handle.run_at(Instant::now(), |_| panic!("on purpose")).unwrap());
        turn(event_loop);
        turn(event_loop);
        assert_eq!(panics(), 4, "a timer created through a handle");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(event_loop, ours, Interest::WRITABLE, |_| panic!("on purpose")).unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!(panics(), 5, "a channel, which is closed");
        drop(channel);
        let panics_when_dropped = OnDrop::new(|| panic!("on purpose"));
        event_loop.queue_in_loop(move |_| panics_when_dropped.keep());
        turn(event_loop);
        assert_eq!(panics(), 6, "a destructor");
        assert_eq!(tasks(&handle), Tasks { posted: 3, run: 3, batches: 3, longest: 1, ..NO_TASKS });
    });
}

#[test]
fn internal_tasks_are_not_counted() {
    thread_local!(static OPENED: RefCell<Option<ConnectionHandle>> = const { RefCell::new(None) });
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let timers = || {
            handle.run_after(Duration::ZERO, |_| ()).unwrap();
            let id = handle.run_every(Duration::MAX, |_| ()).unwrap();
            assert_eq!(tasks(&handle), NO_TASKS);
            assert!(handle.cancel(id));
        };
        timers();
        on_another_thread(timers);
        let local = event_loop.run_after(Duration::MAX, |_| ());
        assert!(on_another_thread(|| handle.cancel(local)));
        turn(event_loop);
        turn(event_loop);

        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(|conn, input| {
            OPENED.set(Some(conn.handle()));
            conn.send(input.take_all())
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"hello").unwrap();
        let connection = loop {
            event_loop.run_once(None).unwrap();
            if let Some(connection) = OPENED.take() {
                break connection;
            }
        };
        on_another_thread(|| {
            connection.send(", and more").unwrap();
            connection.shutdown();
        });
        turn(event_loop);
        assert_eq!(net::read_to_end(&mut client), b"hello, and more");
        server.stop(Duration::ZERO, |event_loop, _| event_loop.quit());
        event_loop.run().unwrap();
        handle.quit();
        event_loop.run().unwrap();
        assert_eq!(tasks(&handle), NO_TASKS);
        assert_eq!(handle.counters().panics, 0);
    });
}

#[test]
fn unarmed_remote_timers_are_not_counted_on_drop() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let (here, there) = (drops.drop_token(), drops.drop_token());
        handle.run_after(Duration::MAX, move |_| here.keep()).unwrap();
        on_another_thread(|| _ = handle.run_every(Duration::MAX, move |_| there.keep()).unwrap());
        drop(event_loop);
        assert_eq!(drops.get(), 2);
        assert_eq!(tasks(&handle), NO_TASKS);
    });
}

#[test]
fn a_returned_task_is_counted_only_as_refused() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Refuse(2)).build().unwrap();
        let handle = event_loop.handle();
        let post = || handle.queue_in_loop(|_| ()).is_ok();
        let accepted = on_another_thread(|| (0..5).filter(|_| post()).count());
        assert_eq!((accepted, tasks(&handle)), (2, Tasks { posted: 2, refused: 3, ..NO_TASKS }));
        let accepted = (0..5).filter(|_| post()).count();
        assert_eq!((accepted, tasks(&handle)), (2, Tasks { posted: 4, refused: 6, ..NO_TASKS }));
        drop(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, dropped: 4, refused: 6, ..NO_TASKS });
        assert!(!post());
        assert!(!on_another_thread(post));
        assert_eq!(tasks(&handle), Tasks { posted: 4, dropped: 4, refused: 8, ..NO_TASKS });
    });
}

#[test]
fn counters_stay_readable_on_any_thread_after_the_drop() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle().clone();
        for _ in 0..10 {
            handle.call(|_| ()).unwrap();
        }
        let other = handle.clone();
        thread.join().unwrap();
        let seen = on_another_thread(|| handle.counters());
        assert_eq!(seen, other.counters());
        assert_eq!((seen.tasks_posted, seen.tasks_run, seen.batches, seen.longest_batch), (10, 10, 10, 1));
    });
}

#[test]
fn each_loop_has_its_own_counters() {
    with_loop(|event_loop| {
        let other = LoopThread::spawn("other").unwrap();
        other.handle().call(|_| ()).unwrap();
        assert_eq!(event_loop.handle().counters(), LoopCounters::default());
        event_loop.queue_in_loop(|_| ());
        assert_eq!(other.handle().counters().tasks_posted, 1);
    });
}

#[test]
fn concurrently_read_counters_are_monotonic_and_never_too_high() {
    const POSTS: u64 = 200_000;
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let about_to_post = AtomicU64::new(0);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut before = handle.counters();
                while !end.load(SeqCst) {
                    let now = handle.counters();
                    let at_most = about_to_post.load(SeqCst);
                    assert!(now.tasks_posted <= at_most, "{now:?}, when {at_most} had been posted");
                    assert!(
                        now.tasks_run <= at_most && now.longest_batch <= at_most && now.batches <= at_most
                    );
                    assert!(now.tasks_posted >= before.tasks_posted, "{now:?} after {before:?}");
                    assert!(now.tasks_run >= before.tasks_run, "{now:?} after {before:?}");
                    assert!(now.wakes >= before.wakes && now.batches >= before.batches);
                    before = now;
                }
            });
            scope.spawn(|| {
                // Set also if an assertion fails; otherwise the test would hang.
                let quits = handle.clone();
                let _quit = OnDrop::new(move || quits.quit());
                for _ in 0..POSTS {
                    about_to_post.fetch_add(1, SeqCst);
                    handle.queue_in_loop(|_| ()).unwrap();
                }
            });
            event_loop.run().unwrap();
            end.store(true, SeqCst);
            watcher.join().unwrap();
        });
        assert_eq!((tasks(&handle).posted, tasks(&handle).run), (POSTS, POSTS));
    });
}

#[test]
fn a_task_not_yet_started_is_not_counted_as_run() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let in_first = Arc::new(AtomicU64::new(u64::MAX));
        let (h, seen) = (handle.clone(), Arc::clone(&in_first));
        event_loop.queue_in_loop(move |_| seen.store(h.counters().tasks_run, SeqCst));
        (0..9).for_each(|_| event_loop.queue_in_loop(|_| ()));
        turn(event_loop);
        let counted = in_first.load(SeqCst);
        assert!(counted <= 1, "{counted} in the first task of ten");
        assert_eq!(tasks(&handle).run, 10);
    });
}
