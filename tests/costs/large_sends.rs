//! Large sends, and sends of several slices: their memory and their order.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use crate::support::counting::counts;
use crate::support::net::{
    self, End, Random, assert_queued, assert_written, pattern, reason, scripted, scripted_with,
};
use crate::support::{LIMIT, MIB, with_loop, with_watchdog};
use reveille::net::{ConnectionLimits, SendError};
use reveille::{EventLoop, TcpConnection, TcpServer};
use socket2::SockRef;

const PEERS: usize = 100;

/// Sends a mebibyte on each of a hundred connections whose peers do not read at first. Returns the
/// bytes that these sends allocated, and the bytes that they left unsent. All bytes arrive.
fn cost_of(
    event_loop: &EventLoop,
    bytes: &Arc<[u8]>,
    send: impl Fn(&TcpConnection) + 'static,
) -> (usize, usize) {
    let cost = Rc::new(Cell::new((0, 0)));
    let total = Rc::clone(&cost);
    let journal = net::Journal::new();
    let server_journal = journal.clone();
    let send = Rc::new(send);
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| {
        let (send, total) = (Rc::clone(&send), Rc::clone(&total));
        server_journal.script().on_open(move |conn| {
            // With the default size, the kernel would take all bytes at once.
            SockRef::from(conn).set_send_buffer_size(100_000).unwrap();
            let before = counts().requested;
            send(conn);
            let requested = (counts().requested - before) as usize;
            let (requested_before, unsent) = total.get();
            total.set((requested_before + requested, unsent + conn.unsent()));
            conn.shutdown();
        })
    });
    let address = server.as_ref().unwrap().local_addr().unwrap();
    let mut clients: Vec<_> = (0..PEERS).map(|_| net::connect_with_small_packets(address)).collect();
    net::turn_until(event_loop, || journal.handlers() == PEERS);
    let expected = Arc::clone(bytes);
    let reader =
        thread::spawn(move || clients.iter_mut().all(|client| net::read_to_end(client) == *expected));
    net::turn_until(event_loop, || reader.is_finished());
    assert!(reader.join().unwrap(), "a peer received other bytes");
    cost.get()
}

/// The limit of memory for a queue without its bytes: the queue itself and its list of pieces.
const QUEUE_OVERHEAD: usize = 1024;

#[test]
fn shared_bytes_for_slow_readers_are_never_copied() {
    with_loop(|event_loop| {
        let bytes: Arc<[u8]> = pattern(MIB).into();
        let shared = Arc::clone(&bytes);
        let send = move |conn: &TcpConnection| assert_queued(conn, conn.send_shared(&shared));
        let (requested, unsent) = cost_of(event_loop, &bytes, send);
        println!("{requested} bytes allocated, {unsent} queued");
        assert!(unsent > PEERS * MIB / 4, "only {unsent} bytes were queued");
        assert!(requested < PEERS * QUEUE_OVERHEAD, "{requested} bytes were allocated");
        // The handlers share the bytes too. Connections may close a turn after their peers.
        net::turn_until(event_loop, || Arc::strong_count(&bytes) == 1);
    });
}

#[test]
fn owned_bytes_are_never_copied() {
    with_loop(|event_loop| {
        let bytes: Arc<[u8]> = pattern(MIB).into();
        let copies = RefCell::new(vec![bytes.to_vec(); PEERS]);
        let send = move |conn: &TcpConnection| {
            let copy = copies.borrow_mut().pop().unwrap();
            assert_queued(conn, conn.send_owned(copy));
        };
        let (requested, _) = cost_of(event_loop, &bytes, send);
        assert!(requested < PEERS * QUEUE_OVERHEAD, "{requested} bytes were allocated");
    });
}

#[test]
fn only_unsent_borrowed_bytes_are_copied_and_only_once() {
    with_loop(|event_loop| {
        let bytes: Arc<[u8]> = pattern(MIB).into();
        let borrowed = Arc::clone(&bytes);
        let send = move |conn: &TcpConnection| {
            // The first part leaves unsent bytes, so the second part is added to a queue.
            conn.send(&borrowed[..MIB - 100_000]).unwrap();
            conn.send(&borrowed[MIB - 100_000..]).unwrap();
        };
        let (requested, unsent) = cost_of(event_loop, &bytes, send);
        println!("{requested} bytes allocated, {unsent} queued");
        assert!(requested < unsent + PEERS * QUEUE_OVERHEAD, "{requested} bytes were allocated for {unsent}");
    });
}

#[test]
fn sends_of_all_kinds_keep_their_order() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(8 * MIB);
        let expected = bytes.clone();
        let (host, journal) = scripted(move |script| {
            let bytes = bytes.clone();
            script.on_open(move |conn| {
                let mut random = Random::new(7);
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let most = [1, 100, 5_000, 300_000][random.below(4)];
                    let (now, later) = rest.split_at((1 + random.below(most)).min(rest.len()));
                    match random.below(4) {
                        0 => conn.send(now)?,
                        1 => conn.send_owned(now)?,
                        2 => conn.send_shared(&now.into())?,
                        _ => {
                            let (one, two) = now.split_at(now.len() / 3);
                            conn.send_vectored(&[IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(two)])?
                        }
                    };
                    rest = later;
                }
                assert!(conn.unsent() > 0, "the kernel took all bytes at once");
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = net::connect_with_small_packets(host.address());
        assert!(net::read_to_end(&mut client) == expected, "the peer received other bytes");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

#[test]
fn more_slices_than_one_system_call_takes_are_all_sent() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(3000);
        let expected = bytes.clone();
        let (host, _journal) = scripted(move |script| {
            let bytes = bytes.clone();
            script.on_open(move |conn| {
                let slices: Vec<_> = bytes.iter().map(std::slice::from_ref).map(IoSlice::new).collect();
                assert_written(conn, conn.send_vectored(&slices));
                assert_written(conn, conn.send_vectored(&[]));
                conn.shutdown();
            })
        });
        assert_eq!(net::read_to_end(&mut host.connect()), expected);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn slices_that_exceed_the_limit_together_are_refused_whole() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(1000)),
            |script| {
                script.on_open(|conn| {
                    let (one, two) = ([1; 600], [2; 401]);
                    let both = [IoSlice::new(&one), IoSlice::new(&two)];
                    assert_eq!(conn.send_vectored(&both), Err(SendError::Full));
                    assert_eq!(reason(conn.send_owned([3; 1001])), Err(SendError::Full));
                    assert_eq!(conn.send_shared(&[4; 1001].into()), Err(SendError::Full));
                    assert_eq!(conn.unsent(), 0);
                    assert_written(conn, conn.send_vectored(&both[..1]));
                    conn.shutdown();
                })
            },
        );
        assert_eq!(net::read_to_end(&mut host.connect()), [1; 600]);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn a_handle_sends_shared_bytes_in_order() {
    with_watchdog(LIMIT, || {
        let (host, _journal, given) = net::scripted_with_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        let shared: Arc<[u8]> = pattern(2 * MIB).into();
        handle.send("before").unwrap();
        handle.send_shared(&shared).unwrap();
        handle.send("after").unwrap();
        handle.shutdown();
        assert!(net::read_to_end(&mut client) == [b"before", &shared[..], b"after"].concat());
        drop(client);
        net::until(|| Arc::strong_count(&shared) == 1);
    });
}
