//! A bounded mailbox: which posts are refused, and which operations still work while it is full.

use std::cell::RefCell;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::mailbox::{post, with_mailbox};
use crate::support::net;
use crate::support::{Count, LIMIT, Recorder, on_another_thread, turn, with_watchdog};
use reveille::task::{MailboxLimit, PostError};
use reveille::{EventLoop, LoopHandle, TcpServer};

const FULL: Result<(), PostError> = Err(PostError::Full);

/// Posts from another thread until a post is refused. Returns the number of accepted tasks.
fn fill(handle: &LoopHandle) -> usize {
    on_another_thread(|| {
        let accepted = (0..1_000).take_while(|_| post(handle).is_ok()).count();
        assert_eq!(post(handle), FULL);
        accepted
    })
}

// --- Refusal

#[test]
fn a_mailbox_accepts_tasks_up_to_its_capacity() {
    for (capacity, accepted) in [(1, 1), (2, 2), (7, 7), (100, 100)] {
        with_mailbox(MailboxLimit::Refuse(capacity), move |event_loop| {
            let handle = event_loop.handle();
            for round in 1..=3 {
                assert_eq!(fill(&handle), accepted);
                turn(event_loop);
                let counters = handle.counters();
                assert_eq!(
                    (counters.tasks_run, counters.tasks_refused),
                    ((round * accepted) as u64, 2 * round as u64)
                );
            }
        });
    }
}

#[test]
fn a_mailbox_of_capacity_zero_accepts_one_task() {
    with_mailbox(MailboxLimit::Refuse(0), |event_loop| {
        assert_eq!(fill(&event_loop.handle()), 1);
        turn(event_loop);
        assert_eq!(event_loop.handle().counters().tasks_run, 1);
        let handle = event_loop.handle();
        assert_eq!((post(&handle), post(&handle)), (Ok(()), FULL), "on the loop's own thread");
    });
    with_mailbox(MailboxLimit::Block(0), |event_loop| {
        let handle = event_loop.handle();
        assert_eq!(on_another_thread(|| post(&handle)), Ok(()));
        assert_eq!((post(&handle), post(&handle)), (Ok(()), FULL), "on the loop's own thread");
    });
}

#[test]
fn without_a_limit_nothing_is_refused() {
    with_watchdog(LIMIT, || {
        for event_loop in
            [|| EventLoop::new(), || EventLoop::builder().mailbox(MailboxLimit::default()).build()]
        {
            let event_loop = event_loop().unwrap();
            let handle = event_loop.handle();
            on_another_thread(|| (0..100_000).for_each(|_| post(&handle).unwrap()));
            (0..100_000).for_each(|_| post(&handle).unwrap());
            turn(&event_loop);
            assert_eq!(handle.counters().longest_batch, 200_000);
        }
    });
}

#[test]
fn a_refused_task_is_returned_and_can_be_called() {
    with_mailbox(MailboxLimit::Refuse(2), |event_loop| {
        let handle = event_loop.handle();
        assert_eq!(fill(&handle), 2);
        let (called, drops) = (Count::default(), Count::default());
        let task = || {
            let (called, token) = (called.clone(), drops.drop_token());
            move |_: &EventLoop| {
                token.keep();
                called.add();
            }
        };
        let (queued, run) = on_another_thread(|| {
            (handle.queue_in_loop(task()).unwrap_err(), handle.run_in_loop(task()).unwrap_err())
        });
        assert_eq!((queued.reason(), run.reason()), (PostError::Full, PostError::Full));
        assert_eq!((called.get(), drops.get()), (0, 0));
        assert_eq!(queued.to_string(), "the event loop's mailbox is full");
        event_loop.run_in_loop(queued.into_inner());
        event_loop.run_in_loop(run.into_inner());
        assert_eq!((called.get(), drops.get()), (2, 2));
        let error = std::io::Error::from(on_another_thread(|| handle.queue_in_loop(task()).unwrap_err()));
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(drops.get(), 3);
        turn(event_loop);
        assert_eq!((called.get(), handle.counters().tasks_run), (2, 2));
    });
}

#[test]
fn a_refused_task_can_be_posted_after_a_turn() {
    with_mailbox(MailboxLimit::Refuse(1), |event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        assert_eq!(fill(&handle), 1);
        let r = ran.clone();
        let task = on_another_thread(|| handle.queue_in_loop(move |_| r.add()).unwrap_err().into_inner());
        turn(event_loop);
        assert!(on_another_thread(|| handle.queue_in_loop(task).is_ok()));
        turn(event_loop);
        assert_eq!(ran.get(), 1);
    });
}

#[test]
fn taking_the_batch_frees_the_mailboxs_capacity() {
    with_mailbox(MailboxLimit::Refuse(3), |event_loop| {
        let (handle, seen) = (event_loop.handle(), Arc::new(AtomicU64::new(0)));
        let (h, s) = (handle.clone(), Arc::clone(&seen));
        let task = move |_: &EventLoop| {
            // The other tasks of this batch have not run, but no longer count towards the limit.
            assert_eq!(fill(&h), 3);
            s.fetch_add(1, SeqCst);
        };
        on_another_thread(|| handle.queue_in_loop(task).unwrap());
        assert_eq!(fill(&handle), 2);
        turn(event_loop);
        assert_eq!(seen.load(SeqCst), 1);
        assert_eq!(handle.counters().tasks_posted, 6);
    });
}

#[test]
fn the_limit_applies_to_handles_on_the_loops_thread() {
    for mailbox in [MailboxLimit::Refuse(3), MailboxLimit::Block(3)] {
        with_mailbox(mailbox, |event_loop| {
            let handle = event_loop.handle();
            let ran = Recorder::new();
            for expected in [Ok(()), Ok(()), Ok(()), FULL, FULL] {
                assert_eq!(post(&handle), expected, "between turns");
            }
            turn(event_loop);
            let (h, r) = (handle.clone(), ran.clone());
            event_loop.queue_in_loop(move |_| {
                for expected in [Ok(()), Ok(()), Ok(()), FULL] {
                    assert_eq!(post(&h), expected, "in a task");
                }
                h.run_in_loop(|_| ()).unwrap();
                r.record("ended");
            });
            turn(event_loop);
            assert_eq!(ran.take(), ["ended"]);
            turn(event_loop);
            assert_eq!(handle.counters().tasks_run, 3 + 1 + 3);
            assert_eq!(handle.counters().tasks_refused, 3);
        });
    }
}

#[test]
fn the_loop_itself_queues_without_a_limit() {
    for mailbox in [MailboxLimit::Refuse(2), MailboxLimit::Block(2)] {
        with_mailbox(mailbox, |event_loop| {
            let (handle, ran) = (event_loop.handle(), Recorder::new());
            for _ in 0..1_000 {
                let ran = ran.clone();
                event_loop.queue_in_loop(move |_| ran.record("ran"));
            }
            assert_eq!(
                on_another_thread(|| post(&handle)),
                Ok(()),
                "tasks of the loop itself count towards the limit"
            );
            turn(event_loop);
            assert_eq!(ran.len(), 1_000);
            assert_eq!(handle.counters().tasks_refused, 0);
        });
    }
}

// --- While the mailbox is full

#[test]
fn remote_timers_work_while_the_mailbox_is_full() {
    for mailbox in [MailboxLimit::Refuse(1), MailboxLimit::Block(1)] {
        with_mailbox(mailbox, |event_loop| {
            let (handle, fired) = (event_loop.handle(), Count::default());
            assert_eq!(on_another_thread(|| post(&handle)), Ok(()));
            post(&handle).unwrap();
            let timers = || {
                let (once, every) = (fired.clone(), fired.clone());
                handle.run_at(Instant::now(), move |_| once.add()).unwrap();
                let repeating = handle.run_every(Duration::from_nanos(1), move |_| every.add()).unwrap();
                let cancelled = handle.run_at(Instant::now(), |_| panic!("cancelled")).unwrap();
                assert!(handle.cancel(cancelled));
                repeating
            };
            let repeating = [on_another_thread(timers), timers()];
            turn(event_loop);
            turn(event_loop);
            assert_eq!(fired.get(), 4);
            // This includes the loop's own timers, which another thread cancels through a task on
            // the loop.
            let local = event_loop.run_after(Duration::MAX, |_| ());
            assert_eq!(on_another_thread(|| post(&handle)), Ok(()));
            assert!(on_another_thread(|| handle.cancel(local)));
            turn(event_loop);
            assert!(!event_loop.cancel(local), "the timer is still pending");
            assert!(repeating.into_iter().all(|id| on_another_thread(|| handle.cancel(id))));
            assert_eq!(handle.counters().tasks_run, 3);
        });
    }
}

#[test]
fn quit_works_while_the_mailbox_is_full() {
    for mailbox in [MailboxLimit::Refuse(1), MailboxLimit::Block(1)] {
        with_mailbox(mailbox, |event_loop| {
            let handle = event_loop.handle();
            on_another_thread(|| {
                post(&handle).unwrap();
                handle.quit();
            });
            assert!(event_loop.is_quitting());
            event_loop.run().unwrap();
            assert_eq!(handle.counters().tasks_run, 1);
        });
    }
}

#[test]
fn connections_work_while_the_mailbox_is_full() {
    with_mailbox(MailboxLimit::Refuse(1), |event_loop| {
        thread_local!(static OPENED: RefCell<Option<reveille::ConnectionHandle>> = const { RefCell::new(None) });
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(|conn, input| {
            OPENED.set(Some(conn.handle()));
            conn.send(input.take_all())
        });
        let server = server.unwrap();
        let handle = event_loop.handle();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"one").unwrap();
        let connection = loop {
            // The connection is accepted and read while the mailbox is full. The turn empties the
            // mailbox, and it is full again in the next turn.
            assert_eq!(fill(&handle), 1);
            event_loop.run_once(None).unwrap();
            if let Some(connection) = OPENED.take() {
                break connection;
            }
        };
        assert_eq!(net::read_exact(&mut client, 3), b"one");

        assert_eq!(fill(&handle), 1);
        on_another_thread(|| {
            connection.send("two").unwrap();
            connection.send("three").unwrap();
            assert_eq!(post(&handle), FULL, "the sends changed the free capacity");
        });
        turn(event_loop);
        assert_eq!(net::read_exact(&mut client, 8), b"twothree");

        assert_eq!(fill(&handle), 1);
        on_another_thread(|| connection.close());
        while connection.is_open() {
            turn(event_loop);
        }
        assert_eq!(net::read_to_end(&mut client), b"");
    });
}

/// A task that, before it returns, has another thread post the next task of this kind. After the
/// first one, a mailbox with a capacity of one task is full whenever the loop is not inside a task.
fn keep_full(event_loop: &EventLoop, done: Arc<AtomicBool>) {
    if !done.load(SeqCst) {
        let handle = event_loop.handle();
        let next = move |event_loop: &EventLoop| keep_full(event_loop, done);
        on_another_thread(move || handle.queue_in_loop(next).unwrap());
    }
}

#[test]
fn a_server_works_while_the_mailbox_is_always_full() {
    with_mailbox(MailboxLimit::Refuse(1), |event_loop| {
        let (handle, done) = (event_loop.handle(), Arc::new(AtomicBool::new(false)));
        keep_full(event_loop, Arc::clone(&done));
        let here = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let here = here.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let elsewhere = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().threads(2);
        let elsewhere = elsewhere.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let addresses = [here.local_addr().unwrap(), elsewhere.local_addr().unwrap()];
        let (clients_here, _clients_elsewhere) = thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let mut clients = addresses.map(|address| [(); 5].map(|()| net::connect(address)));
                for _ in 0..5 {
                    clients.iter_mut().flatten().for_each(net::assert_echoes);
                }
                handle.quit();
                clients.into()
            });
            event_loop.run().unwrap();
            clients.join().unwrap()
        });
        here.stop(LIMIT, |event_loop, _| event_loop.quit());
        let reader = thread::spawn(move || {
            clients_here.into_iter().for_each(|mut client| assert_eq!(net::read_to_end(&mut client), b""));
        });
        event_loop.run().unwrap();
        reader.join().unwrap();
        // The last of these connections ends on another loop, which has to notify this one.
        elsewhere.stop(Duration::ZERO, |event_loop, _| event_loop.quit());
        event_loop.run().unwrap();
        done.store(true, SeqCst);
        assert_eq!(handle.counters().tasks_refused, 0);
    });
}
