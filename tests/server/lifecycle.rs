//! The life of a server: bind addresses, counts of open connections, and drops at any time and in
//! any order. `stop.rs` tests an orderly stop.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::client::Refusing;
use crate::support::net::{self, End, HandlerCall, Host, Journal, reason, scripted_with_threads};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::net::SendError;
use reveille::{ConnectionHandle, EventLoop, TcpServer};

// --- Addresses -----------------------------------------------------------------------------------

#[test]
fn a_server_on_port_0_reports_its_real_port() {
    with_loop(|event_loop| {
        let bind = |address| {
            TcpServer::bind(event_loop, address).unwrap().serve_fn(|_, _| ()).expect("a free address")
        };
        let server = bind("127.0.0.1:0");
        assert_ne!(server.local_addr().unwrap().port(), 0);
        assert!(server.local_addr().unwrap().ip().is_loopback());
        // The server listens before its loop runs.
        net::connect(server.local_addr().unwrap());
    });
}

#[test]
fn binding_an_address_in_use_names_it_in_the_error() {
    with_loop(|event_loop| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = TcpServer::bind(event_loop, address)
            .unwrap()
            .serve_fn(|_, _| ())
            .expect_err("the address was bound twice");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        let over_threads = TcpServer::bind(event_loop, address).unwrap().threads(2);
        let error = over_threads.serve_fn(|_, _| ()).expect_err("the address was bound twice");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn zero_threads_are_an_error_when_the_server_is_built() {
    with_loop(|event_loop| {
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().threads(0);
        let error = builder.serve_fn(|_, _| ()).expect_err("zero threads were accepted");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_server_binds_the_first_free_address() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let addresses = [taken, SocketAddr::from(([127, 0, 0, 1], 0))];
        let server = TcpServer::bind(event_loop, &addresses[..]).unwrap().serve_fn(|_, _| ()).unwrap();
        assert_ne!(server.local_addr().unwrap(), taken);
        drop(listener);
        let nowhere: &[SocketAddr] = &[];
        let error = TcpServer::bind(event_loop, nowhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = TcpServer::bind(event_loop, "127.0.0.1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn dropping_a_server_frees_its_port() {
    with_watchdog(LIMIT, || {
        let refusing = Arc::new(Refusing::new());
        let address = refusing.address();
        let journal = Journal::new();
        let written = journal.clone();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, address)?
                .serve(move |_| written.script().on_open(|conn| conn.shutdown()))
        });
        for number in 0..3 {
            // The server has closed first, so its address stays in TIME-WAIT.
            let mut client = net::connect(address);
            assert_eq!(net::read_to_end(&mut client), b"");
            drop(client);
            journal.end_of(number);
            let (written, refusing) = (journal.clone(), Arc::clone(&refusing));
            host.request(move |event_loop, server| {
                *server = None;
                refusing.assert_refuses();
                let next = TcpServer::bind(event_loop, address)
                    .unwrap()
                    .serve(move |_| written.script().on_open(|conn| conn.shutdown()));
                *server = Some(next.expect("a free port"));
            });
        }
    });
}

/// The loop does not turn, so no connection is accepted.
#[test]
fn the_backlog_limits_waiting_connections() {
    with_loop(|event_loop| {
        let listen = |backlog: Option<u32>| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            let builder = if let Some(backlog) = backlog { builder.backlog(backlog) } else { builder };
            builder.serve_fn(|_, _| ()).unwrap()
        };
        let short = listen(Some(2));
        // The kernel queues one connection more than the backlog.
        let waiting: Vec<_> = (0..3).map(|_| net::connect(short.local_addr().unwrap())).collect();
        net::wait_for_backlog(short.local_addr().unwrap(), 3);
        let refused = TcpStream::connect_timeout(&short.local_addr().unwrap(), Duration::from_millis(50));
        assert_eq!(refused.expect_err("the backlog exceeded its limit").kind(), io::ErrorKind::TimedOut);
        drop(waiting);

        let maximum = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let default_backlog = listen(None);
        // More than 128, the default elsewhere, unless the limit of this system is lower.
        let waiting_count = maximum.trim().parse::<usize>().unwrap().min(300);
        let waiting: Vec<_> =
            (0..waiting_count).map(|_| net::connect(default_backlog.local_addr().unwrap())).collect();
        drop(waiting);
    });
}

// --- Counts --------------------------------------------------------------------------------------

#[test]
fn open_connections_are_counted_on_one_and_several_loops() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_with_threads(threads, |script| script);
            assert_eq!(host.open_connections(), 0);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            assert_eq!(host.open_connections(), 6);
            // Each connection ends in a different way.
            net::reset(clients.pop().unwrap());
            net::until(|| host.open_connections() == 5);
            clients[0].shutdown(Shutdown::Write).unwrap();
            net::until(|| host.open_connections() == 4);
            drop(clients);
            net::until(|| host.open_connections() == 0);
            drop(host);
            journal.assert_opened_and_closed_once(6);
        }
    });
}

#[test]
fn connections_in_transit_to_a_loop_are_counted() {
    with_watchdog(LIMIT, || {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let (host, _journal) = scripted_with_threads(2, move |script| {
            // Both loops block in the factory call of their first connection.
            let _ = released.lock().unwrap().recv_timeout(net::LIMIT);
            script
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        net::until(|| host.open_connections() == 6);
        drop(release);
        clients.iter_mut().for_each(net::assert_echoes);
        assert_eq!(host.open_connections(), 6);
    });
}

// --- Drop ----------------------------------------------------------------------------------------

#[test]
fn dropping_a_server_closes_its_connections() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_with_threads(threads, |script| script);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            host.request(|_, server| *server = None);
            for (number, client) in clients.iter_mut().enumerate() {
                assert_eq!(net::read_to_end(client), b"");
                assert_eq!(journal.end_of(number), End::Stopped);
            }
            // The loop itself keeps running.
            host.request(|_, _| ());
            drop(host);
            journal.assert_opened_and_closed_once(6);
        }
    });
}

#[test]
fn a_drop_over_several_loops_returns_after_all_closes() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with_threads(3, |script| script);
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        let closes = journal.clone();
        host.request(move |_, server| {
            *server = None;
            for number in 0..6 {
                assert_eq!(closes.of(number).last(), Some(&HandlerCall::Close(End::Stopped)));
            }
        });
    });
}

/// Each case names the callback of the connection that drops the server.
#[test]
fn a_server_may_be_dropped_in_its_connections_callbacks() {
    for callback in ["factory", "on_open", "on_message", "on_drained", "on_peer_shutdown", "on_close"] {
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
                if callback == "factory" {
                    drop_server();
                    return script;
                }
                match callback {
                    "on_open" => script.on_open(move |_| drop_server()),
                    "on_message" => script.on_message(move |_, _| drop_server()),
                    "on_drained" => {
                        script.on_open(|conn| conn.notify_drained()).on_drained(move |_| drop_server())
                    }
                    "on_peer_shutdown" => script.on_peer_shutdown(move |_| drop_server()),
                    _ => script.on_close(move |_, _| drop_server()),
                }
            });
            let address = server.as_ref().unwrap().local_addr().unwrap();
            *kept.borrow_mut() = Some(server.unwrap());
            let mut client = net::connect(address);
            let mut other = net::connect(address);
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::turn_until(event_loop, || kept.borrow().is_none());
            // The effects of the drop are complete after the current turn and the next one.
            crate::support::turn(event_loop);
            crate::support::turn(event_loop);
            net::wait_for_end(&mut client);
            net::wait_for_end(&mut other);
            assert_eq!(event_loop.handle().counters().panics, 0, "the server was dropped in {callback}");
            if callback == "factory" {
                assert_eq!(journal.handlers(), 1, "a connection was accepted after the drop");
                assert_eq!(journal.of(0), [HandlerCall::Close(End::Stopped)]);
            } else {
                journal.assert_opened_and_closed_once(journal.handlers());
            }
        });
    }
}

#[test]
fn dropping_a_server_loses_no_connection_in_transit() {
    with_watchdog(LIMIT, || {
        for _ in 0..20 {
            let (host, journal) = scripted_with_threads(2, |script| script);
            let mut clients: Vec<_> = (0..10).map(|_| host.connect()).collect();
            host.request(|_, server| *server = None);
            clients.iter_mut().for_each(net::wait_for_end);
            drop(host);
            // Every connection that arrived gets its on_open and its on_close.
            journal.assert_opened_and_closed_once(journal.handlers());
        }
    });
}

/// All four objects are dropped, in every order.
#[test]
fn loop_server_handle_and_client_drop_in_any_order() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            for order in permutations(["loop", "server", "handle", "client"]) {
                let journal = Journal::new();
                let writing = journal.clone();
                let (sender, handles) = mpsc::channel::<ConnectionHandle>();
                let sender = Mutex::new(sender);
                let event_loop = EventLoop::new().unwrap();
                let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().threads(threads).serve(
                    move |conn| {
                        sender.lock().unwrap().send(conn.handle()).unwrap();
                        writing.script()
                    },
                );
                let server = server.unwrap();
                let client = net::connect(server.local_addr().unwrap());
                let mut handle = None;
                net::turn_until(&event_loop, || {
                    handle = handles.try_recv().ok();
                    handle.is_some()
                });
                journal.wait_for(0, |event| *event == HandlerCall::Open);
                let loop_handle = event_loop.handle();
                let mut objects = (Some(event_loop), Some(server), handle, Some(client));
                for object in order {
                    match object {
                        "loop" => objects.0 = None,
                        "server" => objects.1 = None,
                        "handle" => {
                            let sent = objects.2.take().unwrap().send("still there?");
                            let served_here = threads == 1;
                            let loop_gone = objects.0.is_none();
                            if loop_gone && (served_here || objects.1.is_none()) {
                                assert_eq!(reason(sent), Err(SendError::Closed), "{order:?}");
                            }
                        }
                        _ => objects.3 = None,
                    }
                }
                assert_eq!(loop_handle.counters().panics, 0, "{order:?}");
                journal.assert_opened_and_closed_once(1);
            }
        }
    });
}

fn permutations(items: [&'static str; 4]) -> Vec<[&'static str; 4]> {
    let mut all = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                all.push([items[a], items[b], items[c], items[6 - a - b - c]]);
            }
        }
    }
    assert_eq!(all.len(), 24);
    all
}
