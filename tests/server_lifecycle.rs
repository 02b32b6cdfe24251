//! How servers begin, count and are dropped: addresses, the connections that are open, and a drop
//! at any time and in any order. An orderly stop is in `server_stop.rs`.

mod support;

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use reveille::net::SendError;
use reveille::{ConnectionHandle, EventLoop, TcpServer};
use support::client::Refusing;
use support::net::{self, End, Host, Journal, Told, scripted_over};
use support::{LIMIT, with_loop, with_watchdog};

// --- Addresses
// ------------------------------------------------------------------------------------

#[test]
fn a_server_on_port_0_says_which_port_it_has() {
    with_loop(|event_loop| {
        let bind = |address| {
            TcpServer::bind(event_loop, address)
                .unwrap()
                .serve_fn(|_, _| ())
                .expect("an address that is free")
        };
        let server = bind("127.0.0.1:0");
        assert_ne!(server.local_addr().port(), 0);
        assert!(server.local_addr().ip().is_loopback());
        // It listens already, though its loop does not run.
        net::connect(server.local_addr());
    });
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    with_loop(|event_loop| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error =
            TcpServer::bind(event_loop, address).unwrap().serve_fn(|_, _| ()).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        let over_threads = TcpServer::bind(event_loop, address).unwrap().threads(2);
        let error = over_threads.serve_fn(|_, _| ()).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn zero_threads_are_an_error_when_the_server_is_built() {
    with_loop(|event_loop| {
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().threads(0);
        let error = builder.serve_fn(|_, _| ()).expect_err("no thread");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn of_several_addresses_the_first_that_is_free_is_taken() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let addresses = [taken, SocketAddr::from(([127, 0, 0, 1], 0))];
        let server = TcpServer::bind(event_loop, &addresses[..]).unwrap().serve_fn(|_, _| ()).unwrap();
        assert_ne!(server.local_addr(), taken);
        drop(listener);
        let nowhere: &[SocketAddr] = &[];
        let error = TcpServer::bind(event_loop, nowhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = TcpServer::bind(event_loop, "127.0.0.1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_port_is_free_again_when_its_server_is_dropped() {
    with_watchdog(LIMIT, || {
        let place = Arc::new(Refusing::new());
        let address = place.address();
        let journal = Journal::new();
        let written = journal.clone();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, address)?
                .serve(move |_| written.script().on_open(|conn| conn.shutdown()))
        });
        for number in 0..3 {
            // This end has finished first, so the address lingers in TIME-WAIT.
            let mut client = net::connect(address);
            assert_eq!(net::read_to_end(&mut client), b"");
            drop(client);
            journal.end_of(number);
            let (written, place) = (journal.clone(), Arc::clone(&place));
            host.ask(move |event_loop, server| {
                *server = None;
                place.assert_refuses();
                let next = TcpServer::bind(event_loop, address)
                    .unwrap()
                    .serve(move |_| written.script().on_open(|conn| conn.shutdown()));
                *server = Some(next.expect("the port is free"));
            });
        }
    });
}

/// The loop does not turn meanwhile, so nobody is accepted.
#[test]
fn as_many_connections_may_wait_as_the_backlog_says() {
    with_loop(|event_loop| {
        let listen = |backlog: Option<i32>| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            let builder = if let Some(backlog) = backlog { builder.backlog(backlog) } else { builder };
            builder.serve_fn(|_, _| ()).unwrap()
        };
        let short = listen(Some(2));
        // The kernel lets one more wait than it is told.
        let waiting: Vec<_> = (0..3).map(|_| net::connect(short.local_addr())).collect();
        let refused = TcpStream::connect_timeout(&short.local_addr(), Duration::from_millis(50));
        assert_eq!(refused.expect_err("no room").kind(), io::ErrorKind::TimedOut);
        drop(waiting);

        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let usual = listen(None);
        // More than the 128 that are usual elsewhere, unless this system does not allow it.
        let many = most.trim().parse::<usize>().unwrap().min(300);
        let waiting: Vec<_> = (0..many).map(|_| net::connect(usual.local_addr())).collect();
        drop(waiting);
    });
}

// --- Counts
// ---------------------------------------------------------------------------------------

#[test]
fn the_open_connections_are_counted_on_one_loop_and_on_several() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_over(threads, |script| script);
            assert_eq!(host.open_connections(), 0);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            assert_eq!(host.open_connections(), 6);
            // One after the other, each in a way of its own.
            net::reset(clients.pop().unwrap());
            net::until(|| host.open_connections() == 5);
            clients[0].shutdown(Shutdown::Write).unwrap();
            net::until(|| host.open_connections() == 4);
            drop(clients);
            net::until(|| host.open_connections() == 0);
            drop(host);
            journal.assert_whole_lives(6);
        }
    });
}

#[test]
fn connections_on_their_way_to_a_loop_are_counted() {
    with_watchdog(LIMIT, || {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (host, _journal) = scripted_over(2, move |script| {
            // Both loops wait in their first connection.
            let _ = held.lock().unwrap().recv_timeout(net::LIMIT);
            script
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        net::until(|| host.open_connections() == 6);
        drop(release);
        clients.iter_mut().for_each(net::assert_echoes);
        assert_eq!(host.open_connections(), 6);
    });
}

// --- Drop
// -----------------------------------------------------------------------------------------

#[test]
fn a_server_that_is_dropped_closes_its_connections() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_over(threads, |script| script);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            host.ask(|_, server| *server = None);
            for (number, client) in clients.iter_mut().enumerate() {
                assert_eq!(net::read_to_end(client), b"");
                assert_eq!(journal.end_of(number), End::Stopped);
            }
            // The loop itself goes on.
            host.ask(|_, _| ());
            drop(host);
            journal.assert_whole_lives(6);
        }
    });
}

#[test]
fn a_server_over_several_loops_has_told_all_when_its_drop_returns() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_over(3, |script| script);
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        let told = journal.clone();
        host.ask(move |_, server| {
            *server = None;
            for number in 0..6 {
                assert_eq!(told.of(number).last(), Some(&Told::Close(End::Stopped)));
            }
        });
    });
}

/// The callback is given by its name: in which of a connection's calls its server goes.
#[test]
fn a_server_may_be_dropped_in_a_callback_of_its_own_connection() {
    for place in ["factory", "on_open", "on_message", "on_drained", "on_peer_shutdown", "on_close"] {
        with_loop(move |event_loop| {
            let journal = Journal::new();
            let kept = Rc::new(RefCell::new(None));
            let (writing, dropping) = (journal.clone(), Rc::clone(&kept));
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| {
                let kept = Rc::clone(&dropping);
                let script = writing.script();
                if script.number() > 0 {
                    return script;
                }
                let drop_server = move || drop(kept.borrow_mut().take());
                if place == "factory" {
                    drop_server();
                    return script;
                }
                match place {
                    "on_open" => script.on_open(move |_| drop_server()),
                    "on_message" => script.on_message(move |_, _| drop_server()),
                    "on_drained" => {
                        script.on_open(|conn| conn.notify_drained()).on_drained(move |_| drop_server())
                    }
                    "on_peer_shutdown" => script.on_peer_shutdown(move |_| drop_server()),
                    _ => script.on_close(move |_, _| drop_server()),
                }
            });
            let address = server.as_ref().unwrap().local_addr();
            *kept.borrow_mut() = Some(server.unwrap());
            let mut client = net::connect(address);
            let mut other = net::connect(address);
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::turn_until(event_loop, || kept.borrow().is_none());
            // What it causes is over after the turn in which it happened and the next.
            support::turn(event_loop);
            support::turn(event_loop);
            net::wait_for_end(&mut client);
            net::wait_for_end(&mut other);
            assert_eq!(event_loop.handle().counters().panics, 0, "dropped in {place}");
            if place == "factory" {
                assert_eq!(journal.handlers(), 1, "the listener is closed by then");
                assert_eq!(journal.of(0), [Told::Close(End::Stopped)]);
            } else {
                journal.assert_whole_lives(journal.handlers());
            }
        });
    }
}

#[test]
fn a_server_dropped_while_connections_are_on_their_way_loses_none_of_them() {
    with_watchdog(LIMIT, || {
        for _ in 0..20 {
            let (host, journal) = scripted_over(2, |script| script);
            let mut clients: Vec<_> = (0..10).map(|_| host.connect()).collect();
            host.ask(|_, server| *server = None);
            clients.iter_mut().for_each(net::wait_for_end);
            drop(host);
            // However many got there, each of them was told both.
            journal.assert_whole_lives(journal.handlers());
        }
    });
}

/// Everything that there is, dropped in every order.
#[test]
fn loop_server_handle_and_client_may_go_in_any_order() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            for order in permutations(["loop", "server", "handle", "client"]) {
                let journal = Journal::new();
                let writing = journal.clone();
                let (give, given) = mpsc::channel::<ConnectionHandle>();
                let give = Mutex::new(give);
                let event_loop = EventLoop::new().unwrap();
                let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().threads(threads).serve(
                    move |conn| {
                        give.lock().unwrap().send(conn.handle()).unwrap();
                        writing.script()
                    },
                );
                let server = server.unwrap();
                let client = net::connect(server.local_addr());
                let mut handle = None;
                net::turn_until(&event_loop, || {
                    handle = given.try_recv().ok();
                    handle.is_some()
                });
                journal.wait_for(0, |told| *told == Told::Open);
                let loop_handle = event_loop.handle();
                let mut things = (Some(event_loop), Some(server), handle, Some(client));
                for thing in order {
                    match thing {
                        "loop" => things.0 = None,
                        "server" => things.1 = None,
                        "handle" => {
                            let sent = things.2.take().unwrap().send("still there?");
                            let served_here = threads == 1;
                            let loop_gone = things.0.is_none();
                            if loop_gone && (served_here || things.1.is_none()) {
                                assert_eq!(sent, Err(SendError::Closed), "{order:?}");
                            }
                        }
                        _ => things.3 = None,
                    }
                }
                assert_eq!(loop_handle.counters().panics, 0, "{order:?}");
                journal.assert_whole_lives(1);
            }
        }
    });
}

fn permutations(things: [&'static str; 4]) -> Vec<[&'static str; 4]> {
    let mut all = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                all.push([things[a], things[b], things[c], things[6 - a - b - c]]);
            }
        }
    }
    assert_eq!(all.len(), 24);
    all
}
