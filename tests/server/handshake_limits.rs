//! The maximum of handshakes, and the handshakes that fail.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::knock::{BOMB, FAILURES, KNOCK, Knock, complete, fail, read_greeting};
use crate::support::net::{self, Host};
use crate::support::{LIMIT, turn, with_clock, with_watchdog};
use reveille::net::{
    ConnectionLimits, Filter, LoadBalancing, OverflowPolicy, ServerHandle, TcpServerBuilder,
};
use reveille::{EventLoop, TcpServer};
use rustix::event::PollFlags;
use socket2::SockRef;

/// The distribution of a server's connections and listeners over loops.
#[derive(Clone, Copy, Debug)]
enum Spread {
    OneLoop,
    ThreeLoops,
    ThreeListeners,
}

const SPREADS: [Spread; 3] = [Spread::OneLoop, Spread::ThreeLoops, Spread::ThreeListeners];

/// An echo server.
fn host(
    spread: Spread,
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
) -> (Host, ServerHandle) {
    let host = Host::new(move |event_loop| {
        let builder = settings(TcpServer::bind(event_loop, "127.0.0.1:0")?);
        match spread {
            Spread::OneLoop => builder.serve_fn(|conn, input| conn.send(input.take_all())),
            Spread::ThreeLoops => builder.threads(3).serve_fn(|conn, input| conn.send(input.take_all())),
            Spread::ThreeListeners => builder
                .threads(3)
                .load_balancing(LoadBalancing::ListenerPerLoop)
                .serve_fn(|conn, input| conn.send(input.take_all())),
        }
    });
    let handle = host.request(|_, server| server.as_ref().expect("a server").handle());
    (host, handle)
}

fn is_greeted(peer: &TcpStream) -> bool {
    net::poll_flags(peer).contains(PollFlags::IN)
}

/// Waits until `count` of the peers are greeted, and takes these out.
#[track_caller]
fn take_greeted(waiting: &mut Vec<TcpStream>, count: usize) -> Vec<TcpStream> {
    let mut greeted = Vec::new();
    net::until(|| {
        let (now, others) = std::mem::take(waiting).into_iter().partition(is_greeted);
        *waiting = others;
        greeted.extend::<Vec<_>>(now);
        greeted.len() >= count
    });
    assert_eq!(greeted.len(), count, "the handshakes exceed the maximum");
    greeted.iter_mut().for_each(read_greeting);
    greeted
}

fn counts(handle: &ServerHandle) -> (u64, u64, u64) {
    (handle.counters().accepted, handle.handshakes(), handle.counters().failed_handshakes)
}

// --- The maximum ---------------------------------------------------------------------------------

#[test]
fn handshakes_beyond_the_maximum_wait_for_others_to_end() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            let (host, handle) = host(spread, |builder| builder.filter(Knock::default).max_handshakes(4));
            let mut waiting: Vec<_> = (0..20).map(|_| host.connect()).collect();
            let mut in_handshake = take_greeted(&mut waiting, 4);
            host.assert_idle();
            assert_eq!(counts(&handle), (4, 4, 0), "{spread:?}");
            assert!(!waiting.iter().any(is_greeted));
            let mut open = Vec::new();
            let mut failed = 0;
            for round in 0.. {
                let Some(mut peer) = in_handshake.pop() else { break };
                match round % 4 {
                    0 => {
                        complete(&mut peer);
                        open.push(peer);
                    }
                    n => {
                        fail(peer, FAILURES[n - 1]);
                        failed += 1;
                    }
                }
                let next = waiting.len().min(1);
                in_handshake.extend(take_greeted(&mut waiting, next));
            }
            net::until(|| handle.open_connections() == 5);
            assert_eq!(counts(&handle), (20, 0, failed), "{spread:?}");
            open.iter_mut().for_each(net::assert_echoes);
        }
    });
}

#[test]
fn every_end_of_a_handshake_resumes_accepting() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().filter(Knock::default);
        let server = server.max_handshakes(1).serve_fn(|_, _| ()).unwrap();
        let address = server.local_addr().unwrap();
        type End = fn(&mut TcpStream);
        let ends: [End; 5] = [
            |peer| peer.write_all(KNOCK).unwrap(),
            |peer| peer.write_all(b"x").unwrap(),
            |peer| peer.write_all(BOMB).unwrap(),
            |peer| peer.shutdown(Shutdown::Write).unwrap(),
            |peer| SockRef::from(&*peer).set_linger(Some(Duration::ZERO)).unwrap(),
        ];
        let mut peers = vec![net::connect(address)];
        for (n, end) in ends.iter().enumerate() {
            let mut peer = peers.pop().unwrap();
            net::turn_until(&event_loop, || is_greeted(&peer));
            read_greeting(&mut peer);
            let next = net::connect(address);
            net::wait_for_backlog(address, 1);
            (0..5).for_each(|_| turn(&event_loop));
            assert_eq!((server.counters().accepted, server.handshakes()), (n as u64 + 1, 1));
            end(&mut peer);
            if n + 1 == ends.len() {
                // The close sends a reset.
                drop(peer);
            } else {
                peers.push(peer);
            }
            net::turn_until(&event_loop, || is_greeted(&next));
            assert_eq!(server.counters().failed_handshakes, n as u64, "the first has been completed");
            peers.push(next);
        }
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn half_handshakes_end_at_the_handshake_timeout() {
    with_clock(|event_loop, clock| {
        let limits = ConnectionLimits::new().handshake_timeout(Duration::from_secs(5));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().filter(Knock::default);
        let server = server.limits(limits).max_handshakes(3).serve_fn(|_, _| ()).unwrap();
        let address = server.local_addr().unwrap();
        let peers: Vec<_> = (0..9).map(|_| net::connect(address)).collect();
        net::wait_for_backlog(address, 9);
        let settle = || (0..10).for_each(|_| turn(event_loop));
        settle();
        let counts = || counts(&server.handle());
        assert_eq!(counts(), (3, 3, 0));
        for round in 1..=3 {
            clock.advance(Duration::from_millis(4999));
            settle();
            assert_eq!(counts(), (3 * round, 3, 3 * (round - 1)));
            clock.advance(Duration::from_millis(1));
            settle();
            let left = if round < 3 { 3 } else { 0 };
            assert_eq!(counts(), (3 * round + left, left, 3 * round));
            assert_eq!(server.open_connections(), left);
        }
        drop(peers);
    });
}

#[test]
fn a_maximum_of_zero_handshakes_accepts_no_connection() {
    with_watchdog(LIMIT, || {
        let (host, handle) =
            host(Spread::OneLoop, |builder| builder.filter(Knock::default).max_handshakes(0));
        let peer = host.connect();
        host.assert_idle();
        assert!(!is_greeted(&peer));
        assert_eq!(counts(&handle), (0, 0, 0));
    });
}

/// Performs no handshake.
struct PassThrough;

impl Filter for PassThrough {}

#[test]
fn connections_without_a_handshake_do_not_reach_the_maximum() {
    with_watchdog(LIMIT, || {
        type Settings = for<'a> fn(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>;
        let settings: [Settings; 2] = [
            |builder| builder.max_handshakes(0).max_handshakes_per_address(0, Duration::from_secs(1)),
            |builder| builder.filter(|| PassThrough).max_handshakes(1),
        ];
        for spread in SPREADS {
            for settings in settings {
                let (host, handle) = host(spread, settings);
                let mut peers: Vec<_> = (0..5).map(|_| host.connect()).collect();
                peers.iter_mut().for_each(net::assert_echoes);
                assert_eq!(counts(&handle), (5, 0, 0), "{spread:?}");
                drop(peers);
                net::until(|| handle.open_connections() == 0);
                assert_eq!(counts(&handle), (5, 0, 0), "{spread:?}");
            }
        }
    });
}

// --- Together with the maximum of connections ----------------------------------------------------

#[test]
fn clients_wait_for_a_handshake_with_each_overflow_policy() {
    with_watchdog(LIMIT, || {
        for policy in [OverflowPolicy::Queue, OverflowPolicy::Reject] {
            let (host, handle) = host(Spread::OneLoop, move |builder| {
                builder.filter(Knock::default).max_connections(2).overflow_policy(policy).max_handshakes(1)
            });
            let mut first = host.connect();
            read_greeting(&mut first);
            let mut second = host.connect();
            host.assert_idle();
            assert_eq!(counts(&handle), (1, 1, 0), "{policy:?}");
            complete(&mut first);
            read_greeting(&mut second);
            complete(&mut second);
            let mut third = host.connect();
            match policy {
                OverflowPolicy::Reject => net::wait_for_end(&mut third),
                _ => {
                    host.assert_idle();
                    assert!(!is_greeted(&third));
                    drop(first);
                    read_greeting(&mut third);
                    complete(&mut third);
                }
            }
            let rejected = u64::from(policy == OverflowPolicy::Reject);
            assert_eq!(handle.counters().rejected_at_maximum, rejected);
            assert_eq!(counts(&handle), (3 - rejected, 0, 0));
        }
    });
}

/// Each client that completes its handshake is served, while others leave within theirs.
#[test]
fn connections_and_handshakes_at_their_maxima_starve_no_client() {
    with_watchdog(LIMIT, || {
        for (spread, connections) in SPREADS.into_iter().flat_map(|spread| [(spread, 2), (spread, 5)]) {
            const CALLERS: usize = 4;
            const CALLS: usize = 60;
            let (host, handle) = host(spread, move |builder| {
                builder.filter(Knock::default).max_connections(connections).max_handshakes(2)
            });
            let address = host.address();
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    thread::spawn(move || {
                        for call in 0..CALLS {
                            let mut peer = net::connect(address);
                            read_greeting(&mut peer);
                            match (caller + call) % 5 {
                                n @ 0..3 => fail(peer, FAILURES[n]),
                                _ => complete(&mut peer),
                            }
                        }
                    })
                })
                .collect();
            let mut peak = 0;
            while !callers.iter().all(thread::JoinHandle::is_finished) {
                peak = peak.max(handle.handshakes());
                thread::yield_now();
            }
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            net::until(|| handle.open_connections() == 0);
            let calls = (CALLERS * CALLS) as u64;
            assert_eq!(counts(&handle), (calls, 0, calls / 5 * 3), "{spread:?}");
            assert!(peak <= 2, "{peak} handshakes at the same time");
        }
    });
}

// --- Port scans and stops ------------------------------------------------------------------------

#[test]
fn a_thousand_port_scans_leave_nothing() {
    alone(|| {
        for spread in SPREADS {
            let (host, handle) = host(spread, |builder| builder.filter(Knock::default).max_handshakes(8));
            let before = net::open_descriptors();
            for n in 0..1000 {
                let scan = net::connect(host.address());
                if n % 2 == 0 {
                    net::reset(scan);
                }
                if n % 50 == 49 {
                    // A full backlog would lose some of them.
                    net::until(|| handle.counters().accepted == n + 1);
                }
            }
            net::until(|| handle.open_connections() == 0);
            assert_eq!(counts(&handle), (1000, 0, 1000), "{spread:?}");
            net::until(|| net::open_descriptors() == before);
            host.assert_idle();
            // All permits are free.
            let mut waiting: Vec<_> = (0..9).map(|_| host.connect()).collect();
            let mut greeted = take_greeted(&mut waiting, 8);
            complete(&mut greeted[0]);
            take_greeted(&mut waiting, 1);
        }
    });
}

#[test]
fn a_stop_during_handshakes_ends_at_once_and_reports() {
    with_watchdog(LIMIT, || {
        for (spread, within) in SPREADS.into_iter().flat_map(|spread| [(spread, 0), (spread, 3600)]) {
            let (host, handle) = host(spread, |builder| builder.filter(Knock::default).max_handshakes(4));
            let mut waiting: Vec<_> = (0..8).map(|_| host.connect()).collect();
            let greeted = take_greeted(&mut waiting, 4);
            let (report, reported) = mpsc::channel();
            handle.stop(Duration::from_secs(within), move |_, stopped| report.send(stopped).unwrap());
            let stopped = reported.recv_timeout(net::LIMIT).expect("a report");
            // A listener on another loop may accept one of the others before it is closed.
            let accepted = handle.counters().accepted;
            let expected = if within == 0 { (0, accepted) } else { (4, accepted - 4) };
            assert_eq!((stopped.ended_in_time, stopped.aborted), expected, "{spread:?}");
            assert_eq!(counts(&handle), (accepted, 0, 0), "{spread:?}");
            if let Spread::OneLoop = spread {
                assert_eq!(accepted, 4);
            }
            for mut peer in greeted.into_iter().chain(waiting) {
                net::wait_for_end(&mut peer);
            }
        }
    });
}

#[test]
fn dropping_a_server_during_handshakes_closes_them() {
    with_watchdog(LIMIT, || {
        for spread in SPREADS {
            let (host, handle) = host(spread, |builder| builder.filter(Knock::default));
            let mut peers: Vec<_> = (0..4).map(|_| host.connect()).collect();
            peers.iter_mut().for_each(read_greeting);
            assert_eq!(counts(&handle), (4, 4, 0), "{spread:?}");
            host.request(|_, server| drop(server.take()));
            peers.iter_mut().for_each(net::wait_for_end);
            net::until(|| handle.open_connections() == 0);
            assert_eq!(counts(&handle), (4, 0, 0), "{spread:?}");
        }
    });
}
