//! Reserved replies: filled in any order, from any thread; they leave in the order of the slots.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::bench::defaults;
use crate::support::folder::Folder;
use crate::support::net::{self, Host, Random, pattern, with_small_send_buffer};
use crate::support::replies::{assert_silent, fill, quiet, reserve, send, with_first};
use crate::support::{KIB, LIMIT, MIB, on_another_thread, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{ConnectionLimits, ReplySlot};
use reveille::{TcpConnection, TcpServer};

#[test]
fn replies_leave_in_the_order_of_their_slots() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second, third] = [(); 3].map(|()| reserve(&bench));
        fill(third, "3");
        fill(second, "2");
        assert_silent(&bench, &client);
        fill(first, "1");
        assert_eq!(bench.read_exact(&mut client, 3), b"123");
        // In order, each leaves at once.
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        fill(first, "4");
        assert_eq!(bench.read_exact(&mut client, 1), b"4");
        fill(second, "5");
        assert_eq!(bench.read_exact(&mut client, 1), b"5");
    });
}

#[test]
fn output_sent_between_slots_keeps_its_place() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        send(&bench, "a");
        let first = reserve(&bench);
        send(&bench, "b");
        bench.handle(0).send("c").unwrap();
        let second = reserve(&bench);
        on_another_thread({
            let handle = bench.handle(0);
            move || handle.send("d").unwrap()
        });
        bench.settle();
        send(&bench, "e");
        assert_eq!(bench.read_exact(&mut client, 1), b"a");
        assert_silent(&bench, &client);
        fill(second, "2");
        assert_silent(&bench, &client);
        fill(first, "1");
        assert_eq!(bench.read_exact(&mut client, 6), b"1bc2de");
    });
}

#[test]
fn sends_of_one_callback_around_a_slot_keep_their_order() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let slots = with_first(&bench, |conn| {
            conn.send("a").unwrap();
            let first = conn.reserve_reply().unwrap();
            conn.send("b").unwrap();
            conn.send("c").unwrap();
            let second = conn.reserve_reply().unwrap();
            conn.send_vectored(&[io::IoSlice::new(b"d"), io::IoSlice::new(b"e")]).unwrap();
            [first, second]
        });
        let [first, second] = slots;
        assert_eq!(bench.read_exact(&mut client, 1), b"a");
        fill(first, "1");
        assert_eq!(bench.read_exact(&mut client, 3), b"1bc");
        assert_silent(&bench, &client);
        fill(second, "2");
        assert_eq!(bench.read_exact(&mut client, 3), b"2de");
    });
}

#[test]
fn a_slot_filled_in_the_callback_that_reserved_it_keeps_its_place() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        with_first(&bench, |conn| {
            conn.send("a").unwrap();
            let slot = conn.reserve_reply().unwrap();
            conn.send("b").unwrap();
            fill(slot, "1");
            conn.send("c").unwrap();
        });
        assert_eq!(bench.read_exact(&mut client, 4), b"a1bc");
    });
}

#[test]
fn a_skipped_slot_sends_nothing_and_holds_nothing_back() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second, third] = [(); 3].map(|()| reserve(&bench));
        send(&bench, "end");
        fill(third, "3");
        on_another_thread(move || second.skip());
        assert_silent(&bench, &client);
        first.skip();
        assert_eq!(bench.read_exact(&mut client, 4), b"3end");
        assert_eq!(bench.handle(0).unsent(), 0);
        assert_eq!(actors.end(), None);
    });
}

#[test]
fn large_replies_and_shared_bytes_and_files_keep_their_places() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(with_small_send_buffer);
        let mut client = bench.connect_slow_reader();
        let large = pattern(MIB);
        let shared: Arc<[u8]> = pattern(300 * KIB).into();
        let content = pattern(200 * KIB);
        let folder = Folder::new();
        fs::write(folder.join("content"), &content).unwrap();
        let file = File::open(folder.join("content")).unwrap();
        let (shared_here, length) = (Arc::clone(&shared), content.len() as u64);
        let small: Arc<[u8]> = (*b"small").into();
        let slots = with_first(&bench, move |conn| {
            let first = conn.reserve_reply().unwrap();
            conn.send_file(file.try_clone().unwrap(), 0, length).unwrap();
            conn.send_shared(&shared_here).unwrap();
            conn.send_shared(&small).unwrap();
            let second = conn.reserve_reply().unwrap();
            conn.send_file(file, 100, 1000).unwrap();
            conn.send("end").unwrap();
            [first, second]
        });
        let [first, second] = slots;
        assert_silent(&bench, &client);
        second.fill(large.clone()).unwrap();
        assert_silent(&bench, &client);
        first.fill(large.clone()).unwrap();
        bench.handle(0).shutdown();
        let expected =
            [&large[..], &content, &shared, b"small", &large, &content[100..1100], b"end"].concat();
        let received = bench.read_to_fin(&mut client);
        assert_eq!(received.len(), expected.len());
        assert!(received == expected, "the received bytes differ");
    });
}

#[test]
fn replies_of_several_threads_leave_in_order() {
    const REQUESTS: usize = 3000;
    with_watchdog(LIMIT, || {
        struct Session(mpsc::Sender<(ReplySlot, Vec<u8>)>);

        impl FrameHandler<LineCodec> for Session {
            fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
                let slot = conn.reserve_reply()?;
                self.0.send((slot, line.to_vec())).map_err(io::Error::other)
            }
        }

        let (sender, requests) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .limits(ConnectionLimits::new().max_open_replies(REQUESTS))
                .serve(move |_| Framed::new(LineCodec::new(20), Session(sender.clone())))
        });
        let mut client = host.connect();
        let expected: String = (0..REQUESTS).map(|number| format!("{number}\n")).collect();
        client.write_all(expected.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut slots: Vec<_> = (0..REQUESTS).map(|_| requests.recv_timeout(net::LIMIT).unwrap()).collect();
        let mut random = Random::new(7);
        for at in (1..slots.len()).rev() {
            slots.swap(at, random.below(at + 1));
        }
        let slots = Arc::new(Mutex::new(slots));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let Some((slot, line)) = slots.lock().unwrap().pop() else { return };
                        slot.fill([&line[..], b"\n"].concat()).unwrap();
                    }
                });
            }
        });
        assert_eq!(String::from_utf8(net::read_to_end(&mut client)).unwrap(), expected);
    });
}

/// Random operations against a list of the expected output.
#[test]
fn random_operations_produce_the_order_of_a_simple_model() {
    for seed in 0..30 {
        with_watchdog(LIMIT, move || check_against_model(seed));
    }
}

fn check_against_model(seed: u64) {
    /// A piece of the output. `None` is an open slot.
    type Piece = Rc<RefCell<Option<Vec<u8>>>>;

    let mut random = Random::new(seed);
    let (bench, actors) = quiet(with_small_send_buffer);
    let mut client = bench.connect_slow_reader();
    let mut model: VecDeque<Piece> = VecDeque::new();
    let mut open: Vec<(ReplySlot, Piece)> = Vec::new();
    let mut number = 0u64;
    let mut received = 0;
    for _ in 0..150 {
        number += 1;
        let size = [0, 1, 10, 3000, 5000, 40_000][random.below(6)];
        let mut bytes = format!("<{number}>").into_bytes();
        bytes.extend(pattern(size));
        match random.below(7) {
            0 | 1 => {
                let piece = Piece::default();
                open.push((reserve(&bench), Rc::clone(&piece)));
                model.push_back(piece);
            }
            2 | 3 if !open.is_empty() => {
                let (slot, piece) = open.swap_remove(random.below(open.len()));
                match random.below(4) {
                    0 => {
                        slot.skip();
                        *piece.borrow_mut() = Some(Vec::new());
                    }
                    1 => {
                        let sent = bytes.clone();
                        on_another_thread(move || slot.fill(sent).unwrap());
                        *piece.borrow_mut() = Some(bytes);
                    }
                    _ => {
                        slot.fill(bytes.clone()).unwrap();
                        *piece.borrow_mut() = Some(bytes);
                    }
                }
            }
            4 => {
                let sent = bytes.clone();
                let kind = random.below(3);
                with_first(&bench, move |conn| match kind {
                    0 => conn.send(&sent).unwrap(),
                    1 => conn.send_owned(sent).unwrap(),
                    _ => conn.send_shared(&sent.into()).unwrap(),
                });
                model.push_back(Rc::new(RefCell::new(Some(bytes))));
            }
            5 => {
                bench.handle(0).send(bytes.clone()).unwrap();
                model.push_back(Rc::new(RefCell::new(Some(bytes))));
            }
            _ => {
                // Everything before the first open slot arrives, and no more.
                bench.settle();
                let ready: Vec<u8> =
                    model.iter().map_while(|piece| piece.borrow().clone()).flatten().collect();
                let missing = ready.len() - received;
                let some = random.below(missing + 1);
                let read = bench.read_exact(&mut client, some);
                assert!(read == ready[received..][..some], "the bytes differ");
                received += some;
            }
        }
    }
    for (slot, piece) in open {
        slot.fill("last").unwrap();
        *piece.borrow_mut() = Some(b"last".to_vec());
    }
    bench.handle(0).shutdown();
    let expected: Vec<u8> = model.iter().flat_map(|piece| piece.borrow().clone().unwrap()).collect();
    let rest = bench.read_to_fin(&mut client);
    assert!(rest == expected[received..], "the last bytes differ");
    assert_eq!(bench.server.buffered(), 0);
    assert_eq!(actors.end(), None);
}
