//! Limits of a server: the maximum number of connections, the maximum for one address, and pauses.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::client::{Refusing, loopback};
use crate::support::net::{self, Host};
use crate::support::{LIMIT, turn, with_loop, with_watchdog};
use reveille::net::{
    CloseReason, LoadBalancing, OverflowPolicy, ServerCounters, ServerHandle, TcpServerBuilder,
};
use reveille::{Buffer, ConnectionHandler, TcpConnection, TcpServer};
use rustix::event::PollFlags;
use socket2::{Domain, Socket, Type};

/// The number of open connections, and the highest number so far.
#[derive(Clone, Default)]
struct Census(Arc<(AtomicUsize, AtomicUsize)>);

impl Census {
    fn peak(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

/// Echoes its input, and counts its connections in the census.
struct Counted(Census);

impl ConnectionHandler for Counted {
    fn on_open(&mut self, _conn: &TcpConnection<'_>) -> io::Result<()> {
        let (now, peak) = &*self.0.0;
        peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        conn.send(input.take_all())?;
        Ok(())
    }

    fn on_close(&mut self, _conn: &TcpConnection<'_>, _reason: &CloseReason) {
        self.0.0.0.fetch_sub(1, SeqCst);
    }
}

/// The distribution of a server's connections and listeners over loops.
#[derive(Clone, Copy, Debug)]
enum Spread {
    OneLoop,
    ThreeLoops,
    ThreeListeners,
}

const SPREADS: [Spread; 3] = [Spread::OneLoop, Spread::ThreeLoops, Spread::ThreeListeners];

fn host(
    spread: Spread,
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
) -> (Host, ServerHandle, Census) {
    host_at(loopback(), spread, settings)
}

fn host_at(
    address: SocketAddr,
    spread: Spread,
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
) -> (Host, ServerHandle, Census) {
    let census = Census::default();
    let counted = census.clone();
    let host = Host::new(move |event_loop| {
        let builder = settings(TcpServer::bind(event_loop, address)?);
        match spread {
            Spread::OneLoop => builder.serve(move |_| Counted(counted.clone())),
            Spread::ThreeLoops => builder.threads(3).serve(move |_| Counted(counted.clone())),
            Spread::ThreeListeners => builder
                .threads(3)
                .load_balancing(LoadBalancing::ListenerPerLoop)
                .serve(move |_| Counted(counted.clone())),
        }
    });
    let handle = host.request(|_, server| server.as_ref().expect("a server").handle());
    (host, handle, census)
}

/// Connects a client that has sent a request and waits for the reply.
fn connect_and_request(address: SocketAddr) -> TcpStream {
    let mut client = net::connect(address);
    client.write_all(b"?").unwrap();
    client
}

fn has_reply(client: &TcpStream) -> bool {
    net::poll_flags(client).contains(PollFlags::IN)
}

/// Takes out the clients that have received a reply.
fn take_replied(waiting: &mut Vec<TcpStream>) -> Vec<TcpStream> {
    let (replied, others) = std::mem::take(waiting).into_iter().partition(has_reply);
    *waiting = others;
    replied
}

/// Checks that the server has closed the connection without a reply.
#[track_caller]
fn assert_rejected(mut client: TcpStream) {
    match client.read(&mut [0; 8]) {
        Ok(n) => assert_eq!(n, 0, "the connection was served"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Connects until a connection is served. The count of open connections decreases before the permit
/// is released, so the first connections may be rejected.
#[track_caller]
fn connect_until_served(connect: impl Fn() -> TcpStream) -> TcpStream {
    let mut served = None;
    net::until(|| {
        let mut client = connect();
        let is_served = client.write_all(b"?").is_ok() && client.read(&mut [0]).is_ok_and(|n| n == 1);
        served = is_served.then_some(client);
        is_served
    });
    served.unwrap()
}

fn connect_from(local: &str, address: SocketAddr) -> TcpStream {
    let local: SocketAddr = format!("{local}:0").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&local.into()).unwrap();
    socket.connect_timeout(&address.into(), net::LIMIT).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(net::LIMIT)).unwrap();
    client
}

// --- The maximum of connections ------------------------------------------------------------------

#[test]
fn connections_beyond_the_maximum_queue_until_others_leave() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            let (host, handle, census) = host(spread, |builder| builder.max_connections(5));
            let mut waiting: Vec<_> = (0..20).map(|_| connect_and_request(host.address())).collect();
            let mut served: Vec<TcpStream> = Vec::new();
            while !waiting.is_empty() || !served.is_empty() {
                let expected = waiting.len().min(5 - served.len());
                let mut count = 0;
                net::until(|| {
                    let replied = take_replied(&mut waiting);
                    count += replied.len();
                    served.extend(replied);
                    count == expected
                });
                // One client leaves, then two, then three at the same time.
                let leaving = served.len().min(1 + waiting.len() % 3);
                served.drain(..leaving);
            }
            net::until(|| handle.open_connections() == 0);
            assert_eq!(census.peak(), 5, "{spread:?}");
            assert_eq!(handle.counters().accepted, 20, "{spread:?}");
            assert_eq!(handle.counters().rejected_at_maximum, 0);
        }
    });
}

#[test]
fn a_server_at_its_maximum_stays_idle() {
    with_watchdog(LIMIT, || {
        let (host, handle, _) = host(Spread::OneLoop, |builder| builder.max_connections(2));
        let mut served: Vec<_> = (0..2).map(|_| host.connect()).collect();
        served.iter_mut().for_each(net::assert_echoes);
        let mut waiting: Vec<_> = (0..10).map(|_| connect_and_request(host.address())).collect();
        host.assert_idle();
        assert!(take_replied(&mut waiting).is_empty());
        assert_eq!((handle.open_connections(), handle.counters().accepted), (2, 2));
        served.iter_mut().for_each(net::assert_echoes);
    });
}

#[test]
fn a_maximum_of_zero_accepts_no_connection() {
    with_watchdog(LIMIT, || {
        let (host, handle, _) = host(Spread::OneLoop, |builder| builder.max_connections(0));
        let client = connect_and_request(host.address());
        host.assert_idle();
        assert!(!has_reply(&client));
        assert_eq!(handle.counters(), ServerCounters::default());
    });
}

#[test]
fn connections_beyond_the_maximum_are_rejected_by_policy() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            let (host, handle, census) =
                host(spread, |builder| builder.max_connections(5).overflow_policy(OverflowPolicy::Reject));
            let mut served: Vec<_> = (0..5).map(|_| host.connect()).collect();
            served.iter_mut().for_each(net::assert_echoes);
            for _ in 0..7 {
                assert_rejected(host.connect());
            }
            assert_eq!(handle.counters().rejected_at_maximum, 7, "{spread:?}");
            served.pop();
            net::until(|| handle.open_connections() == 4);
            served.push(connect_until_served(|| host.connect()));
            assert_eq!(handle.counters().accepted, 6, "{spread:?}");
            assert_eq!(census.peak(), 5, "{spread:?}");
        }
    });
}

// --- The maximum for one address -----------------------------------------------------------------

#[test]
fn the_limit_per_address_applies_to_each_address() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            let (host, handle, _) = host(spread, |builder| builder.max_per_address(3));
            let mut of_one: Vec<_> = (0..3).map(|_| connect_from("127.0.0.2", host.address())).collect();
            of_one.iter_mut().for_each(net::assert_echoes);
            assert_rejected(connect_from("127.0.0.2", host.address()));
            let mut of_another: Vec<_> = (0..3).map(|_| connect_from("127.0.0.3", host.address())).collect();
            of_another.iter_mut().for_each(net::assert_echoes);
            assert_rejected(connect_from("127.0.0.3", host.address()));
            assert_eq!(handle.counters().rejected_by_address, 2, "{spread:?}");

            // A closed connection releases exactly one permit.
            of_one.pop();
            net::until(|| handle.open_connections() == 5);
            of_one.push(connect_until_served(|| connect_from("127.0.0.2", host.address())));
            let rejected = handle.counters().rejected_by_address;
            assert_rejected(connect_from("127.0.0.2", host.address()));
            assert_eq!(
                (handle.counters().accepted, handle.counters().rejected_by_address),
                (7, rejected + 1),
                "{spread:?}"
            );
        }
    });
}

#[test]
fn refusal_by_address_takes_no_permit_of_the_maximum() {
    with_watchdog(LIMIT, || {
        for at_maximum in [OverflowPolicy::Queue, OverflowPolicy::Reject] {
            let (host, handle, _) = host(Spread::OneLoop, move |builder| {
                builder.max_connections(2).overflow_policy(at_maximum).max_per_address(1)
            });
            let mut first = connect_from("127.0.0.2", host.address());
            net::assert_echoes(&mut first);
            for _ in 0..5 {
                assert_rejected(connect_from("127.0.0.2", host.address()));
            }
            let mut second = connect_from("127.0.0.3", host.address());
            net::assert_echoes(&mut second);
            assert_eq!(handle.open_connections(), 2, "{at_maximum:?}");
        }
    });
}

// --- Pauses --------------------------------------------------------------------------------------

#[test]
fn connections_during_a_pause_are_accepted_after_it() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            let (host, handle, _) = host(spread, |builder| builder);
            let mut before = host.connect();
            net::assert_echoes(&mut before);
            for _ in 0..3 {
                handle.pause_accepting();
                let mut waiting: Vec<_> = (0..6).map(|_| connect_and_request(host.address())).collect();
                host.assert_idle();
                assert!(take_replied(&mut waiting).is_empty(), "{spread:?}");
                net::assert_echoes(&mut before);
                assert_eq!(handle.open_connections(), 1, "{spread:?}");
                // No further connection arrives, so there is no new edge.
                handle.resume_accepting();
                for client in &mut waiting {
                    assert_eq!(net::read_exact(client, 1), b"?");
                }
                drop(waiting);
                net::until(|| handle.open_connections() == 1);
            }
        }
    });
}

/// A turn accepts several connections. The handler of the first may pause accepting.
#[test]
fn a_pause_takes_effect_within_a_turn() {
    with_loop(|event_loop| {
        let (sender, handles) = mpsc::channel::<ServerHandle>();
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve(move |_| {
                handles.recv().expect("a handle for each connection").pause_accepting();
                Counted(Census::default())
            })
            .unwrap();
        (0..3).for_each(|_| sender.send(server.handle()).unwrap());
        let clients: Vec<_> = (0..3).map(|_| net::connect(server.local_addr().unwrap())).collect();
        net::wait_for_backlog(server.local_addr().unwrap(), 3);
        for open in 1..=3 {
            (0..3).for_each(|_| turn(event_loop));
            assert_eq!(server.open_connections(), open);
            server.resume_accepting();
        }
        drop(clients);
    });
}

#[test]
fn accepts_per_turn_limits_each_turn() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .accepts_per_turn(3)
            .serve_fn(|_, _| ())
            .unwrap();
        let clients: Vec<_> = (0..10).map(|_| net::connect(server.local_addr().unwrap())).collect();
        net::wait_for_backlog(server.local_addr().unwrap(), 10);
        for open in [3, 6, 9, 10] {
            turn(event_loop);
            assert_eq!(server.open_connections(), open);
        }
        drop(clients);
    });
}

// --- From other threads --------------------------------------------------------------------------

#[test]
fn a_server_is_stopped_from_another_thread() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            for paused in [false, true] {
                let refusing = Refusing::new();
                let (host, handle, _) =
                    host_at(refusing.address(), spread, |builder| builder.max_connections(6));
                let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
                clients.iter_mut().for_each(net::assert_echoes);
                if paused {
                    handle.pause_accepting();
                }
                let (report, reported) = mpsc::channel();
                let twice = report.clone();
                handle.stop(Duration::from_secs(3600), move |_, stopped| report.send(stopped).unwrap());
                handle.stop(Duration::from_secs(3600), move |_, stopped| twice.send(stopped).unwrap());
                for mut client in clients {
                    assert_eq!(net::read_to_end(&mut client), b"");
                }
                for _ in 0..2 {
                    let stopped = reported.recv_timeout(net::LIMIT).expect("a report");
                    assert_eq!((stopped.ended_in_time, stopped.aborted), (6, 0), "{spread:?}");
                }
                // Every listener is closed when the report arrives.
                for _ in 0..10 {
                    refusing.assert_refuses();
                }
                handle.pause_accepting();
                handle.resume_accepting();
                assert_eq!(handle.counters().accepted, 6);
            }
        }
    });
}

#[test]
fn dropping_a_stopping_server_aborts_remaining_connections() {
    with_watchdog(LIMIT, || {
        let (host, handle, _) = host(Spread::OneLoop, |builder| builder);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        let (report, reported) = mpsc::channel();
        handle.stop(Duration::from_secs(3600), move |_, stopped| report.send(stopped).unwrap());
        assert_eq!(net::read_to_end(&mut client), b"");
        // The client does not close its end.
        assert_eq!(handle.open_connections(), 1);
        host.request(|_, server| drop(server.take()));
        let stopped = reported.recv_timeout(net::LIMIT).expect("a report");
        assert_eq!((stopped.ended_in_time, stopped.aborted), (0, 1));
    });
}

/// Listeners and permit releases on several loops, with pauses from another thread: no connection
/// starves, and the maximum is never exceeded.
#[test]
fn no_connection_starves_when_permits_and_pauses_interleave() {
    with_watchdog(LIMIT, || {
        // The end of a pause wakes the listeners too. In the runs without pauses, only released
        // permits admit the next connection.
        let many = [Spread::ThreeLoops, Spread::ThreeListeners];
        for (spread, pauses) in many.into_iter().flat_map(|spread| [(spread, false), (spread, true)]) {
            const CALLERS: usize = 4;
            const CALLS: usize = 150;
            let (host, handle, census) = host(spread, |builder| builder.max_connections(2));
            let address = host.address();
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    thread::spawn(move || {
                        for _ in 0..CALLS {
                            assert_eq!(net::read_exact(&mut connect_and_request(address), 1), b"?");
                        }
                    })
                })
                .collect();
            while pauses && !callers.iter().all(thread::JoinHandle::is_finished) {
                handle.pause_accepting();
                thread::yield_now();
                handle.resume_accepting();
                thread::yield_now();
            }
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            assert_eq!(handle.counters().accepted, (CALLERS * CALLS) as u64);
            assert!(census.peak() <= 2, "{} connections at the same time", census.peak());
        }
    });
}
