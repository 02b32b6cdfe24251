//! The stop of a server, its grace period, and the errors of its tasks' connections.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::futures::{CountingWaker, run};
use crate::support::net::{self, Host};
use crate::support::{Count, LIMIT, OnDrop, with_catching_loop, with_clock, with_watchdog};
use reveille::net::{ByteStream, StopReport};
use reveille::{TcpServer, task};

/// The result of the first future that completes, by its number.
async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) -> u8 {
    let (mut one, mut other) = (pin!(one), pin!(other));
    std::future::poll_fn(|context| {
        if one.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(1);
        }
        other.as_mut().poll(context).map(|()| 2)
    })
    .await
}

#[test]
fn a_task_selects_between_its_input_and_the_stop() {
    with_catching_loop(|event_loop| {
        let serve = |mut stream: ByteStream| async move {
            let mut stop = stream.stop_requested();
            let mut byte = [0; 1];
            loop {
                let read = async {
                    stream.read_exact(&mut byte).await.unwrap();
                };
                match first(&mut stop, read).await {
                    1 => return stream.write_all("stopping").await,
                    _ => stream.write_all(byte).await?,
                }
            }
        };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(serve).unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            let mut echoed = [0; 3];
            stream.write_all("abc").await.unwrap();
            stream.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed, b"abc");
            server.stop(Duration::from_secs(60), |_, _| ());
            let mut rest = reveille::Buffer::new();
            while stream.read_buf(&mut rest).await.unwrap() > 0 {}
            assert_eq!(rest.readable(), b"stopping");
        });
    });
}

#[test]
fn a_stop_wakes_every_future_that_waits_for_it() {
    with_catching_loop(|event_loop| {
        let (served, ended) = (Count::default(), Count::default());
        let (serving, ending) = (served.clone(), ended.clone());
        let serve = move |stream: ByteStream| {
            let (serving, ending) = (serving.clone(), ending.clone());
            async move {
                for _ in 0..3 {
                    let (stop, ending) = (stream.stop_requested(), ending.clone());
                    task::spawn_local(async move {
                        stop.await;
                        ending.add();
                    });
                }
                // Dropped after a wait.
                let wakes = Count::default();
                {
                    let mut dropped = pin!(stream.stop_requested());
                    let waker = CountingWaker::waker(&wakes);
                    let mut context = std::task::Context::from_waker(&waker);
                    assert!(dropped.as_mut().poll(&mut context).is_pending());
                }
                serving.add();
                stream.stop_requested().await;
                assert_eq!(wakes.get(), 0);
                stream.stop_requested().await;
                ending.add();
                Ok(())
            }
        };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(serve).unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            while served.get() == 0 {
                task::yield_now().await;
            }
            // The spawned futures have begun to wait.
            task::yield_now().await;
            task::yield_now().await;
            server.stop(Duration::from_secs(60), |_, _| ());
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            while ended.get() < 4 {
                task::yield_now().await;
            }
        });
    });
}

/// Stops a server whose task waits for the stop and then for `more` seconds. The grace period is
/// 10 s. Returns the report, the time, and whether the task has ended by itself.
fn stopped(more: u32) -> (StopReport, Duration, bool) {
    with_clock(move |event_loop, clock| {
        let ended = Rc::new(Cell::new(false));
        let ending = Rc::clone(&ended);
        let serve = move |stream: ByteStream| {
            let ending = Rc::clone(&ending);
            async move {
                stream.stop_requested().await;
                reveille::time::sleep(more * Duration::from_secs(1)).await;
                ending.set(true);
                Ok(())
            }
        };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(serve).unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || server.open_connections() == 1);
        (0..3).for_each(|_| crate::support::turn(event_loop));
        let result = Rc::new(Cell::new(None));
        let (reported, start, now) = (Rc::clone(&result), clock.now(), clock.clone());
        server.stop(Duration::from_secs(10), move |_, report| {
            reported.set(Some((report, now.now() - start)));
        });
        let reader = std::thread::spawn(move || client.read(&mut [0; 1]).map_err(|error| error.kind()));
        net::turn_until(event_loop, || {
            event_loop.run_for(Duration::from_millis(100)).unwrap();
            let found = result.take();
            result.set(found);
            found.is_some()
        });
        // A FIN precedes a reset that loses nothing.
        let end = reader.join().unwrap();
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
        let (report, time) = result.take().unwrap();
        (report, time, ended.get())
    })
}

#[test]
fn a_task_may_use_the_grace_period_of_a_stop() {
    let (report, time, ended) = stopped(8);
    assert!(ended && time >= Duration::from_secs(8) && time < Duration::from_secs(10), "{time:?}");
    assert_eq!(report.aborted, 0, "{report:?}");
    let (report, time, ended) = stopped(12);
    assert!(!ended && time >= Duration::from_secs(10) && time < Duration::from_secs(12), "{time:?}");
    assert_eq!(report.aborted, 1, "{report:?}");
}

#[test]
fn tasks_of_all_loops_end_in_the_grace_period_of_a_stop() {
    with_watchdog(LIMIT, || {
        let (sender, dropped) = mpsc::channel();
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(3).serve_async(move |mut stream| {
                let sender = sender.clone();
                let guard = OnDrop::new(move || _ = sender.send(()));
                async move {
                    stream.write_all("ready").await?;
                    stream.stop_requested().await;
                    stream.write_all("late").await?;
                    drop(guard);
                    Ok(())
                }
            })
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 5]).unwrap());
        host.request(|_, server| server.take().unwrap().stop(net::LIMIT, |_, _| ()));
        for client in &mut clients {
            let mut rest = String::new();
            client.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "late");
        }
        drop(clients);
        (0..6).for_each(|_| dropped.recv_timeout(net::LIMIT).unwrap());
    });
}

#[test]
fn a_reset_by_the_peer_is_returned_and_the_others_are_served() {
    with_watchdog(LIMIT, || {
        let (sender, ends) = mpsc::channel();
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_async(move |mut stream| {
                let sender = sender.clone();
                async move {
                    let mut byte = [0; 1];
                    loop {
                        match stream.read(&mut byte).await {
                            Ok(1) => stream.write_all(byte).await?,
                            end => {
                                sender.send(end.map_err(|error| error.kind())).unwrap();
                                return Ok(());
                            }
                        }
                    }
                }
            })
        });
        let (mut one, mut other) = (host.connect(), host.connect());
        assert_eq!(net::exchange(&mut one, b"1"), b"1");
        net::reset(one);
        assert_eq!(ends.recv_timeout(net::LIMIT).unwrap(), Err(ErrorKind::ConnectionReset));
        assert_eq!(net::exchange(&mut other, b"2"), b"2");
        other.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(ends.recv_timeout(net::LIMIT).unwrap(), Ok(0));
        net::wait_for_end(&mut other);
    });
}

#[test]
fn streams_that_always_have_data_do_not_starve_the_others() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_async(|mut stream| async move {
                let mut bytes = [0; 64];
                loop {
                    match stream.read(&mut bytes).await? {
                        0 => return Ok(()),
                        // Floods are not echoed.
                        n if bytes[0] == b'f' => _ = n,
                        n => stream.write_all(&bytes[..n]).await?,
                    }
                }
            })
        });
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut client = host.connect();
                    while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
                        client.write_all(&[b'f'; 64 * 1024]).unwrap();
                    }
                });
            }
            let mut client = host.connect();
            for _ in 0..20 {
                assert_eq!(net::exchange(&mut client, b"echo"), b"echo");
            }
            is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        });
    });
}
