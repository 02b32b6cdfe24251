//! Dropped, stopped and closed objects are silent: when the call returns, only the final callback
//! is still to come, and the address is free. The tests make further callbacks ready in the same
//! turn.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::support::clock::HOUR;
use crate::support::net::{self, End, HandlerCall, Host, Journal, Script};
use crate::support::unix::{self, Folder};
use crate::support::{Count, LIMIT, udp, with_loop, with_watchdog};
use reveille::fs::{FileChanges, Watcher};
use reveille::ipc::SharedRing;
use reveille::net::{Address, LoadBalancing, UnixAddress};
use reveille::signal::{Signal, Signals};
use reveille::{ConnectionHandle, EventFd, EventLoop, TcpConnection, TcpServer, UdpSocket};

type Kept<T> = Rc<RefCell<Vec<T>>>;

/// A server with `number` open connections, and their clients.
fn open_connections(
    event_loop: &EventLoop,
    number: usize,
    script: impl Fn(&TcpConnection<'_>, Script) -> Script + 'static,
) -> (TcpServer, Journal, Vec<TcpStream>) {
    let journal = Journal::new();
    let writing = journal.clone();
    let server = TcpServer::bind(event_loop, "127.0.0.1:0")
        .unwrap()
        .serve(move |conn| script(conn, writing.script()))
        .unwrap();
    let clients: Vec<_> = (0..number).map(|_| net::connect(server.local_addr().unwrap())).collect();
    net::turn_until(event_loop, || journal.handlers() == number);
    (server, journal, clients)
}

/// Makes all connections readable in one turn, and turns until each of them is closed.
#[track_caller]
fn assert_one_message_then_closes(
    event_loop: &EventLoop,
    journal: &Journal,
    clients: &[TcpStream],
    end: &End,
) {
    for mut client in clients {
        client.write_all(b"x").unwrap();
    }
    let lives = || (0..clients.len()).map(|number| journal.of(number)).collect::<Vec<_>>();
    let is_closed = |life: &Vec<HandlerCall>| matches!(life.last(), Some(HandlerCall::Close(_)));
    net::turn_until(event_loop, || lives().iter().all(is_closed));
    let count = |event: &HandlerCall| lives().iter().flatten().filter(|one| *one == event).count();
    assert_eq!(count(&net::message("x")), 1, "{:?}", lives());
    assert_eq!(count(&HandlerCall::Close(end.clone())), clients.len(), "{:?}", lives());
}

#[test]
fn a_dropped_or_stopped_server_calls_only_on_close() {
    for stops in [false, true] {
        with_loop(move |event_loop| {
            let kept = Kept::<TcpServer>::default();
            let ending = Rc::clone(&kept);
            let (server, journal, clients) = open_connections(event_loop, 5, move |_, script| {
                let ending = Rc::clone(&ending);
                script.on_message(move |_, _| match (ending.take().pop(), stops) {
                    (Some(server), true) => server.stop(Duration::ZERO, |_, _| ()),
                    (server, _) => drop(server),
                })
            });
            kept.borrow_mut().push(server);
            assert_one_message_then_closes(event_loop, &journal, &clients, &End::Stopped);
        });
    }
}

#[test]
fn a_stop_precedes_input_of_the_same_turn() {
    with_loop(move |event_loop| {
        let kept = Kept::<TcpServer>::default();
        let ending = Rc::clone(&kept);
        let (server, journal, clients) = open_connections(event_loop, 5, move |_, script| {
            let ending = Rc::clone(&ending);
            script.on_message(move |_, _| {
                ending.take().into_iter().for_each(|server| server.stop(HOUR, |_, _| ()));
            })
        });
        let handle = server.handle();
        kept.borrow_mut().push(server);
        for mut client in &clients {
            client.write_all(b"x").unwrap();
        }
        clients.iter().for_each(|client| client.shutdown(std::net::Shutdown::Write).unwrap());
        net::turn_until(event_loop, || handle.open_connections() == 0);
        let events: Vec<_> = (0..5).flat_map(|number| journal.of(number)).collect();
        assert_eq!(
            events.iter().filter(|event| matches!(event, HandlerCall::Message(_))).count(),
            1,
            "{events:?}"
        );
    });
}

#[test]
fn a_connection_closed_by_another_gets_no_input() {
    for gracefully in [false, true] {
        with_loop(move |event_loop| {
            let handles = Kept::<ConnectionHandle>::default();
            let (_server, journal, clients) = open_connections(event_loop, 5, move |conn, script| {
                handles.borrow_mut().push(conn.handle());
                let handles = Rc::clone(&handles);
                script.on_message(move |_, input| {
                    input.clear();
                    for handle in &*handles.borrow() {
                        if gracefully { handle.close_gracefully(HOUR) } else { handle.close() }
                    }
                })
            });
            clients.iter().for_each(|client| client.set_nodelay(true).unwrap());
            if gracefully {
                for mut client in &clients {
                    client.write_all(b"x").unwrap();
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                }
                let ends =
                    || (0..5).filter(|number| crate::support::endings::is_closed(&journal, *number)).count();
                net::turn_until(event_loop, || ends() == 5);
                let events: Vec<_> = (0..5).flat_map(|number| journal.of(number)).collect();
                assert_eq!(
                    events.iter().filter(|event| matches!(event, HandlerCall::Message(_))).count(),
                    1,
                    "{events:?}"
                );
            } else {
                assert_one_message_then_closes(event_loop, &journal, &clients, &End::Closed);
            }
        });
    }
}

#[test]
fn a_handle_closes_its_own_connection_at_once() {
    with_loop(move |event_loop| {
        let (_server, journal, clients) = open_connections(event_loop, 1, |_, script| {
            script.on_message(|conn, _| {
                conn.handle().close();
                assert_eq!(conn.state(), reveille::net::ConnectionState::Closed);
                assert_eq!(conn.send("too late"), Err(reveille::net::SendError::Closed));
            })
        });
        assert_one_message_then_closes(event_loop, &journal, &clients, &End::Closed);
    });
}

// --- Addresses -----------------------------------------------------------------------------------

/// Makes a server at `address` whose first connection calls `first` in `callback`.
fn serve_at(
    event_loop: &EventLoop,
    address: Address,
    callback: &'static str,
    first: impl FnOnce(&EventLoop) + 'static,
) -> io::Result<TcpServer> {
    let builder = match address {
        Address::Inet(address) => TcpServer::bind(event_loop, address)?,
        Address::Unix(address) => TcpServer::bind_unix(event_loop, address)?,
        _ => unreachable!("no other family"),
    };
    let (journal, first) = (Journal::new(), RefCell::new(Some(first)));
    builder.serve(move |conn| {
        let script = journal.script();
        let Some(first) = first.take() else { return script };
        if callback == "factory" {
            first(conn.event_loop());
            return script;
        }
        let first = Cell::new(Some(first));
        let call = move |conn: &TcpConnection<'_>| {
            if let Some(first) = first.take() {
                first(conn.event_loop());
            }
        };
        match callback {
            "on_open" => script.on_open(call),
            "on_message" => script.on_message(move |conn, _| call(conn)),
            _ => script.on_open(|conn| conn.close()).on_close(move |conn, _| call(conn)),
        }
    })
}

/// A client that has sent one byte.
fn client_of(address: &Address) -> OwnedFd {
    match address {
        Address::Inet(address) => {
            let mut client = net::connect(*address);
            client.write_all(b"x").unwrap();
            client.into()
        }
        Address::Unix(address) => {
            let mut client = unix::connect_to(address);
            client.write_all(b"x").unwrap();
            client.into()
        }
        _ => unreachable!("no other family"),
    }
}

#[test]
fn a_callback_may_rebind_its_ended_servers_address() {
    let folder = Folder::new();
    let path = UnixAddress::path(folder.path("again")).unwrap();
    let inet = Address::Inet("127.0.0.1:0".parse().unwrap());
    for address in [inet, Address::Unix(unix::abstract_name()), Address::Unix(path)] {
        for callback in ["factory", "on_open", "on_message", "on_close"] {
            for stops in [false, true] {
                let address = address.clone();
                with_loop(move |event_loop| {
                    let kept = Kept::<TcpServer>::default();
                    let done = Count::default();
                    let (ending, doing) = (Rc::clone(&kept), done.clone());
                    let server = serve_at(event_loop, address, callback, move |event_loop| {
                        let server = ending.borrow_mut().pop().expect("the server");
                        let address = server.local_address().clone();
                        if stops {
                            server.stop(HOUR, |_, _| ())
                        } else {
                            drop(server)
                        }
                        let again = serve_at(event_loop, address, "on_open", |_| ());
                        ending.borrow_mut().push(again.expect("an address that is free"));
                        doing.add();
                    });
                    let server = server.unwrap();
                    let (address, first) = (server.local_address().clone(), server.handle());
                    kept.borrow_mut().push(server);
                    let client = client_of(&address);
                    net::turn_until(event_loop, || done.get() == 1);
                    assert_eq!(first.counters().accepted, 1);
                    drop(client);
                    let _client = client_of(&address);
                    net::turn_until(event_loop, || kept.borrow()[0].counters().accepted == 1);
                });
            }
        }
    }
}

/// One of the loops is blocked, so it cannot have closed its listener itself.
#[test]
fn a_stop_ends_listening_on_blocked_loops() {
    with_watchdog(LIMIT, || {
        let (hold, held) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let held = Mutex::new(Some((held, begin)));
        let host = Host::new(move |event_loop| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2);
            builder.load_balancing(LoadBalancing::ListenerPerLoop).serve_fn(move |_, input| {
                input.clear();
                let held = held.lock().unwrap().take();
                if let Some((held, begin)) = held {
                    begin.send(()).unwrap();
                    let _ = held.recv();
                }
            })
        });
        let address = host.address();
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        begun.recv_timeout(net::LIMIT).unwrap();
        let (report, reported) = mpsc::channel();
        host.request(move |event_loop, server| {
            server.take().unwrap().stop(HOUR, move |_, outcome| report.send(outcome).unwrap());
            for _ in 0..20 {
                let refused = TcpStream::connect(address).expect_err("a closed listener");
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            }
            let again = TcpServer::bind(event_loop, address).unwrap().serve_fn(|_, _| ());
            drop(again.expect("an address that is free"));
        });
        assert!(reported.try_recv().is_err(), "a connection is still there");
        drop(hold);
        drop(client);
        reported.recv_timeout(net::LIMIT).expect("a report");
    });
}

// --- Other objects -------------------------------------------------------------------------------

/// Makes two sources that are ready in one turn. The first that is called drops both.
#[track_caller]
fn assert_the_second_is_not_called<S: 'static>(
    mut make: impl FnMut(&EventLoop, Box<dyn FnMut()>) -> S + Send + 'static,
) {
    with_loop(move |event_loop| {
        let (kept, calls) = (Kept::<S>::default(), Count::default());
        for _ in 0..2 {
            let (ending, counting) = (Rc::clone(&kept), calls.clone());
            let call = Box::new(move || {
                counting.add();
                drop(ending.take());
            });
            let source = make(event_loop, call);
            kept.borrow_mut().push(source);
        }
        net::turn_until(event_loop, || calls.get() > 0);
        (0..3).for_each(|_| crate::support::turn(event_loop));
        assert_eq!(calls.get(), 1);
    });
}

#[test]
fn a_source_dropped_by_another_callback_is_not_called() {
    let folder = Folder::new();
    let file = folder.path("file");
    assert_the_second_is_not_called(|event_loop, mut call| {
        EventFd::new(1).unwrap().watch(event_loop, move |_, _| call()).unwrap()
    });
    assert_the_second_is_not_called(move |event_loop, mut call| {
        let watcher = Watcher::new(event_loop, move |_| call()).unwrap();
        watcher.watch(file.parent().unwrap(), FileChanges::CREATED).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::remove_file(&file).unwrap();
        watcher
    });
    assert_the_second_is_not_called(|event_loop, mut call| {
        let (here, descriptors) = SharedRing::create(4096).unwrap();
        let mut there =
            SharedRing::from_descriptors(descriptors, crate::support::ring::MAX_CAPACITY).unwrap();
        there.send(b"x").unwrap();
        (here.watch(event_loop, move |_, _| call()).unwrap(), there)
    });
    // One signal, and two sources that watch it.
    let made = Cell::new(0);
    assert_the_second_is_not_called(move |event_loop, mut call| {
        let signals = Signals::new(event_loop, [Signal::USR2], move |_, _| call()).unwrap();
        made.set(made.get() + 1);
        if made.get() == 2 {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::USR2).unwrap();
        }
        signals
    });
}

#[test]
fn a_closed_udp_socket_gets_no_more_datagrams() {
    for by_handle in [false, true] {
        with_loop(move |event_loop| {
            let (kept, calls) = (Kept::<UdpSocket>::default(), Count::default());
            let plain = udp::plain();
            for _ in 0..2 {
                let (ending, counting) = (Rc::clone(&kept), calls.clone());
                let builder = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
                let socket = builder.serve_fn(move |_, _, _| {
                    counting.add();
                    if by_handle {
                        ending.borrow().iter().for_each(|socket| socket.handle().close());
                    } else {
                        drop(ending.take());
                    }
                });
                let socket = socket.unwrap();
                (0..3).for_each(|_| _ = plain.send_to(b"x", socket.local_addr().unwrap()).unwrap());
                kept.borrow_mut().push(socket);
            }
            net::turn_until(event_loop, || calls.get() > 0);
            (0..3).for_each(|_| crate::support::turn(event_loop));
            assert_eq!(calls.get(), 1);
        });
    }
}

#[test]
fn a_udp_handle_sends_its_datagrams_before_it_closes() {
    with_loop(move |event_loop| {
        let (socket, events) = udp::recording(event_loop);
        let plain = udp::plain();
        let handle = socket.handle();
        handle.send_to("first", udp::address(&plain)).unwrap();
        handle.close();
        assert!(!socket.is_open());
        assert_eq!(udp::receive(&plain), b"first");
        assert_eq!(udp::wait_for_calls(event_loop, &events, 1).len(), 1);
    });
}
