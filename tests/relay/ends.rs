//! Linked connections, one of which ends by a reset or an error: forwarded bytes still arrive, and
//! the peer can distinguish a truncated stream from a complete one.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::endings::is_closed;
use crate::support::net::{self, End, Host, Journal, pattern};
use crate::support::relay::{CLIENTS, FRONTS, Linked, accept, backend, connect, relay, relay_with};
use crate::support::unix::{self, abstract_name};
use crate::support::{LIMIT, turn, with_clock, with_loop, with_watchdog};
use reveille::net::{ConnectionLimits, SendError, TcpServerBuilder};
use reveille::{EventLoop, TcpServer};
use socket2::SockRef;

/// Fewer bytes than the relay buffers for a peer that does not read.
const REPLY: usize = 300_000;

/// Waits until the relay's kernel has received all bytes that `server` has sent.
fn wait_until_acknowledged(server: &TcpStream) {
    let (local, remote) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
    net::until(|| net::queues(local, Some(remote)).is_some_and(|queues| queues.unsent == 0));
}

/// Waits until the relay has read all bytes that `server` has sent. A FIN then arrives at once.
/// Otherwise, bytes that the relay sends after `server` has closed could cause a reset, and the
/// kernel would drop the bytes that have not arrived.
fn wait_until_read(server: &TcpStream) {
    wait_until_acknowledged(server);
    let (local, remote) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
    net::until(|| net::queues(remote, Some(local)).is_some_and(|queues| queues.unread == 0));
}

#[track_caller]
fn assert_error(end: &End) {
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(matches!(end, End::Error(kind, _) if kinds.contains(kind)), "{end:?}");
}

/// A relay whose back end has replied and closed in order. The client has read nothing and may
/// still send.
fn replied_and_closed() -> (Host, Journal, Journal, TcpStream) {
    let (listener, target) = backend();
    let (host, fronts, backs) = relay(target, |script| script);
    let mut client = net::connect_with_small_receive_buffer(host.address());
    let mut server = accept(&listener);
    assert_eq!(net::exchange_between(&mut client, &mut server, b"ask"), b"ask");
    server.write_all(&pattern(REPLY)).unwrap();
    wait_until_read(&server);
    drop(server);
    (host, fronts, backs, client)
}

#[test]
fn a_complete_reply_is_delivered_while_the_request_continues() {
    with_watchdog(LIMIT, || {
        let (_host, fronts, backs, mut client) = replied_and_closed();
        // The first write causes a reset, which ends the connection to the back end.
        client.write_all(b"more").unwrap();
        assert_error(&backs.end_of(0));
        client.write_all(b"and more").unwrap();
        assert!(net::read_to_end(&mut client) == pattern(REPLY), "the received bytes differ");
        drop(client);
        assert_eq!(fronts.end_of(0), End::RelayEnded);
    });
}

/// The client's end of input arrives while the reply is in transit.
#[test]
fn a_client_that_finishes_late_receives_the_complete_reply() {
    with_watchdog(LIMIT, || {
        let (_host, fronts, backs, mut client) = replied_and_closed();
        client.write_all(b"more").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(net::read_to_end(&mut client) == pattern(REPLY), "the received bytes differ");
        backs.end_of(0);
        fronts.end_of(0);
    });
}

/// The relay has sent a FIN to the client, and waits only for a limited time for the client's FIN.
#[test]
fn a_client_that_never_finishes_is_closed_in_time() {
    with_watchdog(LIMIT, || {
        let (_host, fronts, backs, mut client) = replied_and_closed();
        client.write_all(b"more").unwrap();
        assert_error(&backs.end_of(0));
        assert!(net::read_to_end(&mut client) == pattern(REPLY), "the received bytes differ");
        assert_eq!(fronts.end_of(0), End::RelayEnded);
    });
}

#[test]
fn a_relay_delivers_input_before_forwarding_a_reset() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (host, fronts, backs) = relay(target, |script| script);
        let mut client = net::connect_with_small_receive_buffer(host.address());
        let mut server = accept(&listener);
        assert_eq!(net::exchange_between(&mut client, &mut server, b"ask"), b"ask");
        server.write_all(&pattern(REPLY)).unwrap();
        wait_until_acknowledged(&server);
        net::reset(server);
        client.write_all(b"more").unwrap();
        assert_error(&backs.end_of(0));
        assert!(net::read_until_reset(&mut client) == pattern(REPLY), "the received bytes differ");
        assert_eq!(fronts.end_of(0), End::RelayEnded);
    });
}

/// The client closes after an upload, in order or by a reset, while the back end sends an endless
/// reply.
#[test]
fn a_closed_client_ends_an_endless_reply() {
    for is_reset in [false, true] {
        with_watchdog(LIMIT, move || {
            let Linked { host: _host, fronts, backs, mut client, mut server } = Linked::new();
            let mut reader = server.try_clone().unwrap();
            thread::scope(|scope| {
                let reply = scope.spawn(|| {
                    let piece = [0; 64 * 1024];
                    while server.write_all(&piece).is_ok() {}
                });
                client.read_exact(&mut [0; 100_000]).unwrap();
                client.write_all(b"upload").unwrap();
                if is_reset {
                    wait_until_acknowledged(&client);
                    net::reset(client);
                } else {
                    client.shutdown(Shutdown::Write).unwrap();
                    // The client's FIN is forwarded before the reset.
                    assert_eq!(net::read_exact(&mut reader, 6), b"upload");
                    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
                    drop(client);
                }
                assert_error(&fronts.end_of(0));
                assert_eq!(backs.end_of(0), End::RelayEnded);
                reply.join().unwrap();
            });
            if is_reset {
                // The reset was reported to the thread that writes. The bytes that arrived before
                // it are still readable.
                assert_eq!(net::read_exact(&mut reader, 6), b"upload");
            }
        });
    }
}

/// A shutdown by the owner of a connection is not an error, so both connections continue.
#[test]
fn bytes_for_a_shut_down_connection_are_dropped_and_counted() {
    with_watchdog(LIMIT, || {
        let (listener, target) = backend();
        let (sender, reports) = mpsc::channel();
        let (host, fronts, backs) = relay_with(
            target,
            |script| script,
            move |script| {
                let sender = sender.clone();
                script.on_close(move |conn, _| sender.send(conn.unsent()).unwrap())
            },
        );
        let (mut client, mut server) = (host.connect(), accept(&listener));
        assert_eq!(net::exchange_between(&mut client, &mut server, b"ask"), b"ask");
        host.request(|_, _| CLIENTS.with_borrow(|clients| clients[0].handle().expect("a handle").shutdown()));
        assert_eq!(net::read_to_end(&mut server), b"");
        client.write_all(b"dropped").unwrap();
        wait_until_acknowledged(&client);
        assert_eq!(net::exchange_between(&mut server, &mut client, b"reply"), b"reply");
        host.request(|_, _| ());
        drop(server);
        assert_eq!(net::read_to_end(&mut client), b"");
        let end = backs.end_of(0);
        assert!(matches!(end, End::Error(ErrorKind::BrokenPipe, _)), "{end:?}");
        assert_eq!(reports.recv_timeout(net::LIMIT), Ok("dropped".len()));
        drop(client);
        assert_eq!(fronts.end_of(0), End::RelayEnded);
    });
}

/// A relay whose back end has reset the connection, while the client has not read the reply. The
/// receiver gets the number of unsent bytes when the client's connection closes.
fn reset_behind_a_reply() -> (Host, Journal, TcpStream, mpsc::Receiver<usize>) {
    let (listener, target) = backend();
    let (sender, reports) = mpsc::channel();
    let (host, fronts, backs) = relay(target, move |script| {
        let sender = sender.clone();
        script.on_close(move |conn, _| sender.send(conn.unsent()).unwrap())
    });
    let mut client = net::connect_with_small_receive_buffer(host.address());
    let mut server = accept(&listener);
    assert_eq!(net::exchange_between(&mut client, &mut server, b"ask"), b"ask");
    server.write_all(&pattern(REPLY)).unwrap();
    wait_until_acknowledged(&server);
    net::reset(server);
    assert_error(&backs.end_of(0));
    (host, fronts, client, reports)
}

#[test]
fn a_stop_aborts_a_connection_that_still_delivers() {
    with_watchdog(LIMIT, || {
        let (host, fronts, mut client, reports) = reset_behind_a_reply();
        host.request(|_, server| {
            let stopping = server.take().expect("a server");
            stopping.stop(Duration::from_millis(1), |_, report| assert_eq!(report.aborted, 1));
        });
        assert_eq!(fronts.end_of(0), End::Stopped);
        let unsent = reports.recv_timeout(net::LIMIT).unwrap();
        let received = net::read_until_reset(&mut client).len();
        assert!(received + unsent <= REPLY, "{received} bytes received, {unsent} unsent");
    });
}

#[test]
fn a_close_ends_a_connection_that_still_delivers() {
    with_watchdog(LIMIT, || {
        let (host, fronts, mut client, _reports) = reset_behind_a_reply();
        host.request(|_, _| FRONTS.with_borrow(|fronts| fronts[0].close()));
        assert_eq!(fronts.end_of(0), End::Closed);
        net::read_until_reset(&mut client);
    });
}

/// Both streams are incomplete, so neither peer may see an orderly end.
#[test]
fn a_dropped_server_resets_both_ends_of_a_link() {
    with_watchdog(LIMIT, || {
        let Linked { host, mut client, mut server, .. } = Linked::new();
        host.request(|_, server| drop(server.take()));
        assert_eq!(net::read_until_reset(&mut client), b"");
        assert_eq!(net::read_until_reset(&mut server), b"");
    });
}

/// A relay on the loop of this thread, from a Unix socket to a TCP back end.
fn relay_from_unix(event_loop: &EventLoop, target: SocketAddr) -> (TcpServer, Journal, Journal) {
    relay_from(TcpServer::bind_unix(event_loop, abstract_name()).unwrap(), target)
}

/// A relay on the loop of this thread, to a TCP back end.
fn relay_from(builder: TcpServerBuilder<'_>, target: SocketAddr) -> (TcpServer, Journal, Journal) {
    let (fronts, backs) = (Journal::new(), Journal::new());
    let (front_journal, back_journal) = (fronts.clone(), backs.clone());
    let server = builder.serve(move |_| {
        let back = Cell::new(Some(back_journal.script()));
        front_journal.script().on_open(move |conn| {
            SockRef::from(conn).set_send_buffer_size(4096).unwrap();
            conn.pause_reading();
            let back = back.take().expect("the first connection");
            connect(conn.event_loop(), target, conn.handle(), back);
        })
    });
    (server.unwrap(), fronts, backs)
}

/// A Unix socket has no reset. The bytes sent before the back end's reset must still arrive.
#[test]
fn a_relay_to_a_unix_peer_delivers_all_before_the_end() {
    with_loop(|event_loop| {
        let (listener, target) = backend();
        let (server, fronts, backs) = relay_from_unix(event_loop, target);
        let mut client = unix::connect(&server);
        let back_end = thread::spawn(move || {
            let mut server = accept(&listener);
            server.write_all(&pattern(REPLY)).unwrap();
            wait_until_acknowledged(&server);
            net::reset(server);
        });
        // The client does not read until the relay has seen the reset.
        net::turn_until(event_loop, || is_closed(&backs, 0));
        back_end.join().unwrap();
        assert!(!is_closed(&fronts, 0), "the Unix socket accepted all bytes");
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).map(|_| bytes)
        });
        net::turn_until(event_loop, || is_closed(&fronts, 0));
        assert_eq!(fronts.end_of(0), End::RelayEnded);
        assert!(reader.join().unwrap().unwrap() == pattern(REPLY), "the received bytes differ");
        CLIENTS.take();
    });
}

/// The connection pauses reading until it is linked.
#[test]
fn a_connection_reset_before_its_link_forwards_its_input() {
    with_loop(|event_loop| {
        let (listener, target) = backend();
        let (server, fronts, backs) = relay_from_unix(event_loop, target);
        let mut client = unix::connect(&server);
        net::turn_until(event_loop, || fronts.handlers() == 1);
        client.write_all(b"last words").unwrap();
        drop(client);
        net::turn_until(event_loop, || backs.handlers() == 1);
        let mut server = accept(&listener);
        let back_end = thread::spawn(move || net::read_to_end(&mut server));
        net::turn_until(event_loop, || is_closed(&fronts, 0) && is_closed(&backs, 0));
        assert_eq!(back_end.join().unwrap(), b"last words");
        CLIENTS.take();
    });
}

#[test]
fn input_is_forwarded_though_output_failed_before_the_link() {
    with_loop(|event_loop| {
        let (listener, target) = backend();
        let (fronts, backs) = (Journal::new(), Journal::new());
        let (front_journal, back_journal) = (fronts.clone(), backs.clone());
        let builder = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let server = builder.serve(move |_| {
            let back = Cell::new(Some(back_journal.script()));
            front_journal.script().on_open(move |conn| {
                assert_eq!(conn.send("greeting").and_then(|_| conn.flush()), Err(SendError::Closed));
                conn.pause_reading();
                connect(conn.event_loop(), target, conn.handle(), back.take().expect("the first connection"));
            })
        });
        // The client has closed before the relay accepts the connection.
        let server = server.unwrap();
        let mut client = unix::connect(&server);
        client.write_all(b"last words").unwrap();
        drop(client);
        net::turn_until(event_loop, || backs.handlers() == 1);
        let mut server = accept(&listener);
        let back_end = thread::spawn(move || net::read_to_end(&mut server));
        net::turn_until(event_loop, || is_closed(&fronts, 0) && is_closed(&backs, 0));
        assert_eq!(back_end.join().unwrap(), b"last words");
        CLIENTS.take();
    });
}

/// If the relay closed at once, the kernel would respond to the client's further bytes with a
/// reset.
#[test]
fn a_client_that_has_received_all_has_time_to_finish() {
    with_clock(|event_loop, clock| {
        let (listener, target) = backend();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let (server, fronts, backs) = relay_from(builder, target);
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"ask").unwrap();
        let back_end = thread::spawn(move || {
            let mut server = accept(&listener);
            assert_eq!(net::read_exact(&mut server, 3), b"ask");
            server.write_all(b"reply").unwrap();
            // Bytes that arrive after the close cause a reset.
            drop(server);
        });
        let mut reply = Vec::new();
        client.set_nonblocking(true).unwrap();
        net::turn_until(event_loop, || client.read_to_end(&mut reply).is_ok());
        assert_eq!(reply, b"reply");
        back_end.join().unwrap();
        client.write_all(b"more").unwrap();
        net::turn_until(event_loop, || is_closed(&backs, 0));
        let (relay, peer) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        net::until(|| net::queues(relay, Some(peer)).is_some_and(|queues| queues.unsent == 0));
        // The relay checks whether all bytes have been acknowledged, and then waits for the
        // client's end of input.
        for _ in 0..10 {
            clock.advance(Duration::from_millis(100));
            (0..3).for_each(|_| turn(event_loop));
        }
        assert!(!is_closed(&fronts, 0), "the connection closed before the client's end of input");
        client.write_all(b"and more").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::turn_until(event_loop, || is_closed(&fronts, 0));
        assert!(client.take_error().unwrap().is_none(), "the client was reset");
        CLIENTS.take();
    });
}

/// The client has cancelled a download. The back end would otherwise be read at full speed for all
/// of its time to finish.
#[test]
fn a_peer_that_sends_much_is_reset_before_its_time_to_finish_is_over() {
    with_clock(|event_loop, clock| {
        let (listener, target) = backend();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let (server, fronts, backs) = relay_from(builder, target);
        let client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || backs.handlers() == 1);
        let back_end = accept(&listener);
        let (mut reader, mut writer) = (back_end.try_clone().unwrap(), back_end.try_clone().unwrap());
        let request = thread::spawn(move || net::read_to_end(&mut reader));
        let reply = thread::spawn(move || while writer.write_all(&[0; 64 * 1024]).is_ok() {});
        client.shutdown(Shutdown::Write).unwrap();
        net::turn_until(event_loop, || request.is_finished());
        // Further bytes for it cause a reset.
        drop(client);
        net::turn_until(event_loop, || is_closed(&fronts, 0));
        let (relay, peer) = (back_end.peer_addr().unwrap(), back_end.local_addr().unwrap());
        net::until(|| net::queues(relay, Some(peer)).is_some_and(|queues| queues.unsent == 0));
        // Less than the time that the peer has.
        for _ in 0..10 {
            clock.advance(Duration::from_millis(100));
            turn(event_loop);
        }
        net::turn_until(event_loop, || is_closed(&backs, 0));
        assert_eq!(backs.end_of(0), End::RelayEnded);
        reply.join().unwrap();
        CLIENTS.take();
    });
}

#[test]
fn an_idle_timeout_ends_a_connection_that_cannot_deliver() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    with_clock(|event_loop, clock| {
        let (listener, target) = backend();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .limits(ConnectionLimits::new().idle_timeout(TIMEOUT));
        let (server, fronts, backs) = relay_from(builder, target);
        let mut client = net::connect_with_small_receive_buffer(server.local_addr().unwrap());
        let back_end = thread::spawn(move || {
            let mut server = accept(&listener);
            server.write_all(&pattern(REPLY)).unwrap();
            wait_until_acknowledged(&server);
            net::reset(server);
        });
        net::turn_until(event_loop, || is_closed(&backs, 0));
        back_end.join().unwrap();
        assert!(!is_closed(&fronts, 0), "the connection closed before the idle timeout");
        net::turn_until(event_loop, || {
            clock.advance(TIMEOUT);
            is_closed(&fronts, 0)
        });
        assert_eq!(fronts.end_of(0), End::Idle);
        net::read_until_reset(&mut client);
        CLIENTS.take();
    });
}
