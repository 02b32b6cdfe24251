//! `reset`: the peer sees a reset, and all output that is dropped is counted.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;

use crate::support::net::{
    self, End, HandlerCall, Journal, Script, assert_queued, message, pattern, scripted, scripted_with,
    scripted_with_handles, with_small_send_buffer,
};
use crate::support::{LIMIT, turn, with_loop, with_watchdog};
use reveille::net::{ConnectionState, SendError};
use reveille::{ConnectionHandle, TcpConnection};

#[test]
fn a_reset_drops_and_counts_what_the_callback_has_sent() {
    with_watchdog(LIMIT, || {
        let (counts, counted) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let counts = counts.clone();
            script
                .on_message(|conn, input| {
                    conn.send("accepted")?;
                    conn.reset();
                    assert_eq!(conn.state(), ConnectionState::Closed);
                    assert_eq!(conn.send("refused"), Err(SendError::Closed));
                    input.clear();
                    conn.reset();
                    conn.close();
                    Ok(())
                })
                .on_close(move |conn, _| {
                    counts.send((conn.unsent(), conn.undelivered().unwrap())).unwrap();
                })
        });
        let mut client = host.connect();
        client.write_all(b"go").unwrap();
        assert_eq!(net::read_until_reset(&mut client), b"");
        assert_eq!(counted.recv_timeout(net::LIMIT).unwrap(), (8, 8));
        assert_eq!(
            journal.calls_until_close(0),
            [HandlerCall::Open, message("go"), HandlerCall::Close(End::Reset)]
        );
        drop(host);
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn a_reset_counts_queued_output() {
    with_watchdog(LIMIT, || {
        let (counts, counted) = mpsc::channel();
        let (host, journal) = scripted_with(with_small_send_buffer, move |script| {
            let counts = counts.clone();
            script
                .on_open(|conn| {
                    assert_queued(conn, conn.send(pattern(1 << 20)));
                    let before = conn.unsent();
                    conn.reset();
                    assert_eq!(conn.unsent(), before);
                })
                .on_close(move |conn, _| counts.send(conn.unsent()).unwrap())
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        assert_eq!(journal.end_of(0), End::Reset);
        let unsent = counted.recv_timeout(net::LIMIT).unwrap();
        let received = net::read_until_reset(&mut client).len();
        assert!(unsent > 0 && received + unsent <= 1 << 20, "{received} received, {unsent} unsent");
    });
}

#[test]
fn a_handle_resets_after_its_earlier_requests() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        let on_loop = handle.clone();
        host.request(move |_, _| {
            on_loop.send("lost").unwrap();
            on_loop.reset();
            // On the loop itself it acts at once.
            assert!(!on_loop.is_open());
        });
        assert_eq!(net::read_until_reset(&mut client), b"");
        assert_eq!(journal.end_of(0), End::Reset);
        handle.reset();

        let mut client = host.connect();
        let handle: ConnectionHandle = handles.recv_timeout(net::LIMIT).unwrap();
        handle.reset();
        assert_eq!(net::read_until_reset(&mut client), b"");
        assert_eq!(journal.end_of(1), End::Reset);
    });
}

#[test]
fn a_reset_replaces_a_graceful_close_in_progress() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        handle.close_gracefully(LIMIT);
        assert_eq!(net::read_to_end(&mut client), b"");
        handle.reset();
        assert_eq!(journal.end_of(0), End::Reset);
        // A peer whose input has ended notices the reset when it writes.
        net::until(|| client.write(b"x").is_err());
    });
}

#[test]
fn a_reset_of_a_linked_connection_resets_the_other() {
    with_loop(|event_loop| {
        let (front_journal, back_journal) = (Journal::new(), Journal::new());
        let adopt = |journal: &Journal| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = net::connect(listener.local_addr().unwrap());
            let writing = journal.clone();
            let socket = listener.accept().unwrap().0;
            let adopted = TcpConnection::adopt(event_loop, socket, move |_| writing.script());
            (peer, adopted.unwrap())
        };
        let (mut front_peer, front) = adopt(&front_journal);
        let (mut back_peer, back) = adopt(&back_journal);
        turn(event_loop);
        front
            .with_local(event_loop, move |_: &mut Script, conn| conn.relay_to(&back))
            .expect("an open connection");
        front.reset();
        net::turn_until(event_loop, || back_journal.of(0).len() == 2);
        assert_eq!(front_journal.end_of(0), End::Reset);
        assert_eq!(back_journal.end_of(0), End::RelayEnded);
        assert_eq!(net::read_until_reset(&mut front_peer), b"");
        assert_eq!(net::read_until_reset(&mut back_peer), b"");
    });
}

#[test]
fn the_peer_of_a_unix_socket_sees_an_end_of_input() {
    with_loop(|event_loop| {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let unsent = Rc::new(Cell::new(None));
        let noted = Rc::clone(&unsent);
        let handle = TcpConnection::adopt(event_loop, socket, move |_| {
            let script = Journal::new().script().on_open(|conn| {
                conn.send("never sent")?;
                conn.reset();
                Ok(())
            });
            script.on_close(move |conn, _| noted.set(Some(conn.unsent())))
        });
        turn(event_loop);
        assert!(!handle.unwrap().is_open());
        assert_eq!(unsent.get(), Some(10));
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    });
}
