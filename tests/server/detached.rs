//! Servers that are left to their loops.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::client::Refusing;
use crate::support::clock::HOUR;
use crate::support::net::{self, End, Host, Journal};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{LoadBalancing, MultiLoop, ServerHandle, TcpServerBuilder};
use reveille::{EventLoop, LoopHandle, LoopPool, LoopThread, TcpServer};

/// A detached server, and the loops of its connections.
struct Detached {
    host: Host,
    refusing: Refusing,
    server: ServerHandle,
    journal: Journal,
    clients: Vec<TcpStream>,
    loops: Vec<LoopHandle>,
}

impl Detached {
    fn new(
        configure: impl FnOnce(TcpServerBuilder<'_>) -> TcpServerBuilder<'_, MultiLoop> + Send + 'static,
    ) -> Detached {
        let (journal, (sender, loops)) = (Journal::new(), mpsc::channel());
        let refusing = Refusing::new();
        let (writing, address) = (journal.clone(), refusing.address());
        let host = Host::new(move |event_loop| {
            configure(TcpServer::bind(event_loop, address)?).serve(move |conn| {
                sender.send(conn.event_loop().handle()).unwrap();
                writing.script()
            })
        });
        let server = host.request(|_, server| server.take().unwrap().detach());
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        let loops = loops.try_iter().collect();
        Detached { host, refusing, server, journal, clients, loops }
    }
}

#[test]
fn a_detached_server_ends_with_its_loop() {
    with_watchdog(LIMIT, || {
        for (threads, distribution) in [
            (1, LoadBalancing::RoundRobin),
            (3, LoadBalancing::RoundRobin),
            (3, LoadBalancing::ListenerPerLoop),
        ] {
            let detached =
                Detached::new(move |builder| builder.threads(threads).load_balancing(distribution));
            drop(detached.host);
            assert!(detached.loops.iter().all(LoopHandle::has_ended));
            detached.refusing.assert_refuses();
            (0..6).for_each(|number| assert_eq!(detached.journal.end_of(number), End::LoopEnded));
            detached.journal.assert_opened_and_closed_once(6);
            assert_eq!((detached.server.open_connections(), detached.server.live_loops()), (0, 0));
        }
    });
}

#[test]
fn a_handle_stops_a_detached_server_and_its_threads() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let Detached { host, refusing, server, journal, clients, loops } =
                Detached::new(move |builder| builder.threads(threads));
            let (sender, reported) = mpsc::channel();
            server.stop(HOUR, move |event_loop, report| {
                let ended = loops.iter().filter(|handle| handle.has_ended()).count();
                sender.send((event_loop.handle().is_in_loop_thread(), report.ended_in_time, ended)).unwrap();
            });
            // The stop waits for the peers.
            host.request(|_, _| ());
            assert!(reported.try_recv().is_err());
            drop(clients);
            let ended = if threads == 1 { 0 } else { 6 };
            assert_eq!(reported.recv_timeout(net::LIMIT), Ok((true, 6, ended)));
            refusing.assert_refuses();
            host.request(|_, _| ());
            journal.assert_opened_and_closed_once(6);
        }
    });
}

#[test]
fn a_deadline_ends_a_detached_server_and_its_threads() {
    with_watchdog(LIMIT, || {
        for within in [Duration::ZERO, Duration::from_nanos(1)] {
            let Detached { host, server, journal, clients, loops, .. } =
                Detached::new(|builder| builder.threads(3));
            let (sender, reported) = mpsc::channel();
            server.stop(within, move |_, _| {
                sender.send(loops.iter().all(LoopHandle::has_ended)).unwrap();
            });
            assert_eq!(reported.recv_timeout(net::LIMIT), Ok(true));
            drop((host, clients));
            journal.assert_opened_and_closed_once(6);
        }
    });
}

#[test]
fn a_server_detached_after_its_stop_keeps_no_threads() {
    with_watchdog(LIMIT, || {
        let (sender, loops) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2).serve_fn(move |conn, input| {
                sender.send(conn.event_loop().handle()).unwrap();
                conn.send(input.take_all())
            })
        });
        net::assert_echoes(&mut host.connect());
        let used = loops.recv().unwrap();
        let (sender, reported) = mpsc::channel();
        host.request(move |_, server| {
            server.as_ref().unwrap().handle().stop(HOUR, move |_, _| sender.send(()).unwrap());
        });
        reported.recv_timeout(net::LIMIT).unwrap();
        assert!(!used.has_ended(), "the threads belong to the server's value");
        host.request(|_, server| drop(server.take().unwrap().detach()));
        net::until(|| used.has_ended());
        host.request(|_, _| ());
    });
}

#[test]
fn a_detached_server_on_a_pool_ends_with_its_own_loop() {
    with_watchdog(LIMIT, || {
        for distribution in [LoadBalancing::RoundRobin, LoadBalancing::ListenerPerLoop] {
            let pool = Arc::new(LoopPool::new(2, "worker").unwrap());
            let serving = Arc::clone(&pool);
            let detached = Detached::new(move |builder| builder.pool(&serving).load_balancing(distribution));
            drop(detached.host);
            detached.refusing.assert_refuses();
            (0..6).for_each(|number| assert_eq!(detached.journal.end_of(number), End::Stopped));
            assert!(pool.handles().all(|handle| handle.call(|_| ()).is_ok()));
            detached.journal.assert_opened_and_closed_once(6);
        }
    });
}

/// The deadline of the stop is a timer of the loop that is dropped.
#[test]
fn a_stopping_server_on_a_pool_ends_with_its_own_loop() {
    with_watchdog(LIMIT, || {
        let pool = Arc::new(LoopPool::new(2, "worker").unwrap());
        let serving = Arc::clone(&pool);
        let detached = Detached::new(move |builder| builder.pool(&serving));
        detached.server.stop(HOUR, |_, _| unreachable!("the loop is dropped"));
        detached.host.request(|_, _| ());
        assert_eq!(detached.server.open_connections(), 6);
        drop(detached.host);
        (0..6).for_each(|number| assert_eq!(detached.journal.end_of(number), End::Stopped));
        detached.journal.assert_opened_and_closed_once(6);
    });
}

#[test]
fn a_server_detached_after_its_loop_ends_at_once() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            let (event_loop, refusing) = (EventLoop::new().unwrap(), Refusing::new());
            let server = TcpServer::bind(&event_loop, refusing.address()).unwrap().threads(threads);
            let server = server.load_balancing(LoadBalancing::ListenerPerLoop).serve_fn(|_, _| ()).unwrap();
            drop(event_loop);
            let handle = server.detach();
            refusing.assert_refuses();
            assert_eq!(handle.live_loops(), 0);
        }
    });
}

#[test]
fn a_thread_may_serve_with_detached_objects_only() {
    with_watchdog(LIMIT, || {
        let refusing = Refusing::new();
        let address = refusing.address();
        let thread = LoopThread::spawn_with("own", move |event_loop| {
            let server = TcpServer::bind(event_loop, address)?;
            server.serve_fn(|conn, input| conn.send(input.take_all()))?.detach();
            Ok(())
        });
        let thread = thread.unwrap();
        net::assert_echoes(&mut net::connect(address));
        thread.join().unwrap();
        refusing.assert_refuses();
    });
}
