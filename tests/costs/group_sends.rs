//! The memory of sends through groups and through handles.

use std::cell::RefCell;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use crate::support::counting::counts;
use crate::support::net::{self, Journal, Random, Script, pattern};
use crate::support::{KIB, MIB, turn, with_loop};
use reveille::net::{ConnectionGroup, ConnectionLimits, FullPolicy};
use reveille::{ConnectionHandle, EventLoop, TcpConnection, TcpServer};

const MEMBERS: usize = 40;

/// Connections on this thread's loop. Their peers do not read by themselves.
struct Members {
    server: TcpServer,
    handles: Rc<RefCell<Vec<ConnectionHandle>>>,
    peers: Vec<TcpStream>,
}

impl Members {
    fn open(event_loop: &EventLoop, count: usize) -> Members {
        let (journal, handles) = (Journal::new(), Rc::new(RefCell::new(Vec::new())));
        let opened = Rc::clone(&handles);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .limits(ConnectionLimits::new().max_unsent(64 * MIB))
            .serve(move |_| {
                let opened = Rc::clone(&opened);
                journal.script().on_open(move |conn| opened.borrow_mut().push(conn.handle()))
            })
            .unwrap();
        let address = server.local_addr().unwrap();
        let peers: Vec<_> = (0..count).map(|_| net::connect_with_small_receive_buffer(address)).collect();
        net::turn_until(event_loop, || handles.borrow().len() == count);
        Members { server, handles, peers }
    }

    fn group(&self) -> ConnectionGroup {
        let group = ConnectionGroup::new(FullPolicy::Close);
        self.handles.borrow().iter().for_each(|handle| group.join(handle));
        group
    }

    /// Reads the next bytes of each peer, while the loop runs.
    fn assert_receive(&mut self, event_loop: &EventLoop, expected: &Arc<[u8]>) {
        let mut peers: Vec<_> = self.peers.iter().map(|peer| peer.try_clone().unwrap()).collect();
        let expected = Arc::clone(expected);
        let reader = thread::spawn(move || {
            peers.iter_mut().all(|peer| net::read_exact(peer, expected.len()) == *expected)
        });
        net::turn_until(event_loop, || reader.is_finished());
        assert!(reader.join().unwrap(), "a peer received other bytes");
    }
}

/// The limit of memory for a member without its payloads: its queue.
const QUEUE_OVERHEAD: u64 = 1024;

#[test]
fn a_group_send_copies_no_large_payload() {
    with_loop(|event_loop| {
        let mut members = Members::open(event_loop, MEMBERS);
        let group = members.group();
        let payload: Arc<[u8]> = pattern(MIB).into();
        for payloads in [1, 3] {
            let before = counts().requested;
            (0..payloads).for_each(|_| group.send(Arc::clone(&payload)).unwrap());
            turn(event_loop);
            let requested = counts().requested - before;
            println!("{requested} bytes allocated for {payloads} payloads");
            assert!(requested < MEMBERS as u64 * QUEUE_OVERHEAD, "{requested} bytes were allocated");
            (0..payloads).for_each(|_| members.assert_receive(event_loop, &payload));
        }
        assert_eq!((group.len(), group.missed()), (MEMBERS, 0));
        net::turn_until(event_loop, || Arc::strong_count(&payload) == 1);
    });
}

#[test]
fn small_payloads_of_a_group_are_copied_once_for_all_members() {
    with_loop(|event_loop| {
        const LINES: usize = 500;
        let mut members = Members::open(event_loop, MEMBERS);
        let group = members.group();
        let line: Arc<[u8]> = vec![b'-'; 100].into();
        let send_lines = || {
            (0..LINES).for_each(|_| group.send(Arc::clone(&line)).unwrap());
            turn(event_loop);
        };
        let expected: Arc<[u8]> = line.repeat(LINES).into();
        send_lines();
        members.assert_receive(event_loop, &expected);
        let before = counts().requested;
        send_lines();
        let requested = (counts().requested - before) as usize;
        println!("{requested} bytes allocated for {} bytes", expected.len());
        // Lists of the payloads, two copies of them, and the queues of slow members.
        assert!(requested < 8 * expected.len(), "{requested} bytes were allocated");
        members.assert_receive(event_loop, &expected);
    });
}

#[test]
fn small_sends_through_a_handle_share_their_memory() {
    with_loop(|event_loop| {
        const SENDS: usize = 20_000;
        let mut members = Members::open(event_loop, 1);
        let handle = members.handles.borrow()[0].clone();
        let expected: Arc<[u8]> = pattern(100 * SENDS).into();
        let held = counts().held;
        expected.chunks(100).for_each(|piece| handle.send(piece).unwrap());
        let held = (counts().held - held) as usize;
        println!("{held} bytes held for {} bytes", expected.len());
        assert!(held < expected.len() + 300 * KIB, "{held} bytes are held");
        // The account of the server counts what is allocated.
        let buffered = members.server.buffered();
        assert!(buffered >= expected.len() && buffered <= held, "{buffered} bytes are counted, {held} held");
        members.assert_receive(event_loop, &expected);
        net::turn_until(event_loop, || members.server.buffered() == 0);
    });
}

#[test]
fn sends_of_a_handle_keep_their_order_in_any_sizes() {
    with_loop(|event_loop| {
        let mut members = Members::open(event_loop, 1);
        let handle = members.handles.borrow()[0].clone();
        let expected: Arc<[u8]> = pattern(2 * MIB).into();
        let mut random = Random::new(3);
        let mut rest = &expected[..];
        while !rest.is_empty() {
            let most = [1, 100, 4096, 4097, 70_000][random.below(5)];
            let (now, later) = rest.split_at(random.below(most + 1).min(rest.len()));
            match random.below(4) {
                0 => handle.send_shared(&now.into()).unwrap(),
                1 => {
                    let now = now.to_vec();
                    let call = move |_: &mut Script, conn: &TcpConnection| conn.send(&now);
                    assert!(handle.with_local(event_loop, call).is_ok());
                }
                _ => handle.send(now).unwrap(),
            }
            rest = later;
        }
        members.assert_receive(event_loop, &expected);
    });
}
