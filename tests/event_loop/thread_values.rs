//! Values that the threads of loops keep, created by `spawn_with` and `new_with`.

use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::support::bomb::Bomb;
use crate::support::net::{self, End, Journal};
use crate::support::{Count, LIMIT, OnDrop, with_watchdog};
use reveille::{EventLoop, LoopPool, LoopThread, TcpServer};

/// A value that is not `Send`, and counts its drop.
fn value(drops: &Count) -> (Rc<()>, impl Sized + use<>) {
    (Rc::new(()), drops.drop_token())
}

#[test]
fn init_runs_on_the_thread_before_its_loop() {
    with_watchdog(LIMIT, || {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let recording = Arc::clone(&calls);
        let thread = LoopThread::spawn_with("own", move |event_loop| {
            let name = thread::current().name().map(str::to_owned);
            recording.lock().unwrap().push(("init", name, event_loop.iteration()));
            event_loop.queue_in_loop(move |event_loop| {
                recording.lock().unwrap().push(("task", None, event_loop.iteration()));
            });
            Ok(Rc::new(()))
        });
        let thread = thread.unwrap();
        assert_eq!(calls.lock().unwrap()[0], ("init", Some("own".to_owned()), 0));
        thread.join().unwrap();
        assert_eq!(calls.lock().unwrap()[1], ("task", None, 0));
    });
}

#[test]
fn the_value_of_a_thread_is_dropped_before_its_loop() {
    with_watchdog(LIMIT, || {
        type End = fn(LoopThread);
        let ends: [End; 3] = [
            drop,
            |thread| thread.join().unwrap(),
            |thread| {
                thread.handle().quit();
                net::until(|| thread.handle().has_ended());
            },
        ];
        for end in ends {
            let (sender, dropped) = mpsc::channel();
            let thread = LoopThread::spawn_with("own", move |event_loop| {
                let handle = event_loop.handle();
                let not_send = Rc::new(());
                Ok(OnDrop::new(move || {
                    drop(not_send);
                    sender.send((handle.is_in_loop_thread(), handle.has_ended())).unwrap();
                }))
            });
            let thread = thread.unwrap();
            thread.handle().call(|_| ()).unwrap();
            assert!(dropped.try_recv().is_err(), "dropped while the loop runs");
            end(thread);
            assert_eq!(dropped.try_recv(), Ok((true, false)));
        }
    });
}

#[test]
fn a_server_kept_by_a_thread_ends_with_it() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            let (journal, sender) = (Journal::new(), mpsc::channel());
            let (writing, address) = (journal.clone(), sender.0);
            let thread = LoopThread::spawn_with("own", move |event_loop| {
                let server = TcpServer::bind(event_loop, "127.0.0.1:0")?
                    .threads(threads)
                    .serve(move |_| writing.script())?;
                address.send(server.local_addr()?).unwrap();
                Ok(server)
            });
            let thread = thread.unwrap();
            let mut client = net::connect(sender.1.recv().unwrap());
            net::assert_echoes(&mut client);
            thread.join().unwrap();
            assert_eq!(journal.end_of(0), End::Stopped);
            journal.assert_opened_and_closed_once(1);
        }
    });
}

#[test]
fn an_error_of_init_is_returned_when_the_thread_has_ended() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let token = drops.drop_token();
        let spawned = LoopThread::spawn_with("own", move |event_loop| {
            // The loop owns the token, so the thread has ended when the token is dropped.
            event_loop.queue_in_loop(move |_| token.keep());
            Err::<(), _>(io::Error::new(ErrorKind::NotFound, "no such thing"))
        });
        let error = spawned.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::NotFound, "no such thing".to_owned()));
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn a_panic_of_init_is_an_error() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let token = drops.drop_token();
        let spawned = LoopThread::spawn_with("own", move |_| -> io::Result<()> {
            token.keep();
            panic!("init panics");
        });
        assert_eq!(spawned.unwrap_err().kind(), ErrorKind::Other);
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn an_init_that_is_not_called_may_panic_when_dropped() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let bomb = Bomb::new(&drops);
        let spawned = LoopThread::spawn_with("zero\0byte", move |_| {
            bomb.keep();
            Ok(())
        });
        assert_eq!(spawned.unwrap_err().kind(), ErrorKind::InvalidInput);
        let bomb = Bomb::new(&drops);
        let pool = LoopPool::new_with(0, "none", move |_, _| {
            bomb.keep();
            Ok(())
        });
        assert_eq!(pool.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(drops.get(), 2);
    });
}

#[test]
fn a_value_that_panics_when_dropped_is_counted() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let counting = drops.clone();
        let thread = LoopThread::spawn_with("own", move |_| Ok(Bomb::new(&counting))).unwrap();
        let handle = thread.handle().clone();
        thread.join().unwrap();
        assert_eq!((drops.get(), handle.counters().panics), (1, 1));
    });
}

#[test]
fn each_thread_of_a_pool_keeps_a_value() {
    with_watchdog(LIMIT, || {
        let (drops, inits) = (Count::default(), Arc::new(Mutex::new(Vec::new())));
        let (counting, recording) = (drops.clone(), Arc::clone(&inits));
        let pool = LoopPool::new_with(3, "worker", move |event_loop: &EventLoop, number| {
            assert!(event_loop.handle().is_in_loop_thread());
            recording.lock().unwrap().push((number, thread::current().name().map(str::to_owned)));
            Ok(value(&counting))
        });
        let pool = pool.unwrap();
        let expected: Vec<_> = (0..3).map(|number| (number, Some(format!("worker-{number}")))).collect();
        assert_eq!(*inits.lock().unwrap(), expected);
        assert_eq!(pool.handles().map(|handle| handle.call(|_| 1).unwrap()).sum::<i32>(), 3);
        assert_eq!(drops.get(), 0);
        drop(pool);
        assert_eq!(drops.get(), 3);
    });
}

#[test]
fn a_failed_init_stops_the_threads_of_its_pool() {
    with_watchdog(LIMIT, || {
        for panics in [false, true] {
            let (inits, drops) = (Count::default(), Count::default());
            let (initializing, counting) = (inits.clone(), drops.clone());
            let pool = LoopPool::new_with(4, "worker", move |_, number| {
                initializing.add();
                match number {
                    2 if panics => panic!("init panics"),
                    2 => Err(ErrorKind::NotFound.into()),
                    _ => Ok(value(&counting)),
                }
            });
            let kind = pool.map(drop).unwrap_err().kind();
            assert_eq!(kind, if panics { ErrorKind::Other } else { ErrorKind::NotFound });
            assert_eq!((inits.get(), drops.get()), (3, 2));
        }
    });
}
