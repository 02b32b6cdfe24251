//! Servers on the loops of a pool that they do not own.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::thread;

use crate::support::client::Refusing;
use crate::support::clock::HOUR;
use crate::support::net::{self, End, Host, Journal};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::LoadBalancing;
use reveille::{EventLoop, LoopPool, TcpServer};

const LOOPS: usize = 2;

fn pool() -> Arc<LoopPool> {
    Arc::new(LoopPool::new(LOOPS, "worker").unwrap())
}

/// A server on a pool, whose connections write to the journal. Its port is refusing when it does
/// not listen.
fn host(pool: &Arc<LoopPool>, distribution: LoadBalancing) -> (Host, Journal, Refusing) {
    let (journal, pool, refusing) = (Journal::new(), Arc::clone(pool), Refusing::new());
    let (writing, address) = (journal.clone(), refusing.address());
    let host = Host::new(move |event_loop| {
        let builder = TcpServer::bind(event_loop, address)?.pool(&pool);
        drop(pool);
        builder.load_balancing(distribution).serve(move |_| {
            assert!(thread::current().name().unwrap().starts_with("worker-"));
            writing.script()
        })
    });
    (host, journal, refusing)
}

fn clients(host: &Host) -> Vec<TcpStream> {
    let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
    clients.iter_mut().for_each(net::assert_echoes);
    clients
}

const BOTH: [LoadBalancing; 2] = [LoadBalancing::RoundRobin, LoadBalancing::ListenerPerLoop];

#[test]
fn several_servers_share_a_pool() {
    with_watchdog(LIMIT, || {
        for distribution in BOTH {
            let pool = pool();
            let (first, ended, _refusing) = host(&pool, distribution);
            let (second, journal, _refusing) = host(&pool, distribution);
            let first_clients = clients(&first);
            let mut second_clients = clients(&second);
            let address = first.address();
            first.request(move |event_loop, server| {
                *server = None;
                drop(TcpServer::bind(event_loop, address).unwrap().serve_fn(|_, _| ()).expect("a free port"));
            });
            (0..6).for_each(|number| assert_eq!(ended.end_of(number), End::Stopped));
            drop((first, first_clients));
            second_clients.iter_mut().for_each(net::assert_echoes);
            assert_eq!(second.open_connections(), 6);
            drop(second);
            (0..6).for_each(|number| assert_eq!(journal.end_of(number), End::Stopped));
            // The threads belong to the pool.
            assert!(pool.handles().all(|handle| handle.call(|_| ()).is_ok()));
        }
    });
}

#[test]
fn a_stopped_server_leaves_its_pool_running() {
    with_watchdog(LIMIT, || {
        for distribution in BOTH {
            let pool = pool();
            let (host, journal, _refusing) = host(&pool, distribution);
            let clients = clients(&host);
            let (sender, reported) = mpsc::channel();
            host.request(move |_, server| {
                server.take().unwrap().stop(HOUR, move |_, report| sender.send(report).unwrap());
            });
            drop(clients);
            assert_eq!(reported.recv_timeout(net::LIMIT).unwrap().ended_in_time, 6);
            drop(host);
            journal.assert_opened_and_closed_once(6);
            assert!(pool.handles().all(|handle| handle.call(|_| ()).is_ok()));
        }
    });
}

#[test]
fn a_pool_that_ends_first_leaves_a_server_without_loops() {
    with_watchdog(LIMIT, || {
        for distribution in BOTH {
            let pool = pool();
            let (host, journal, _refusing) = host(&pool, distribution);
            let mut clients = clients(&host);
            let pool = Arc::into_inner(pool).expect("the server does not own the pool");
            drop(pool);
            clients.iter_mut().for_each(net::wait_for_end);
            (0..6).for_each(|number| assert_eq!(journal.end_of(number), End::LoopEnded));
            let server = host.request(|_, server| server.as_ref().unwrap().handle());
            assert_eq!((server.live_loops(), server.open_connections()), (0, 0));
            match TcpStream::connect(host.address()) {
                Ok(mut late) => net::wait_for_end(&mut late),
                Err(error) => assert_eq!(
                    (distribution, error.kind()),
                    (LoadBalancing::ListenerPerLoop, ErrorKind::ConnectionRefused)
                ),
            }
            drop(host);
            journal.assert_opened_and_closed_once(6);
        }
    });
}

#[test]
fn loops_that_have_ended_are_left_out() {
    with_watchdog(LIMIT, || {
        for distribution in BOTH {
            let pool = pool();
            let end = |number| {
                let handle = pool.handles().nth(number).unwrap().clone();
                handle.quit();
                net::until(|| handle.has_ended());
            };
            end(0);
            let (host, journal, _refusing) = host(&pool, distribution);
            drop(clients(&host));
            let server = host.request(|_, server| server.as_ref().unwrap().handle());
            assert_eq!(server.live_loops(), 1);
            drop(host);
            assert_eq!(journal.handlers(), 6);
            end(1);
            let event_loop = EventLoop::new().unwrap();
            let builder = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().pool(&pool);
            let served = builder.load_balancing(distribution).serve_fn(|_, _| ());
            assert_eq!(served.unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
    });
}

/// The server is bound to one of the loops that serve its connections.
#[test]
fn a_server_may_be_on_a_loop_of_its_pool() {
    with_watchdog(LIMIT, || {
        for distribution in BOTH {
            let (pool, journal) = (pool(), Journal::new());
            let (serving, writing) = (Arc::clone(&pool), journal.clone());
            let server = pool.handles().next().unwrap().call(move |event_loop| {
                let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().pool(&serving);
                drop(serving);
                let builder = builder.load_balancing(distribution);
                builder.serve_per_loop(|_| Ok(()), move |(), _| writing.script()).unwrap().detach()
            });
            let server = server.unwrap();
            let mut clients: Vec<_> = (0..6).map(|_| net::connect(server.local_addr().unwrap())).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            drop(Arc::into_inner(pool).expect("the server does not own the pool"));
            for client in &mut clients {
                let _ = client.write_all(b"late");
                net::wait_for_end(client);
            }
            // A connection of the other loop may end with the server.
            let ends = |number| [End::Stopped, End::LoopEnded].contains(&journal.end_of(number));
            assert!((0..6).all(ends));
            journal.assert_opened_and_closed_once(6);
        }
    });
}
