//! The limit of the memory that all connections buffer together. At the limit, the connections that
//! buffer most and progress least are closed, and the others are served.

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::support::net::reason;
use reveille::net::{SendError, ServerCounters};
use reveille::{ConnectionHandle, EventLoop, TcpServer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::net::{self, Child, End, Host, Journal, send_to_parent};
use support::{KIB, LIMIT, MIB, shortage, turn, with_loop, with_watchdog};

const BUDGET: usize = 1024 * KIB;

fn buffered(host: &Host) -> usize {
    host.request(|_, server| server.as_ref().expect("a server").buffered())
}

fn counters(host: &Host) -> ServerCounters {
    host.request(|_, server| server.as_ref().expect("a server").counters())
}

/// Peers that send as fast as they can and never read.
struct Flooders(Vec<TcpStream>);

impl Flooders {
    fn new(address: SocketAddr, peers: usize) -> Flooders {
        let peer = || {
            let peer = net::connect_with_small_receive_buffer(address);
            peer.set_nonblocking(true).unwrap();
            peer
        };
        Flooders((0..peers).map(|_| peer()).collect())
    }

    /// Lets each peer send as much as its socket accepts. Removes the peers whose connections are
    /// closed.
    fn flood(&mut self) {
        let piece = vec![b'f'; 64 * KIB];
        self.0.retain_mut(|peer| match peer.write(&piece) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
    }
}

/// Floods a host, and checks that it serves other clients at the same time.
fn assert_serves_others(host: &Host, peers: usize) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = host.connect();
                    let mut echoes = 0;
                    while !is_over.load(SeqCst) || echoes < 50 {
                        net::assert_echoes(&mut client);
                        echoes += 1;
                    }
                })
            })
            .collect();
        let mut flooders = Flooders::new(host.address(), peers);
        let (started, mut most) = (Instant::now(), 0);
        while counters(host).closed_for_memory < 3 && started.elapsed() < net::LIMIT {
            flooders.flood();
            most = most.max(buffered(host));
        }
        is_over.store(true, SeqCst);
        assert!(counters(host).closed_for_memory >= 3, "fewer than three connections were closed");
        assert!(!flooders.0.is_empty(), "all flooding connections were closed");
        // Each peer may exceed the limit by one message, in a block of twice its size at most.
        assert!(most <= BUDGET + peers * 128 * KIB, "{most} bytes were buffered");
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    net::until(|| host.open_connections() == 0);
    assert_eq!(buffered(host), 0);
}

#[test]
fn peers_that_do_not_read_are_closed_at_the_limit() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?)
                .max_buffered(BUDGET)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        assert_serves_others(&host, 12);
    });
}

#[test]
fn connections_of_several_loops_share_the_limit() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?)
                .max_buffered(BUDGET)
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        assert_serves_others(&host, 12);
    });
}

#[test]
fn the_connection_that_buffers_most_is_reset() {
    const SENDS: [usize; 4] = [700 * KIB, 250 * KIB, 350 * KIB, 400 * KIB];
    with_loop(|event_loop| {
        let journal = Journal::new();
        let server_journal = journal.clone();
        let server = net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap())
            .max_buffered(BUDGET)
            .serve(move |_| {
                let script = server_journal.script();
                let bytes = SENDS[script.number()];
                script.on_open(move |conn| Ok(conn.send_owned(vec![0; bytes])?))
            })
            .unwrap();
        let mut peers = Vec::new();
        for number in 0..SENDS.len() {
            peers.push(net::connect_with_small_receive_buffer(server.local_addr().unwrap()));
            net::turn_until(event_loop, || journal.handlers() > number);
        }
        net::turn_until(event_loop, || server.counters().closed_for_memory > 0);
        turn(event_loop);
        assert_eq!(journal.end_of(0), End::MemoryLimit);
        assert_eq!((server.open_connections(), server.counters().closed_for_memory), (3, 1));
        net::read_until_reset(&mut peers[0]);
        assert!(server.buffered() > 0 && server.buffered() <= BUDGET);
        drop(server);
    });
}

#[test]
fn unread_input_counts_towards_the_limit() {
    const PIECES: [usize; 4] = [500 * KIB, 250 * KIB, 200 * KIB, 250 * KIB];
    with_watchdog(LIMIT, || {
        // A message ends with a full stop. So does its reply.
        let journal = Journal::new();
        let server_journal = journal.clone();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.max_buffered(BUDGET).serve(move |_| {
                server_journal.script().terse().on_message(|conn, input| {
                    if input.readable().ends_with(b".") {
                        input.clear();
                        conn.send(b".").unwrap();
                    }
                })
            })
        });
        let mut clients: Vec<_> = PIECES
            .iter()
            .map(|&bytes| {
                let before = buffered(&host);
                let mut client = host.connect();
                client.write_all(&vec![b'-'; bytes]).unwrap();
                net::until(|| buffered(&host) >= before + bytes || counters(&host).closed_for_memory > 0);
                client
            })
            .collect();
        assert_eq!(journal.end_of(0), End::MemoryLimit);
        net::read_until_reset(&mut clients[0]);
        for client in &mut clients[1..] {
            assert_eq!(net::exchange(client, b"."), b".");
        }
        net::until(|| buffered(&host) == 0);
        assert_eq!(counters(&host).closed_for_memory, 1);
    });
}

#[test]
fn bytes_in_mailboxes_of_handles_count_towards_the_limit() {
    with_watchdog(LIMIT, || {
        let (sender, receiver) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            let journal = Journal::new();
            net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?)
                .max_buffered(BUDGET)
                .serve(move |_| {
                    let sender = sender.clone();
                    journal.script().on_open(move |conn| sender.send(conn.handle()).unwrap())
                })
        });
        let peers: Vec<_> = (0..3).map(|_| net::connect_with_small_receive_buffer(host.address())).collect();
        let handles: Vec<ConnectionHandle> =
            (0..3).map(|_| receiver.recv_timeout(net::LIMIT).unwrap()).collect();
        // A task that blocks the loop until `release` is dropped.
        let (release, released) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let blocking = move |_: &EventLoop| {
            started.send(()).unwrap();
            let _ = released.recv_timeout(net::LIMIT);
        };
        host.handle().queue_in_loop(blocking).unwrap();
        has_started.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(reason(handles[0].send(vec![0; 700 * KIB])), Ok(()));
        assert_eq!(reason(handles[1].send(vec![0; 600 * KIB])), Ok(()));
        assert_eq!(
            reason(handles[2].send(vec![0; 800 * KIB])),
            Err(SendError::Full),
            "above twice the limit"
        );
        drop(release);
        net::until(|| counters(&host).closed_for_memory > 0);
        net::until(|| host.open_connections() == 2);
        assert_eq!(counters(&host).closed_for_memory, 1);
        assert!(!handles[0].is_open() && handles[1].is_open());
        drop(peers);
        net::until(|| host.open_connections() == 0);
        assert_eq!(buffered(&host), 0);
    });
}

#[test]
fn near_the_limit_a_connection_queues_fewer_replies() {
    const LARGE: usize = 8 * MIB;
    const HIGH: usize = 4 * MIB;
    with_loop(|event_loop| {
        let unsent = Rc::new(Cell::new(0));
        let latest_unsent = Rc::clone(&unsent);
        let journal = Journal::new();
        let server = net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap())
            .max_buffered(LARGE)
            .serve(move |_| {
                let latest_unsent = Rc::clone(&latest_unsent);
                let script = journal.script();
                let is_first = script.number() == 0;
                script
                    .terse()
                    .on_open(move |conn| {
                        if is_first {
                            conn.send_owned(vec![0; LARGE - LARGE / 8]).unwrap();
                        }
                    })
                    .on_message(move |conn, input| {
                        conn.send(input.take_all()).unwrap();
                        latest_unsent.set(conn.unsent());
                    })
            })
            .unwrap();
        let idle = net::connect_with_small_receive_buffer(server.local_addr().unwrap());
        net::turn_until(event_loop, || server.buffered() > LARGE - LARGE / 4);
        let mut peer = Flooders::new(server.local_addr().unwrap(), 1);
        let mut quiet_turns = 0;
        net::turn_until(event_loop, || {
            let before = unsent.replace(0);
            peer.flood();
            turn(event_loop);
            quiet_turns = if unsent.get() == 0 { quiet_turns + 1 } else { 0 };
            if unsent.get() == 0 {
                unsent.set(before);
            }
            unsent.get() > 0 && quiet_turns == 50
        });
        assert!(unsent.get() > HIGH / 16 && unsent.get() <= HIGH / 16 + 64 * KIB, "{}", unsent.get());
        assert_eq!(server.counters().closed_for_memory, 0);
        drop(idle);
    });
}

/// The child process: two servers without a limit of their own, in a process with a low limit of
/// memory.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    let Some(role) = net::role() else { return };
    shortage::count_warnings();
    let current = Some(role.parse().unwrap());
    setrlimit(Resource::Data, Rlimit { current, maximum: getrlimit(Resource::Data).maximum }).unwrap();
    let echo = |event_loop: &EventLoop| {
        net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .serve_fn(|conn, input| conn.send(input.take_all()))
    };
    let hosts = [Host::new(echo), Host::new(echo)];
    send_to_parent(format!("{} {}", hosts[0].address(), hosts[1].address()));
    for _ in std::io::stdin().lines() {
        let held: usize = hosts.iter().map(buffered).sum();
        let closed: u64 = hosts.iter().map(|host| counters(host).closed_for_memory).sum();
        send_to_parent(format!("{held} {closed} {}", shortage::warnings()));
    }
}

#[test]
fn servers_without_own_limits_share_the_limit_of_the_process() {
    const MEMORY_LIMIT: usize = 64 * MIB;
    const PEERS: usize = 100;
    with_watchdog(LIMIT, || {
        let started = Instant::now();
        let mut child = Child::start(&MEMORY_LIMIT.to_string());
        let addresses: Vec<SocketAddr> =
            child.next_reply().split(' ').map(|address| address.parse().unwrap()).collect();
        let mut floods: Vec<_> = addresses.iter().map(|&address| Flooders::new(address, PEERS / 2)).collect();
        let mut clients: Vec<_> = addresses.iter().map(|&address| net::connect(address)).collect();
        loop {
            assert!(
                started.elapsed() < net::LIMIT,
                "too few connections were closed, or no warning was logged"
            );
            floods.iter_mut().for_each(Flooders::flood);
            clients.iter_mut().for_each(net::assert_echoes);
            let counts: Vec<u64> =
                child.request("counts").split(' ').map(|number| number.parse().unwrap()).collect();
            let [held, closed, warnings] = counts[..] else { panic!("not three counts: {counts:?}") };
            assert!(held as usize <= MEMORY_LIMIT / 4 + PEERS * 128 * KIB, "{held} bytes were buffered");
            if closed > 3 && warnings > 0 {
                assert!(warnings <= 1 + started.elapsed().as_secs(), "{warnings} warnings were logged");
                break;
            }
        }
        assert!(floods.iter().any(|flood| !flood.0.is_empty()));
        let mut peer = floods.remove(0).0.remove(0);
        // The remaining connections still work.
        let _ = peer.read(&mut [0; 1]);
        clients.iter_mut().for_each(net::assert_echoes);
    });
}
