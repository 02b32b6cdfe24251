//! What all connections may hold together: those that hold most and progress least are closed at
//! the limit, and the others are served.

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use reveille::net::{SendError, ServerCounters};
use reveille::{ConnectionHandle, EventLoop, TcpServer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::net::{self, Child, End, Host, Journal, answer};
use support::{KIB, LIMIT, MIB, shortage, turn, with_loop, with_watchdog};

const BUDGET: usize = 1024 * KIB;

fn buffered(host: &Host) -> usize {
    host.ask(|_, server| server.as_ref().expect("a server").buffered())
}

fn counters(host: &Host) -> ServerCounters {
    host.ask(|_, server| server.as_ref().expect("a server").counters())
}

/// Peers that send as fast as they can and never read.
struct Flooders(Vec<TcpStream>);

impl Flooders {
    fn new(address: SocketAddr, peers: usize) -> Flooders {
        let peer = || {
            let peer = net::connect_with_little_room(address);
            peer.set_nonblocking(true).unwrap();
            peer
        };
        Flooders((0..peers).map(|_| peer()).collect())
    }

    /// Has each of them send as much as goes. Those that have been closed are gone afterwards.
    fn flood(&mut self) {
        let piece = vec![b'f'; 64 * KIB];
        self.0.retain_mut(|peer| match peer.write(&piece) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
    }
}

/// Floods a host, with clients beside that are to be served all the time.
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
        assert!(counters(host).closed_for_memory >= 3, "none is closed");
        assert!(!flooders.0.is_empty(), "one by one, and not all of them");
        // With what one message of each peer leads to, in blocks that are twice as large at most.
        assert!(most <= BUDGET + peers * 128 * KIB, "{most} bytes");
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    net::until(|| host.open_connections() == 0);
    assert_eq!(buffered(host), 0);
}

#[test]
fn peers_that_do_not_read_are_closed_at_the_limit_and_others_are_served() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0")?)
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
            net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0")?)
                .max_buffered(BUDGET)
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        assert_serves_others(&host, 12);
    });
}

#[test]
fn the_one_that_holds_most_is_reset_with_a_reason_of_its_own() {
    const SENDS: [usize; 4] = [700 * KIB, 250 * KIB, 350 * KIB, 400 * KIB];
    with_loop(|event_loop| {
        let journal = Journal::new();
        let written = journal.clone();
        let server = net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap())
            .max_buffered(BUDGET)
            .serve(move |_| {
                let script = written.script();
                let bytes = SENDS[script.number()];
                script.on_open(move |conn| conn.send_owned(vec![0; bytes]))
            })
            .unwrap();
        let mut peers = Vec::new();
        for number in 0..SENDS.len() {
            peers.push(net::connect_with_little_room(server.local_addr().unwrap()));
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
fn what_handlers_leave_unread_counts_too() {
    const PIECES: [usize; 4] = [500 * KIB, 250 * KIB, 200 * KIB, 250 * KIB];
    with_watchdog(LIMIT, || {
        // Messages end with a full stop, and are answered with one.
        let journal = Journal::new();
        let written = journal.clone();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.max_buffered(BUDGET).serve(move |_| {
                written.script().terse().on_message(|conn, input| {
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
fn what_waits_in_the_mailboxes_of_handles_counts_too() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            let journal = Journal::new();
            net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0")?).max_buffered(BUDGET).serve(
                move |_| {
                    let give = give.clone();
                    journal.script().on_open(move |conn| give.send(conn.handle()).unwrap())
                },
            )
        });
        let peers: Vec<_> = (0..3).map(|_| net::connect_with_little_room(host.address())).collect();
        let handles: Vec<ConnectionHandle> =
            (0..3).map(|_| given.recv_timeout(net::LIMIT).unwrap()).collect();
        let (release, held) = mpsc::channel::<()>();
        let (hold, holds) = mpsc::channel();
        let holding = move |_: &EventLoop| {
            hold.send(()).unwrap();
            let _ = held.recv_timeout(net::LIMIT);
        };
        host.handle().queue_in_loop(holding).unwrap();
        holds.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(handles[0].send(vec![0; 700 * KIB]), Ok(()));
        assert_eq!(handles[1].send(vec![0; 600 * KIB]), Ok(()));
        assert_eq!(handles[2].send(vec![0; 800 * KIB]), Err(SendError::Full), "twice the limit");
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
fn while_memory_is_scarce_a_connection_keeps_less_of_its_replies() {
    const LARGE: usize = 8 * MIB;
    const HIGH: usize = 4 * MIB;
    with_loop(|event_loop| {
        let unsent = Rc::new(Cell::new(0));
        let noted = Rc::clone(&unsent);
        let journal = Journal::new();
        let server = net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap())
            .max_buffered(LARGE)
            .serve(move |_| {
                let noted = Rc::clone(&noted);
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
                        noted.set(conn.unsent());
                    })
            })
            .unwrap();
        let idle = net::connect_with_little_room(server.local_addr().unwrap());
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

/// The child: two servers without a limit of their own, in a process that may have little memory.
#[test]
#[ignore = "is run in a process of its own by the test below"]
fn child_role() {
    let Some(role) = net::role() else { return };
    shortage::count_warnings();
    let current = Some(role.parse().unwrap());
    setrlimit(Resource::Data, Rlimit { current, maximum: getrlimit(Resource::Data).maximum }).unwrap();
    let echo = |event_loop: &EventLoop| {
        net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .serve_fn(|conn, input| conn.send(input.take_all()))
    };
    let hosts = [Host::new(echo), Host::new(echo)];
    answer(format!("{} {}", hosts[0].address(), hosts[1].address()));
    for _ in std::io::stdin().lines() {
        let held: usize = hosts.iter().map(buffered).sum();
        let closed: u64 = hosts.iter().map(|host| counters(host).closed_for_memory).sum();
        answer(format!("{held} {closed} {}", shortage::warnings()));
    }
}

#[test]
fn servers_without_a_limit_of_their_own_share_a_part_of_the_process_memory() {
    const MAY_USE: usize = 64 * MIB;
    const PEERS: usize = 100;
    with_watchdog(LIMIT, || {
        let started = Instant::now();
        let mut child = Child::start(&MAY_USE.to_string());
        let addresses: Vec<SocketAddr> =
            child.hear().split(' ').map(|address| address.parse().unwrap()).collect();
        let mut floods: Vec<_> = addresses.iter().map(|&address| Flooders::new(address, PEERS / 2)).collect();
        let mut clients: Vec<_> = addresses.iter().map(|&address| net::connect(address)).collect();
        loop {
            assert!(started.elapsed() < net::LIMIT, "none is closed");
            floods.iter_mut().for_each(Flooders::flood);
            clients.iter_mut().for_each(net::assert_echoes);
            let told: Vec<u64> =
                child.ask("how much?").split(' ').map(|number| number.parse().unwrap()).collect();
            let [held, closed, warnings] = told[..] else { panic!("{told:?}") };
            assert!(held as usize <= MAY_USE / 4 + PEERS * 128 * KIB, "{held} bytes");
            if closed > 3 && warnings > 0 {
                assert!(warnings <= 1 + started.elapsed().as_secs(), "{warnings} warnings");
                break;
            }
        }
        assert!(floods.iter().any(|flood| !flood.0.is_empty()));
        let mut peer = floods.remove(0).0.remove(0);
        // Those that are left are as well as before, if slow.
        let _ = peer.read(&mut [0; 1]);
        clients.iter_mut().for_each(net::assert_echoes);
    });
}
