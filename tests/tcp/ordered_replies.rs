//! Reserved replies: filled in any order, from any thread; they leave in the order of the slots.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::actor::{Actor, Actors};
use crate::support::bench::{Bench, Ended, defaults, with_virtual_time};
use crate::support::clock::{HOUR, MINUTE};
use crate::support::folder::Folder;
use crate::support::net::{
    self, End, HandlerCall, Host, Random, pattern, scripted_with, with_small_send_buffer,
};
use crate::support::{KIB, LIMIT, MIB, on_another_thread, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{ConnectionLimits, ConnectionState, ReplySlot, SendError, TcpServerBuilder};
use reveille::{EventLoop, EventLoopBuilder, TcpConnection, TcpServer};

/// A bench of actors that do nothing.
fn quiet(settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>) -> (Bench, Actors) {
    quiet_on(EventLoop::builder().propagate_panics(), settings)
}

fn quiet_on(
    builder: EventLoopBuilder,
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
) -> (Bench, Actors) {
    let actors = Actors::new();
    let cast = actors.clone();
    (Bench::new(builder, settings, move |_| cast.actor(|_, _| Ok(()))), actors)
}

/// Runs `call` with the first connection, and returns its result.
fn with_first<R: 'static>(bench: &Bench, call: impl FnOnce(&TcpConnection<'_>) -> R + 'static) -> R {
    let result = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&result);
    let call = move |_: &mut Actor, conn: &TcpConnection<'_>| *slot.borrow_mut() = Some(call(conn));
    bench.handle(0).with_local(&bench.event_loop, call).unwrap();
    result.take().expect("the call has run")
}

fn reserve(bench: &Bench) -> ReplySlot {
    with_first(bench, |conn| conn.reserve_reply().unwrap())
}

fn send(bench: &Bench, text: &'static str) {
    with_first(bench, move |conn| conn.send(text).unwrap());
}

fn fill(slot: ReplySlot, text: &str) {
    slot.fill(text).unwrap();
}

#[track_caller]
fn assert_silent(bench: &Bench, client: &TcpStream) {
    bench.settle();
    let flags = net::poll_flags(client);
    assert!(flags.is_empty(), "{flags:?}");
}

// --- Order ---------------------------------------------------------------------------------------

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

// --- Ends ----------------------------------------------------------------------------------------

#[test]
fn a_dropped_slot_resets_the_connection_before_any_later_reply() {
    with_watchdog(LIMIT, || {
        for remote in [false, true] {
            let (bench, actors) = quiet(defaults);
            let mut client = bench.connect();
            let [first, second, third] = [(); 3].map(|()| reserve(&bench));
            send(&bench, "sent after the slots");
            fill(third, "3");
            fill(first, "1");
            assert_eq!(bench.read_exact(&mut client, 1), b"1");
            match remote {
                true => on_another_thread(move || drop(second)),
                false => drop(second),
            }
            bench.until(|| actors.end().is_some());
            assert_eq!(actors.end(), Some(End::ReplyDropped));
            assert_eq!(bench.read_all(&mut client), (vec![], Ended::Reset));
        }
    });
}

#[test]
fn a_slot_dropped_in_a_panic_of_its_thread_resets_the_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        let slot = reserve(&bench);
        let worker = thread::spawn(move || {
            let _slot = slot;
            panic!("intended by the test");
        });
        worker.join().unwrap_err();
        bench.until(|| actors.end().is_some());
        assert_eq!(actors.end(), Some(End::ReplyDropped));
        assert_eq!(bench.read_all(&mut client).1, Ended::Reset);
    });
}

#[test]
fn a_dropped_slot_in_its_own_callback_resets_the_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        with_first(&bench, |conn| {
            drop(conn.reserve_reply().unwrap());
            let _ = conn.send("must not arrive");
        });
        bench.until(|| actors.end().is_some());
        assert_eq!(actors.end(), Some(End::ReplyDropped));
        assert_eq!(bench.read_all(&mut client), (vec![], Ended::Reset));
    });
}

#[test]
fn a_close_with_open_slots_resets_and_later_fills_are_refused() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second, third] = [(); 3].map(|()| reserve(&bench));
        fill(second, "2");
        bench.settle();
        bench.handle(0).close();
        bench.settle();
        assert_eq!(actors.end(), Some(End::Closed));
        assert_eq!(bench.read_all(&mut client), (vec![], Ended::Reset));
        let refused = first.fill("1").unwrap_err();
        assert_eq!(refused.reason(), SendError::Closed);
        let (slot, bytes) = refused.into_inner();
        assert_eq!(bytes, b"1");
        assert_eq!(on_another_thread(move || slot.fill(bytes).unwrap_err().reason()), SendError::Closed);
        third.skip();
        assert_eq!(actors.calls.take(), ["open", "close"]);
    });
}

#[test]
fn a_half_close_waits_for_all_open_slots() {
    with_watchdog(LIMIT, || {
        // The default reaction to a half-close.
        struct Plain;
        impl reveille::ConnectionHandler for Plain {
            fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut reveille::Buffer) -> io::Result<()> {
                input.clear();
                Ok(())
            }
        }
        let slots = Rc::new(RefCell::new(Vec::new()));
        let reserved = Rc::clone(&slots);
        let bench = Bench::new(EventLoop::builder().propagate_panics(), defaults, move |conn| {
            reserved.borrow_mut().extend((0..3).map(|_| conn.reserve_reply().unwrap()));
            Plain
        });
        let mut client = bench.connect();
        bench.finish(&client);
        let [first, second, third] = <[ReplySlot; 3]>::try_from(slots.take()).unwrap();
        fill(second, "2");
        on_another_thread(move || fill(third, "3"));
        assert_silent(&bench, &client);
        fill(first, "1");
        assert_eq!(bench.read_to_fin(&mut client), b"123");
        bench.until(|| !bench.handle(0).is_open());
    });
}

#[test]
fn a_shutdown_and_a_graceful_close_wait_for_open_slots() {
    let ends: [fn(&TcpConnection<'_>); 2] = [|conn| conn.shutdown(), |conn| conn.close_gracefully(HOUR)];
    for end in ends {
        with_watchdog(LIMIT, move || {
            let (bench, actors) = quiet(defaults);
            let mut client = bench.connect();
            let [first, second] = [(); 2].map(|()| reserve(&bench));
            with_first(&bench, move |conn| {
                conn.send("and ").unwrap();
                end(conn);
                assert_eq!(conn.state(), ConnectionState::Closing);
                assert_eq!(conn.send("x"), Err(SendError::ShutDown));
            });
            fill(second, "2");
            assert_silent(&bench, &client);
            on_another_thread(move || fill(first, "1"));
            assert_eq!(bench.read_to_fin(&mut client), b"12and ");
            drop(client);
            if actors.calls.take().contains(&"peer shutdown") {
                return;
            }
            bench.until(|| !bench.handle(0).is_open());
            assert_eq!(actors.end(), Some(End::Finished));
        });
    }
}

#[test]
fn a_shutdown_after_skipped_slots_sends_the_fin() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        bench.handle(0).shutdown();
        bench.settle();
        second.skip();
        assert_silent(&bench, &client);
        first.skip();
        assert_eq!(bench.read_to_fin(&mut client), b"");
    });
}

#[test]
fn a_graceful_close_with_an_open_slot_ends_at_its_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = quiet_on(builder, defaults);
        let mut client = bench.connect();
        let slot = reserve(&bench);
        with_first(&bench, |conn| conn.close_gracefully(MINUTE));
        clock.advance(MINUTE - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), None);
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), Some(End::DeadlinePassed));
        assert_eq!(slot.fill("late").unwrap_err().reason(), SendError::Closed);
        assert_eq!(bench.read_all(&mut client).1, Ended::Reset);
    });
}

#[test]
fn a_stop_of_the_server_waits_for_open_slots() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let slot = reserve(&bench);
        bench.server.handle().stop(HOUR, |_, _| ());
        assert_silent(&bench, &client);
        fill(slot, "reply");
        assert_eq!(bench.read_to_fin(&mut client), b"reply");
    });
}

#[test]
fn a_slot_outlives_its_loop() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        drop(bench);
        assert_eq!(first.fill("x").unwrap_err().reason(), SendError::Closed);
        drop(second);
        net::wait_for_end(&mut client);
    });
}

#[test]
fn a_peer_that_resets_makes_fills_fail() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let client = bench.connect();
        let slot = reserve(&bench);
        net::reset(client);
        bench.until(|| !bench.handle(0).is_open());
        bench.settle();
        assert_eq!(slot.fill("x").unwrap_err().reason(), SendError::Closed);
    });
}

// --- Limits --------------------------------------------------------------------------------------

/// Reserves a slot for each line, and keeps it in the shared list.
struct Keeping {
    slots: Rc<RefCell<VecDeque<(ReplySlot, String)>>>,
    full: Rc<RefCell<usize>>,
}

impl FrameHandler<LineCodec> for Keeping {
    fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
        match conn.reserve_reply() {
            Ok(slot) => {
                let line = String::from_utf8_lossy(line).into_owned();
                self.slots.borrow_mut().push_back((slot, line));
            }
            Err(error) => {
                assert_eq!(error, SendError::Full);
                *self.full.borrow_mut() += 1;
            }
        }
        Ok(())
    }
}

#[test]
fn the_maximum_of_open_slots_pauses_reading_and_frames_are_redelivered() {
    const REQUESTS: usize = 20;
    for fills_last_first in [false, true] {
        with_watchdog(LIMIT, move || {
            let slots = Rc::<RefCell<VecDeque<_>>>::default();
            let full = Rc::<RefCell<usize>>::default();
            let (kept, counted) = (Rc::clone(&slots), Rc::clone(&full));
            let bench = Bench::new(
                EventLoop::builder().propagate_panics(),
                |builder| builder.limits(ConnectionLimits::new().max_open_replies(3)),
                move |_| {
                    let keeping = Keeping { slots: Rc::clone(&kept), full: Rc::clone(&counted) };
                    Framed::new(LineCodec::new(10), keeping)
                },
            );
            let mut client = bench.connect();
            let lines: String = (0..REQUESTS).map(|number| format!("{number}\n")).collect();
            client.write_all(lines.as_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut delivered = 0;
            let mut expected = String::new();
            while delivered < REQUESTS {
                bench.until(|| slots.borrow().len() == 3.min(REQUESTS - delivered));
                bench.settle();
                assert_eq!(slots.borrow().len(), 3.min(REQUESTS - delivered), "the limit was exceeded");
                let mut batch: Vec<_> = slots.borrow_mut().drain(..).collect();
                delivered += batch.len();
                batch.iter().for_each(|(_, line)| expected += line);
                if fills_last_first {
                    batch.reverse();
                }
                for (number, (slot, line)) in batch.into_iter().enumerate() {
                    fill(slot, &line);
                    // A filled slot that waits for an earlier one is not free.
                    if fills_last_first && number < 2 {
                        bench.settle();
                        assert_eq!(slots.borrow().len(), 0);
                    }
                }
            }
            assert_eq!(bench.read_to_fin(&mut client), expected.as_bytes());
            assert_eq!(*full.borrow(), 0, "a frame was delivered at the limit");
        });
    }
}

#[test]
fn a_reservation_above_the_maximum_is_refused() {
    for (limit, effective) in [(0, 1), (1, 1), (3, 3)] {
        with_watchdog(LIMIT, move || check_maximum(settings_of(limit), effective));
    }
}

fn settings_of(limit: usize) -> impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> {
    move |builder| builder.limits(ConnectionLimits::new().max_open_replies(limit))
}

fn check_maximum(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
    effective: usize,
) {
    let (bench, actors) = quiet(settings);
    let mut client = bench.connect();
    let mut slots: VecDeque<_> = (0..effective).map(|_| reserve(&bench)).collect();
    let refused = || with_first(&bench, |conn| conn.reserve_reply().unwrap_err());
    assert_eq!(refused(), SendError::Full);
    // Reading is paused.
    client.write_all(b"x").unwrap();
    bench.settle();
    assert_eq!(actors.calls.take(), ["open"]);
    fill(slots.pop_front().unwrap(), "1");
    assert_eq!(bench.read_exact(&mut client, 1), b"1");
    bench.until(|| actors.calls.len() > 0);
    assert_eq!(actors.calls.take(), ["message"]);
    slots.push_back(reserve(&bench));
    assert_eq!(refused(), SendError::Full);
    slots.into_iter().for_each(ReplySlot::skip);
    bench.settle();
    assert!(bench.handle(0).is_open());
}

#[test]
fn input_left_at_the_maximum_is_delivered_again() {
    with_watchdog(LIMIT, || {
        let slots = Rc::<RefCell<Vec<ReplySlot>>>::default();
        let kept = Rc::clone(&slots);
        let (bench, journal) =
            Bench::scripted_on(EventLoop::builder().propagate_panics(), settings_of(2), move |script| {
                let kept = Rc::clone(&kept);
                // Takes one byte for each slot.
                script.on_message(move |conn, input| {
                    while !input.is_empty() {
                        let Ok(slot) = conn.reserve_reply() else { return };
                        kept.borrow_mut().push(slot);
                        input.consume(1);
                    }
                })
            });
        let mut client = bench.connect();
        bench.send(&mut client, "abcde");
        assert_eq!(journal.of(0), [HandlerCall::Open, net::message("abcde")]);
        fill(slots.borrow_mut().remove(0), "1");
        bench.settle();
        fill(slots.borrow_mut().remove(0), "2");
        fill(slots.borrow_mut().remove(0), "3");
        bench.settle();
        let later = [net::message("cde"), net::message("de")];
        assert_eq!(journal.of(0)[2..4], later);
        bench.until(|| slots.borrow().len() == 2);
        slots.borrow_mut().drain(..).for_each(|slot| fill(slot, "4"));
        assert_eq!(bench.read_exact(&mut client, 5), b"12344");
    });
}

#[test]
fn a_refused_reply_is_returned_and_can_be_filled_later() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(|builder| builder.limits(ConnectionLimits::new().max_unsent(1000)));
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        second.fill(vec![2; 900]).unwrap();
        let refused = first.fill(vec![1; 101]).unwrap_err();
        assert_eq!(refused.reason(), SendError::Full);
        let (first, bytes) = refused.into_inner();
        assert_eq!(bytes, [1; 101]);
        let refused = on_another_thread(move || first.fill(bytes).unwrap_err());
        assert_eq!(refused.reason(), SendError::Full);
        let (first, _) = refused.into_inner();
        bench.settle();
        assert_eq!(bench.handle(0).unsent(), 900);
        // It fits exactly.
        first.fill(vec![1; 100]).unwrap();
        assert_eq!(bench.read_exact(&mut client, 1000), [vec![1; 100], vec![2; 900]].concat());
        bench.settle();
        assert_eq!((actors.end(), bench.handle(0).unsent()), (None, 0));
    });
}

#[test]
fn a_slot_can_be_skipped_when_the_queue_is_full() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(|builder| builder.limits(ConnectionLimits::new().max_unsent(1000)));
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        second.fill(vec![2; 1000]).unwrap();
        assert_eq!(net::reason(bench.handle(0).send("x")), Err(SendError::Full));
        first.skip();
        assert_eq!(bench.read_exact(&mut client, 1000), [2; 1000]);
        assert_eq!(actors.end(), None);
    });
}

#[test]
fn held_replies_count_as_unsent_and_as_memory() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        assert_eq!((bench.handle(0).unsent(), bench.server.buffered()), (0, 0));
        second.fill(vec![2; 100 * KIB]).unwrap();
        bench.settle();
        assert_eq!(bench.handle(0).unsent(), 100 * KIB);
        assert_eq!(with_first(&bench, |conn| conn.unsent()), 100 * KIB);
        send(&bench, "end");
        assert_eq!(bench.handle(0).unsent(), 100 * KIB + 3);
        let buffered = bench.server.buffered();
        assert!((100 * KIB..150 * KIB).contains(&buffered), "{buffered}");
        first.fill("1").unwrap();
        bench.read_exact(&mut client, 100 * KIB + 4);
        bench.settle();
        assert_eq!((bench.handle(0).unsent(), bench.server.buffered()), (0, 0));
    });
}

#[test]
fn the_memory_of_held_replies_is_released_by_every_end() {
    type EndIt = fn(&Bench, Vec<ReplySlot>);
    let ends: [EndIt; 4] = [
        |bench, _slots| bench.handle(0).close(),
        |_, slots| drop(slots),
        |bench, slots| {
            bench.handle(0).close();
            slots.into_iter().for_each(ReplySlot::skip);
        },
        |bench, _slots| bench.server.handle().stop(Duration::ZERO, |_, _| ()),
    ];
    for end in ends {
        with_watchdog(LIMIT, move || {
            let (bench, actors) = quiet(defaults);
            let _client = bench.connect();
            let mut slots: Vec<_> = (0..5).map(|_| reserve(&bench)).collect();
            slots.pop().unwrap().fill(vec![0; 50 * KIB]).unwrap();
            send(&bench, "after the slots");
            let in_mailbox = slots.pop().unwrap();
            bench.settle();
            on_another_thread(move || in_mailbox.fill(vec![0; 50 * KIB]).unwrap());
            assert!(bench.server.buffered() >= 100 * KIB);
            end(&bench, slots);
            bench.until(|| actors.end().is_some());
            bench.settle();
            assert_eq!(bench.server.buffered(), 0);
        });
    }
}

#[test]
fn replies_above_the_high_water_mark_do_not_stall_their_slots() {
    const REQUESTS: usize = 40;
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| {
                with_small_send_buffer(builder)
                    .limits(ConnectionLimits::new().water_marks(10_000, 1000).max_open_replies(4))
            },
            |script| {
                script.terse().on_message(|conn, input| {
                    while !input.is_empty() {
                        let Ok(slot) = conn.reserve_reply() else { return };
                        input.consume(1);
                        thread::spawn(move || drop(slot.fill(vec![b'r'; 50_000])));
                    }
                })
            },
        );
        let mut client = net::connect_with_small_receive_buffer(host.address());
        let received = net::finish_meanwhile(&mut client, &[b'?'; REQUESTS]);
        assert_eq!(received.len(), REQUESTS * 50_000);
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
    });
}
