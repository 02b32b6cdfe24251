//! `Workers`: jobs on other threads, and their results on the loop. Every accepted job has one
//! outcome.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use crate::support::bomb::Bomb;
use crate::support::calls::with_loop_thread;
use crate::support::{
    Count, LIMIT, OnDrop, Recorder, on_another_thread, turn, with_catching_loop, with_loop, with_watchdog,
};
use reveille::net::CloseReason;
use reveille::task::{JobError, MailboxLimit, Workers, WorkersError};
use reveille::{Buffer, ConnectionHandler, EventLoop, LoopThread, Refused, TcpConnection, TcpServer};

fn pool(threads: usize, queue: usize) -> Workers {
    Workers::builder().threads(threads).queue(queue).name("test").build().unwrap()
}

/// Occupies a thread of the pool until the sender is dropped. Returns when the job has begun.
fn occupy(workers: &Workers) -> Sender<()> {
    let (open, gate) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let job = move || {
        begin.send(()).unwrap();
        let _ = gate.recv();
    };
    workers.execute(job).unwrap();
    begun.recv().unwrap();
    open
}

/// Records the thread that drops it.
fn dropped_on() -> (OnDrop<impl FnOnce() + Send>, Receiver<ThreadId>) {
    let (sender, receiver) = mpsc::channel();
    (OnDrop::new(move || sender.send(thread::current().id()).unwrap()), receiver)
}

#[test]
fn a_result_is_delivered_to_a_callback_that_is_not_send() {
    with_loop(|event_loop| {
        let workers = Workers::new().unwrap();
        assert!(workers.threads() >= 1);
        let (home, result) = (thread::current().id(), Rc::new(Cell::new(None)));
        let delivered = Rc::clone(&result);
        let done = move |event_loop: &EventLoop, result: Result<ThreadId, JobError>| {
            assert_eq!(thread::current().id(), home);
            delivered.set(Some(result.unwrap()));
            event_loop.quit();
        };
        workers.submit(event_loop, || thread::current().id(), done).unwrap();
        assert_eq!(result.get(), None, "before the loop has run");
        event_loop.run().unwrap();
        assert_ne!(result.get().unwrap(), home);
    });
}

#[test]
fn another_thread_submits_for_a_loop_by_its_handle() {
    with_loop(|event_loop| {
        let (workers, handle, home) = (pool(1, 8), event_loop.handle(), thread::current().id());
        on_another_thread(|| {
            let done = move |event_loop: &EventLoop, result| {
                assert_eq!((thread::current().id(), result), (home, Ok(vec![1, 2])));
                event_loop.quit();
            };
            workers.submit_to(&handle, || vec![1, 2], done).unwrap();
        });
        event_loop.run().unwrap();
    });
}

#[test]
fn jobs_of_one_thread_run_and_report_in_fifo_order() {
    with_loop(|event_loop| {
        const JOBS: usize = 100;
        let workers = pool(1, JOBS);
        let open = occupy(&workers);
        let (ran, reported) = (Arc::new(Mutex::new(Vec::new())), Recorder::new());
        for number in 0..JOBS {
            let (ran, reported) = (Arc::clone(&ran), reported.clone());
            let done = move |event_loop: &EventLoop, result| {
                reported.record(result);
                if number == JOBS - 1 {
                    event_loop.quit();
                }
            };
            let work = move || {
                ran.lock().unwrap().push(number);
                number
            };
            workers.submit(event_loop, work, done).unwrap();
        }
        assert_eq!(workers.waiting(), JOBS);
        drop(open);
        event_loop.run().unwrap();
        assert_eq!(*ran.lock().unwrap(), (0..JOBS).collect::<Vec<_>>());
        assert_eq!(reported.take(), (0..JOBS).map(Ok).collect::<Vec<_>>());
    });
}

#[test]
fn a_long_job_occupies_only_its_own_thread() {
    with_watchdog(LIMIT, || {
        let workers = pool(2, 8);
        let open = occupy(&workers);
        let (sender, receiver) = mpsc::channel();
        for number in 0..3 {
            let sender = sender.clone();
            workers.execute(move || sender.send((number, thread::current().id())).unwrap()).unwrap();
        }
        let ran: Vec<(i32, ThreadId)> = receiver.iter().take(3).collect();
        assert_eq!(ran.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(ran.iter().all(|(_, thread)| *thread == ran[0].1));
        drop(open);
    });
}

#[test]
fn a_full_pool_returns_both_closures_unchanged() {
    with_loop(|event_loop| {
        let workers = pool(1, 1);
        let open = occupy(&workers);
        let drops = Count::default();
        workers.execute(|| ()).unwrap();
        let (work, done) = (drops.drop_token(), drops.drop_token());
        let refused = workers.submit(
            event_loop,
            move || work.keep(),
            move |event_loop, result| {
                done.keep();
                assert_eq!(result, Ok(()));
                event_loop.quit();
            },
        );
        let refused = refused.unwrap_err();
        assert_eq!((refused.reason(), drops.get()), (WorkersError::Full, 0));
        let (work, done) = refused.into_inner();
        let refused = workers.submit_to(&event_loop.handle(), || (), |_, _| ()).unwrap_err();
        assert_eq!(io::Error::from(refused).kind(), ErrorKind::WouldBlock);
        let full = workers.execute(|| unreachable!("refused")).map_err(|refused| refused.reason());
        assert_eq!(full, Err(WorkersError::Full));
        assert_eq!(workers.cancel_waiting(), 1);
        workers.submit(event_loop, work, done).unwrap();
        drop(open);
        event_loop.run().unwrap();
        assert_eq!(drops.get(), 2);
    });
}

#[test]
fn without_a_queue_the_callback_of_a_job_may_submit_the_next() {
    fn next(workers: &Rc<Workers>, event_loop: &EventLoop, left: u32) {
        let again = Rc::clone(workers);
        let done = move |event_loop: &EventLoop, result| match result {
            Ok(0) => event_loop.quit(),
            result => next(&again, event_loop, result.unwrap() - 1),
        };
        workers.submit(event_loop, move || left, done).unwrap();
    }
    with_loop(|event_loop| {
        next(&Rc::new(pool(1, 0)), event_loop, 1000);
        event_loop.run().unwrap();
    });
}

#[test]
fn a_panic_of_a_job_is_reported_and_its_thread_continues() {
    with_loop(|event_loop| {
        let (workers, results) = (pool(1, 8), Recorder::new());
        let recording = results.clone();
        let done = move |_: &EventLoop, result: Result<(), JobError>| recording.record(result);
        workers.submit(event_loop, || panic!("on purpose"), done).unwrap();
        workers.execute(|| panic!("on purpose")).unwrap();
        let recording = results.clone();
        let done = move |event_loop: &EventLoop, result: Result<(), JobError>| {
            recording.record(result);
            event_loop.quit();
        };
        workers.submit(event_loop, || (), done).unwrap();
        event_loop.run().unwrap();
        assert_eq!(results.take(), [Err(JobError::Panicked), Ok(())]);
        assert_eq!(event_loop.handle().counters().panics, 0, "the loop did not panic");
    });
}

#[test]
fn a_panic_in_the_callback_of_a_job_is_counted_by_its_loop() {
    with_catching_loop(|event_loop| {
        let workers = pool(1, 8);
        workers.submit(event_loop, || (), |_, _| panic!("on purpose")).unwrap();
        workers.submit_to(&event_loop.handle(), || (), |_, _| panic!("on purpose")).unwrap();
        workers.submit(event_loop, || (), |event_loop, _| event_loop.quit()).unwrap();
        event_loop.run().unwrap();
        assert_eq!(event_loop.handle().counters().panics, 2);
    });
}

#[test]
fn a_cancelled_job_never_runs_and_its_callback_is_called_later() {
    with_loop(|event_loop| {
        let (workers, results) = (pool(1, 8), Recorder::new());
        let open = occupy(&workers);
        let drops = Count::default();
        let submit = |name: &'static str| {
            let (token, recording) = (drops.drop_token(), results.clone());
            let work = move || token.keep();
            let done = move |_: &EventLoop, result| recording.record((name, result));
            workers.submit(event_loop, work, done).unwrap()
        };
        let (first, second, third) = (submit("first"), submit("second"), submit("third"));
        assert!(workers.cancel(second));
        assert_eq!((drops.get(), results.len()), (1, 0));
        assert!(!workers.cancel(second), "cancelled before");
        assert!(!pool(1, 1).cancel(first), "of another pool");
        turn(event_loop);
        assert_eq!(results.take(), [("second", Err(JobError::Cancelled))]);
        assert!(on_another_thread(|| workers.cancel(third)));
        turn(event_loop);
        assert_eq!(results.take(), [("third", Err(JobError::Cancelled))]);
        drop(open);
        while results.len() == 0 {
            event_loop.run_once(None).unwrap();
        }
        assert_eq!(results.take(), [("first", Ok(()))]);
        assert!(!workers.cancel(first), "it has ended");
        assert_eq!(drops.get(), 3);
    });
}

#[test]
fn a_job_that_has_begun_cannot_be_cancelled() {
    with_loop(|event_loop| {
        let workers = pool(1, 8);
        let (begin, begun) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let work = move || {
            begin.send(()).unwrap();
            gate.recv().unwrap();
        };
        let done = |event_loop: &EventLoop, result| {
            assert_eq!(result, Ok(()));
            event_loop.quit();
        };
        let job = workers.submit(event_loop, work, done).unwrap();
        begun.recv().unwrap();
        assert!(!workers.cancel(job));
        assert_eq!(workers.cancel_waiting(), 0);
        open.send(()).unwrap();
        event_loop.run().unwrap();
    });
}

#[test]
fn the_drop_of_the_last_clone_waits_for_accepted_jobs() {
    with_loop(|event_loop| {
        let (workers, ran, delivered) = (pool(2, 100), Count::default(), Count::default());
        for _ in 0..100 {
            let (ran, delivered) = (ran.clone(), delivered.clone());
            workers.submit(event_loop, move || ran.add(), move |_, _| delivered.add()).unwrap();
        }
        drop(workers.clone());
        drop(workers);
        assert_eq!((ran.get(), delivered.get()), (100, 0));
        turn(event_loop);
        assert_eq!(delivered.get(), 100);
    });
}

#[test]
fn a_closed_pool_refuses_jobs_and_runs_accepted_ones() {
    with_loop(|event_loop| {
        let workers = pool(1, 8);
        let open = occupy(&workers);
        workers.submit(event_loop, || 1, |event_loop, _| event_loop.quit()).unwrap();
        let clone = workers.clone();
        clone.close();
        let refused = workers.submit(event_loop, || 2, |_, _| ()).unwrap_err();
        assert_eq!((refused.reason(), (refused.into_inner().0)()), (WorkersError::Closed, 2));
        let refused = workers.execute(|| ()).unwrap_err();
        assert_eq!(io::Error::from(refused).kind(), ErrorKind::BrokenPipe);
        drop(open);
        event_loop.run().unwrap();
    });
}

#[test]
fn dropping_the_loop_drops_result_and_callback_on_their_threads() {
    with_watchdog(LIMIT, || {
        let (event_loop, workers) = (EventLoop::new().unwrap(), pool(1, 8));
        let open = occupy(&workers);
        let worker = {
            let (sender, receiver) = mpsc::channel();
            workers.execute(move || sender.send(thread::current().id()).unwrap()).unwrap();
            receiver
        };
        let (result, result_dropped) = dropped_on();
        let (done, done_dropped) = dropped_on();
        let (remote_done, remote_done_dropped) = dropped_on();
        workers
            .submit(
                &event_loop,
                move || result,
                move |_, _| {
                    done.keep();
                    unreachable!("the loop is dropped");
                },
            )
            .unwrap();
        let unreachable = move |_: &EventLoop, _| {
            remote_done.keep();
            unreachable!("the loop is dropped");
        };
        workers.submit_to(&event_loop.handle(), || (), unreachable).unwrap();
        let handle = event_loop.handle();
        drop(event_loop);
        assert_eq!(done_dropped.try_recv(), Ok(thread::current().id()));
        let refused = workers.submit_to(&handle, || (), |_, _| ()).map_err(|refused| refused.reason());
        assert_eq!(refused, Err(WorkersError::LoopEnded));
        drop(open);
        let worker = worker.recv().unwrap();
        assert_eq!(result_dropped.recv(), Ok(worker));
        assert_eq!(remote_done_dropped.recv(), Ok(worker));
    });
}

#[test]
fn a_job_may_own_the_last_clone_of_its_pool() {
    with_watchdog(LIMIT, || {
        let workers = pool(1, 8);
        let open = occupy(&workers);
        let (sender, receiver) = mpsc::channel();
        let clone = workers.clone();
        let job = move || {
            let last = sender.clone();
            clone.execute(move || last.send("accepted before the drop").unwrap()).unwrap();
            sender.send("the owner").unwrap();
        };
        workers.execute(job).unwrap();
        drop(workers); // the waiting job owns the other clone
        drop(open);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["the owner", "accepted before the drop"]);
    });
}

#[test]
fn a_loop_that_is_being_dropped_returns_the_closures() {
    struct Submit(Workers, Sender<(WorkersError, u32)>);
    impl ConnectionHandler for Submit {
        fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> io::Result<()> {
            Ok(())
        }
        fn on_close(&mut self, conn: &TcpConnection, _: &CloseReason) {
            let refused = self.0.submit(conn.event_loop(), || 1, |_, _| ()).unwrap_err();
            self.1.send((refused.reason(), (refused.into_inner().0)())).unwrap();
        }
    }
    with_watchdog(LIMIT, || {
        let (event_loop, workers) = (EventLoop::new().unwrap(), pool(1, 8));
        let (sender, receiver) = mpsc::channel();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve(move |_| Submit(workers.clone(), sender.clone())).unwrap();
        let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        while server.handle().open_connections() == 0 {
            event_loop.run_once(None).unwrap();
        }
        turn(&event_loop);
        drop(event_loop);
        assert_eq!(receiver.recv(), Ok((WorkersError::LoopEnded, 1)));
    });
}

#[test]
fn destructors_that_panic_end_neither_threads_nor_loop() {
    with_catching_loop(|event_loop| {
        let (workers, drops) = (pool(1, 100), Count::default());
        let open = occupy(&workers);
        let bomb = || Bomb::new(&drops);
        let (work, done) = (bomb(), bomb());
        let cancelled = workers.submit(event_loop, move || work.keep(), move |_, _| done.keep()).unwrap();
        assert!(workers.cancel(cancelled));
        let work = bomb();
        workers.submit(event_loop, move || work.keep(), |_, result| assert!(result.is_err())).unwrap();
        let result = bomb();
        workers.submit(event_loop, move || result, |_, result| drop(result)).unwrap();
        workers.submit(event_loop, || (), |event_loop, _| event_loop.quit()).unwrap();
        workers.close();
        let refused = bomb();
        let refused = workers.execute(move || refused.keep()).unwrap_err();
        assert_eq!(io::Error::from(refused).kind(), ErrorKind::BrokenPipe);
        drop(open);
        event_loop.run().unwrap();
        assert_eq!(drops.get(), 5);
    });
}

#[test]
fn results_are_not_lost_to_a_full_mailbox() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Refuse(1)).build().unwrap();
        let (workers, handle) = (pool(1, 100), event_loop.handle());
        let delivered = Count::default();
        on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        for _ in 0..50 {
            let (local, remote) = (delivered.clone(), delivered.clone());
            workers.submit(&event_loop, || (), move |_, _| local.add()).unwrap();
            workers.submit_to(&handle, || (), move |_, _| remote.add()).unwrap();
        }
        drop(workers);
        assert!(on_another_thread(|| handle.queue_in_loop(|_| ()).is_err()), "the mailbox is full");
        turn(&event_loop);
        assert_eq!(delivered.get(), 100);
    });
}

#[test]
fn every_accepted_job_has_one_outcome_in_a_storm() {
    with_loop_thread(|handle| {
        const SUBMITTERS: u64 = 3;
        let workers = pool(2, 16);
        let [accepted, refused, ran, results, cancelled, cancels]: [Count; 6] = Default::default();
        thread::scope(|scope| {
            for _ in 0..SUBMITTERS {
                scope.spawn(|| {
                    let mut last = None;
                    for number in 0..2000 {
                        let (ran, results, cancelled) = (ran.clone(), results.clone(), cancelled.clone());
                        let done = move |_: &EventLoop, result| match result {
                            Ok(()) => results.add(),
                            Err(JobError::Cancelled) => cancelled.add(),
                            Err(error) => panic!("{error}"),
                        };
                        let submitted = workers.submit_to(handle, move || ran.add(), done);
                        match submitted.map_err(|refused: Refused<_, _>| refused.reason()) {
                            Ok(id) => {
                                accepted.add();
                                last = Some(id);
                            }
                            Err(WorkersError::Full) => refused.add(),
                            Err(error) => panic!("{error}"),
                        }
                        if number % 3 == 0 && last.take().is_some_and(|id| workers.cancel(id)) {
                            cancels.add();
                        }
                    }
                });
            }
        });
        drop(workers);
        // The results were posted before this call.
        handle.call(|_| ()).unwrap();
        assert_eq!(accepted.get() + refused.get(), SUBMITTERS as usize * 2000);
        assert_eq!(results.get() + cancelled.get(), accepted.get());
        assert_eq!((ran.get(), cancelled.get()), (results.get(), cancels.get()));
    });
}

#[test]
fn a_loop_thread_may_keep_a_pool() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn_with("owner", |event_loop| {
            let workers = pool(1, 8);
            workers
                .submit(event_loop, || (), |event_loop, _| event_loop.quit())
                .map(|_| workers)
                .map_err(io::Error::from)
        });
        thread.unwrap().join().unwrap();
    });
}

#[test]
fn a_pool_needs_a_thread_and_a_valid_name() {
    let kind = |built: io::Result<Workers>| built.unwrap_err().kind();
    assert_eq!(kind(Workers::builder().threads(0).build()), ErrorKind::InvalidInput);
    assert_eq!(kind(Workers::builder().threads(1).name("a\0b").build()), ErrorKind::InvalidInput);
    with_watchdog(LIMIT, || {
        let (sender, receiver) = mpsc::channel();
        let workers = Workers::builder().threads(1).name("named").build().unwrap();
        workers.execute(move || sender.send(thread::current().name().map(str::to_owned)).unwrap()).unwrap();
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("named-0"));
    });
}
