//! Two linked connections: all bytes arrive in order, ends of input are forwarded, and memory stays
//! bounded.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::support::counting::{peak, reset_peak};
use crate::support::net::{self, End, HandlerCall, Host, Journal, message, pattern, scripted};
use crate::support::relay::{CLIENTS, HIGH, Linked, accept, backend, connect, relay};
use crate::support::{KIB, LIMIT, MIB, with_loop, with_watchdog};
use reveille::{ConnectionHandle, TcpServer};
use socket2::SockRef;

#[test]
fn bytes_and_ends_are_forwarded_in_both_directions() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (host, fronts, backs) = relay(target, |script| script);
        let mut client = host.connect();
        let mut server = accept(&listener);
        let (request, reply) = (pattern(3 * MIB), pattern(5 * MIB + 1));
        thread::scope(|scope| {
            scope.spawn(|| assert!(net::read_to_end(&mut server) == request));
            client.write_all(&request).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        // The reverse direction is still open.
        thread::scope(|scope| {
            scope.spawn(|| {
                server.write_all(&reply).unwrap();
                server.shutdown(Shutdown::Write).unwrap();
            });
            assert!(net::read_to_end(&mut client) == reply);
        });
        for journal in [&fronts, &backs] {
            // The handlers were not called for any of the forwarded bytes.
            assert_eq!(journal.calls_until_close(0), [HandlerCall::Open, HandlerCall::Close(End::Finished)]);
        }
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// One period of an endless stream that differs at any two positions whose distance is a power of
/// two.
fn round() -> Vec<u8> {
    pattern(1_000_003)
}

fn write_rounds(mut to: impl Write, total: usize) {
    let round = round();
    let mut left = total;
    while left > 0 {
        let n = left.min(round.len());
        to.write_all(&round[..n]).unwrap();
        left -= n;
    }
}

fn assert_rounds(mut from: impl Read, total: usize, mut after_each: impl FnMut(usize)) {
    let twice = [round(), round()].concat();
    let len = twice.len() / 2;
    let mut bytes = vec![0; 64 * KIB];
    let mut read = 0;
    loop {
        let n = from.read(&mut bytes).unwrap();
        if n == 0 {
            break;
        }
        assert!(bytes[..n] == twice[read % len..][..n], "the bytes differ after {read}");
        read += n;
        after_each(read);
    }
    assert_eq!(read, total);
}

#[test]
fn a_relay_buffers_less_than_twice_the_high_water_mark() {
    const TOTAL: usize = 1024 * MIB;
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (host, fronts, backs) = relay(target, |script| script);
        let client = host.connect();
        let server = accept(&listener);
        let before = host.request(|_, _| {
            reset_peak();
            peak()
        });
        let buffered = |host: &Host| host.request(move |_, _| peak() - before);
        let max = thread::scope(|scope| {
            scope.spawn(|| {
                write_rounds(&client, TOTAL);
                client.shutdown(Shutdown::Write).unwrap();
            });
            // Nothing is read until the relay is full.
            net::until(|| buffered(&host) > HIGH as i64);
            let mut last_pause = 0;
            assert_rounds(&server, TOTAL, |read| {
                // The reader pauses periodically, for a measurement.
                if read > last_pause + 8 * MIB {
                    last_pause = read;
                    buffered(&host);
                }
            });
            buffered(&host)
        });
        println!("at most {max} bytes were buffered");
        assert!(max < 2 * HIGH as i64, "{max} bytes were buffered");
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(fronts.end_of(0), End::Finished);
        assert_eq!(backs.end_of(0), End::Finished);
    });
}

/// An echo that does not read while it writes, with more bytes than the kernel and a relay buffer.
/// The relay must read from the echo while it has many bytes to send to it.
#[test]
fn neither_direction_waits_for_the_other() {
    const PIECE: usize = 8 * MIB;
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (host, _fronts, _backs) = relay(target, |script| script);
        let client = host.connect();
        let mut server = accept(&listener);
        for socket in [&client, &server] {
            SockRef::from(socket).set_send_buffer_size(64 * KIB).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut piece = vec![0; PIECE];
                for _ in 0..4 {
                    server.read_exact(&mut piece).unwrap();
                    server.write_all(&piece).unwrap();
                }
            });
            scope.spawn(|| write_rounds(&client, 4 * PIECE));
            assert_rounds((&client).take(4 * PIECE as u64), 4 * PIECE, |_| ());
        });
    });
}

#[test]
fn input_unread_before_the_link_is_forwarded_first() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let back_journal = Journal::new();
        let backs = back_journal.clone();
        // Links when the first line has arrived.
        let (host, journal) = scripted(move |script| {
            let backs = backs.clone();
            script.on_message(move |conn, input| {
                let Some(end) = input.find(b'\n') else { return };
                assert_eq!(input.take(end + 1), b"connect\n");
                conn.pause_reading();
                connect(conn.event_loop(), target, conn.handle(), backs.script());
            })
        });
        let mut client = host.connect();
        client.write_all(b"connect\nhello").unwrap();
        let mut server = accept(&listener);
        assert_eq!(net::read_exact(&mut server, 5), b"hello");
        client.write_all(b", world").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut server), b", world");
        server.write_all(b"goodbye").unwrap();
        drop(server);
        assert_eq!(net::read_to_end(&mut client), b"goodbye");
        let life = [HandlerCall::Open, message("connect\nhello"), HandlerCall::Close(End::Finished)];
        assert_eq!(journal.calls_until_close(0), life);
    });
}

#[test]
fn an_end_before_the_link_is_forwarded_after_unread_input() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let back_journal = Journal::new();
        let backs = back_journal.clone();
        // Links at the end of input, which has no other effect.
        let (host, journal) = scripted(move |script| {
            let backs = backs.clone();
            script.on_message(|_, _| ()).on_peer_shutdown(move |conn| {
                connect(conn.event_loop(), target, conn.handle(), backs.script());
            })
        });
        let mut client = host.connect();
        client.write_all(b"all there is").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut server = accept(&listener);
        assert_eq!(net::read_to_end(&mut server), b"all there is");
        server.write_all(b"thank you").unwrap();
        drop(server);
        assert_eq!(net::read_to_end(&mut client), b"thank you");
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(back_journal.end_of(0), End::Finished);
    });
}

#[test]
fn a_reset_of_either_peer_resets_the_other() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (host, fronts, backs) = relay(target, |script| script);
        for (number, client_resets) in [(0, true), (1, false)] {
            let (client, server) = (host.connect(), accept(&listener));
            let (resetting, mut other, error, ended) = if client_resets {
                (client, server, &fronts, &backs)
            } else {
                (server, client, &backs, &fronts)
            };
            // A byte that arrives through the link shows that the link exists.
            (&resetting).write_all(b"x").unwrap();
            assert_eq!(net::read_exact(&mut other, 1), b"x");
            net::reset(resetting);
            let seen = other.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(seen, Err(io::ErrorKind::ConnectionReset));
            assert!(matches!(error.end_of(number), End::Error(io::ErrorKind::ConnectionReset, _)));
            assert_eq!(ended.end_of(number), End::RelayEnded);
        }
    });
}

#[test]
fn closing_one_linked_connection_closes_the_other() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (sender, reports) = std::sync::mpsc::channel();
        let (host, fronts, backs) = relay(target, move |script| {
            let sender = sender.clone();
            script.on_close(move |conn, _| sender.send(conn.undelivered().unwrap()).unwrap())
        });
        let (_client, mut server) = (host.connect(), accept(&listener));
        CLIENTS.with_borrow(|clients| assert!(clients.is_empty(), "this thread has clients of its own"));
        host.request(|_, _| CLIENTS.with_borrow(|clients| clients[0].handle().expect("a handle").close()));
        assert_eq!(net::read_to_end(&mut server), b"");
        assert_eq!(backs.end_of(0), End::Closed);
        assert_eq!(fronts.end_of(0), End::RelayEnded);
        assert_eq!(reports.recv_timeout(net::LIMIT), Ok(0));
    });
}

/// Only the peers know how many bytes are still to come.
#[test]
fn a_stop_lets_linked_connections_finish() {
    with_watchdog(LIMIT, || {
        let Linked { host, fronts, backs, mut client, mut server } = Linked::new();
        host.request(|_, server| {
            server.take().expect("a server").stop(net::LIMIT, |_, report| assert_eq!(report.aborted, 0))
        });
        assert_eq!(net::exchange_between(&mut client, &mut server, b"after"), b"after");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut server), b"");
        assert_eq!(net::exchange_between(&mut server, &mut client, b"answer"), b"answer");
        drop(server);
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(fronts.end_of(0), End::Finished);
        assert_eq!(backs.end_of(0), End::Finished);
    });
}

#[test]
fn an_expired_stop_resets_both_peers_of_a_link() {
    with_watchdog(LIMIT, || {
        let Linked { host, fronts, backs, mut client, mut server } = Linked::new();
        host.request(|_, server| {
            let stopping = server.take().expect("a server");
            stopping.stop(Duration::from_millis(1), |_, report| assert_eq!(report.aborted, 1));
        });
        assert_eq!(net::read_until_reset(&mut client), b"");
        assert_eq!(net::read_until_reset(&mut server), b"");
        assert_eq!(fronts.end_of(0), End::Stopped);
        assert_eq!(backs.end_of(0), End::RelayEnded);
    });
}

/// Neither peer finishes by itself.
#[test]
fn a_graceful_close_applies_to_both_linked_connections() {
    with_watchdog(LIMIT, || {
        let Linked { host, fronts, backs, mut client, mut server } = Linked::new();
        host.request(|_, _| {
            let back = CLIENTS.with_borrow(|clients| clients[0].handle().expect("a handle"));
            back.close_gracefully(Duration::from_millis(1));
        });
        assert_eq!(fronts.end_of(0), End::DeadlinePassed);
        assert_eq!(backs.end_of(0), End::DeadlinePassed);
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(net::read_to_end(&mut server), b"");
    });
}

#[test]
fn a_failed_link_reports_its_reason() {
    with_watchdog(LIMIT, || {
        let (elsewhere, _journal) = scripted(|script| script);
        let (other_host, _others, handles) = net::scripted_with_handles();
        let _other_client = other_host.connect();
        let other = handles.recv_timeout(net::LIMIT).unwrap();
        drop(elsewhere);
        let tried = Arc::new(AtomicBool::new(false));
        with_loop(move |event_loop| {
            let handles: Rc<RefCell<Vec<ConnectionHandle>>> = Rc::default();
            let kept = Rc::clone(&handles);
            let (done, other) = (Arc::clone(&tried), other.clone());
            let journal = Journal::new();
            let written = journal.clone();
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| {
                let (kept, done, other) = (Rc::clone(&kept), Arc::clone(&done), other.clone());
                written.script().on_open(move |conn| {
                    let kind = |other: &ConnectionHandle| conn.relay_to(other).map_err(|error| error.kind());
                    let mut kept = kept.borrow_mut();
                    match kept.len() {
                        0 => {}
                        1 => {
                            assert_eq!(kind(&other), Err(io::ErrorKind::InvalidInput));
                            assert_eq!(kind(&conn.handle()), Err(io::ErrorKind::InvalidInput));
                            assert_eq!(kind(&kept[0]), Ok(()));
                            assert_eq!(kind(&kept[0]), Err(io::ErrorKind::NotConnected));
                        }
                        _ => {
                            assert_eq!(kind(&kept[0]), Err(io::ErrorKind::NotConnected), "linked twice");
                            conn.close();
                            assert_eq!(kind(&kept[0]), Err(io::ErrorKind::NotConnected));
                            done.store(true, SeqCst);
                        }
                    }
                    kept.push(conn.handle());
                })
            });
            let address = server.as_ref().unwrap().local_addr().unwrap();
            let _clients = [net::connect(address), net::connect(address), net::connect(address)];
            net::turn_until(event_loop, || tried.load(SeqCst));
        });
    });
}
