//! Connections that end by an error, by a panic, or with their loop. `on_close` is called once,
//! with the first reason. Other connections are unaffected.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crate::support::endings::{is_closed, scripted_server};
use crate::support::net::{self, End, HandlerCall, Host, Journal, Script, message, scripted};
use crate::support::{LIMIT, OnDrop, with_catching_loop, with_loop, with_watchdog};
use reveille::net::{ConnectionState, SendError};
use reveille::{EventLoop, TcpConnection, TcpServer};
use rustix::event::PollFlags;

#[test]
fn on_close_receives_the_first_reason_to_close() {
    fn failure() -> io::Result<()> {
        Err(io::Error::other("a second reason"))
    }
    let closings: [fn(Script) -> Script; 3] = [
        |script| {
            script.on_message(|conn, _| {
                conn.close();
                failure()
            })
        },
        |script| {
            script.on_message(|conn, _| -> () {
                conn.close();
                panic!("a second reason");
            })
        },
        |script| {
            script.on_message(|conn, _| {
                conn.handle().close();
                conn.close();
                conn.close_after(Duration::ZERO);
            })
        },
    ];
    with_watchdog(LIMIT, move || {
        for script in closings {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            client.write_all(b"x").unwrap();
            net::wait_for_end(&mut client);
            assert_eq!(
                journal.calls_until_close(0),
                [HandlerCall::Open, message("x"), HandlerCall::Close(End::Closed)]
            );
            drop(host);
            journal.assert_opened_and_closed_once(1);
        }
    });
}

// --- Errors

fn assert_broken(end: &End) {
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(matches!(end, End::Error(kind, _) if kinds.contains(kind)), "{end:?}");
}

#[test]
fn a_reset_of_an_idle_connection_is_an_error() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        net::reset(client);
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(io::ErrorKind::ConnectionReset, _)), "{end:?}");
        assert_eq!(host.open_connections(), 0);
        drop(host);
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn a_reset_during_a_transfer_is_reported_once() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_open(|conn| Ok(conn.send(vec![1; 8 << 20])?)).on_close(|conn, _| {
                assert_eq!(conn.send(b"still there?").and_then(|_| conn.flush()), Err(SendError::Closed))
            })
        });
        for number in 0..10 {
            let mut client = host.connect();
            net::read_exact(&mut client, 100_000);
            net::reset(client);
            assert_broken(&journal.end_of(number));
        }
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_opened_and_closed_once(10);
    });
}

/// The bytes arrive before the reset, and both arrive before the loop polls.
#[test]
fn input_before_a_reset_is_delivered() {
    with_loop(|event_loop| {
        let (server, journal, sockets) =
            scripted_server(event_loop, |script| script.on_message(|_, input| input.clear()));
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || journal.handlers() == 1);
        client.write_all(b"last words").unwrap();
        net::reset(client);
        net::until(|| net::poll_flags(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        let [HandlerCall::Open, input, HandlerCall::Close(end)] = &journal.of(0)[..] else {
            panic!("{journal:?}")
        };
        assert_eq!(*input, message("last words"));
        assert!(matches!(end, End::Error(io::ErrorKind::ConnectionReset, _)), "{end:?}");
    });
}

/// The turn that reports the reset starts with the handler's send.
#[test]
fn a_send_that_fails_by_a_reset_closes_the_connection() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_server(event_loop, |script| {
            script.on_open(|conn| conn.notify_drained()).on_drained(|conn| {
                assert_eq!(conn.send(b"hello?").and_then(|_| conn.flush()), Err(SendError::Closed));
                assert_eq!(conn.state(), ConnectionState::Closing, "input may precede the reset");
            })
        });
        let client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || journal.handlers() == 1);
        net::reset(client);
        net::until(|| net::poll_flags(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        assert_eq!(event_loop.handle().counters().panics, 0);
        let [HandlerCall::Open, HandlerCall::Drained, HandlerCall::Close(end)] = &journal.of(0)[..] else {
            panic!("{journal:?}")
        };
        assert_broken(end);
    });
}

#[test]
fn resets_before_accept_affect_no_other_connection() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_server(event_loop, |script| script);
        for _ in 0..50 {
            net::reset(net::connect(server.local_addr().unwrap()));
        }
        let address = server.local_addr().unwrap();
        let client = thread::spawn(move || {
            let mut client = net::connect(address);
            net::assert_echoes(&mut client);
        });
        net::turn_until(event_loop, || client.is_finished());
        sockets.borrow_mut().clear();
        client.join().unwrap();
        net::turn_until(event_loop, || server.open_connections() == 0);
        let last = journal.handlers() - 1;
        for number in 0..last {
            assert_broken(&journal.end_of(number));
        }
        assert_eq!(journal.end_of(last), End::Finished);
        journal.assert_opened_and_closed_once(last + 1);
    });
}

#[test]
fn an_error_returned_by_a_handler_closes_its_connection() {
    fn failure<T>() -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "invalid input"))
    }
    let failing: [fn(Script) -> Script; 4] = [
        |script| script.on_open(|_| failure()),
        |script| script.on_message(|_, _| failure()),
        |script| script.on_open(|conn| conn.notify_drained()).on_drained(|_| failure()),
        |script| script.on_peer_shutdown(|_| failure()),
    ];
    with_watchdog(LIMIT, move || {
        for script in failing {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            // These calls fail if the connection has already failed.
            let _ = client.write_all(b"x");
            let _ = client.shutdown(Shutdown::Write);
            net::wait_for_end(&mut client);
            let expected = End::Error(io::ErrorKind::InvalidData, "invalid input".to_owned());
            assert_eq!(journal.end_of(0), expected);
            drop(host);
            journal.assert_opened_and_closed_once(1);
        }
    });
}

// --- Panics

/// A server whose second connection follows the script `bad`, and its first connection, which is
/// open and echoes.
fn with_a_bad_second(bad: fn(Script) -> Script) -> (Host, Journal, TcpStream) {
    let (host, journal) = scripted(move |script| if script.number() == 1 { bad(script) } else { script });
    let mut before = host.connect();
    net::assert_echoes(&mut before);
    (host, journal, before)
}

#[test]
fn a_panic_in_a_handler_closes_only_its_connection() {
    let panicking: [fn(Script) -> Script; 4] = [
        |script| script.on_open(|_| -> () { panic!("on_open") }),
        |script| script.on_message(|_, _| -> () { panic!("on_message") }),
        |script| script.on_open(|conn| conn.notify_drained()).on_drained(|_| -> () { panic!("on_drained") }),
        |script| script.on_peer_shutdown(|_| -> () { panic!("on_peer_shutdown") }),
    ];
    with_watchdog(LIMIT, move || {
        for bad in panicking {
            let (host, journal, mut before) = with_a_bad_second(bad);
            let mut client = host.connect();
            let _ = client.write_all(b"x");
            let _ = client.shutdown(Shutdown::Write);
            net::wait_for_end(&mut client);
            assert_eq!(journal.end_of(1), End::Panicked);
            net::assert_echoes(&mut before);
            net::assert_echoes(&mut host.connect());
            assert_eq!(host.handle().counters().panics, 1);
            drop(host);
            journal.assert_opened_and_closed_once(3);
        }
    });
}

#[test]
fn a_panic_in_the_factory_closes_only_its_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal, mut before) = with_a_bad_second(|_| panic!("no handler"));
        net::wait_for_end(&mut host.connect());
        net::assert_echoes(&mut before);
        net::assert_echoes(&mut host.connect());
        assert_eq!(host.handle().counters().panics, 1);
        assert_eq!(journal.of(1), []);
        drop(before);
        net::until(|| host.open_connections() == 0);
    });
}

#[test]
fn panics_in_on_close_and_destructors_are_caught_and_counted() {
    let panicking: [fn(Script) -> Script; 2] = [
        |script| script.on_close(|_, _| -> () { panic!("on_close") }),
        |script| {
            let bomb = OnDrop::new(|| panic!("a handler's destructor"));
            script.on_close(move |_, _| bomb.keep())
        },
    ];
    with_watchdog(LIMIT, move || {
        for bad in panicking {
            let (host, journal, mut before) = with_a_bad_second(bad);
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
            assert_eq!(journal.end_of(1), End::Finished);
            net::assert_echoes(&mut before);
            assert_eq!(host.handle().counters().panics, 1);
            assert_eq!(host.open_connections(), 1);
            drop(host);
            journal.assert_opened_and_closed_once(2);
        }
    });
}

#[test]
fn a_panicking_factory_destructor_does_not_prevent_a_stop() {
    let ends: [fn(&EventLoop, TcpServer); 2] = [
        |_, server| drop(server),
        |_, server| server.stop(Duration::ZERO, |event_loop, _| event_loop.quit()),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        with_catching_loop(move |event_loop| {
            let (bomb, journal) = (OnDrop::new(|| panic!("the factory's destructor")), Journal::new());
            let written = journal.clone();
            let make = move |_: &TcpConnection<'_>| {
                bomb.keep();
                written.script()
            };
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(make).unwrap();
            let mut client = net::connect(server.local_addr().unwrap());
            net::turn_until(event_loop, || journal.of(0) == [HandlerCall::Open]);
            end(event_loop, server);
            if number == 1 {
                // The report ends this run.
                event_loop.run().unwrap();
            }
            net::turn_until(event_loop, || {
                journal.of(0) == [HandlerCall::Open, HandlerCall::Close(End::Stopped)]
            });
            net::wait_for_end(&mut client);
            assert_eq!(event_loop.handle().counters().panics, 1);
        });
    }
}

#[test]
fn a_destructor_panic_in_a_dropped_loop_is_contained() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (server, journal, sockets) = scripted_server(&event_loop, |script| {
            let number = script.number();
            let bomb = OnDrop::new(move || assert_ne!(number, 1, "a handler's destructor"));
            script.on_close(move |_, _| bomb.keep())
        });
        let clients: Vec<_> = (0..3).map(|_| net::connect(server.local_addr().unwrap())).collect();
        net::turn_until(&event_loop, || journal.handlers() == 3);
        sockets.borrow_mut().clear();
        let handle = event_loop.handle();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(event_loop)));
        assert!(dropped.is_ok(), "the panic came out of the loop's destructor");
        assert_eq!(handle.counters().panics, 1);
        for number in 0..3 {
            assert_eq!(
                journal.of(number),
                [HandlerCall::Open, HandlerCall::Close(End::LoopEnded)],
                "connection {number}"
            );
        }
        drop((server, clients));
    });
}

// --- The loop is dropped

#[test]
fn dropping_a_loop_calls_on_close_of_open_connections() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (server, journal, sockets) = scripted_server(&event_loop, |script| {
            script.on_close(|conn, _| {
                // These calls have no effect.
                conn.event_loop().queue_in_loop(|_| unreachable!());
                conn.close_after(Duration::ZERO);
                conn.close();
                assert_eq!(conn.send("goodbye").and_then(|_| conn.flush()), Err(SendError::Closed));
            })
        });
        let mut clients: Vec<_> = (0..3).map(|_| net::connect(server.local_addr().unwrap())).collect();
        net::turn_until(&event_loop, || journal.handlers() == 3);
        sockets.borrow_mut().clear();
        let handle = event_loop.handle();
        drop(event_loop);
        for (number, client) in clients.iter_mut().enumerate() {
            net::wait_for_end(client);
            assert_eq!(journal.of(number), [HandlerCall::Open, HandlerCall::Close(End::LoopEnded)]);
        }
        assert_eq!(handle.counters().panics, 0);
        journal.assert_opened_and_closed_once(3);
        assert_eq!(server.open_connections(), 0);
    });
}
