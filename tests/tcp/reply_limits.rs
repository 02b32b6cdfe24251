//! The limits of reserved replies: their number, their bytes and their memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::bench::{Bench, defaults};
use crate::support::net::{self, End, HandlerCall, scripted_with, with_small_send_buffer};
use crate::support::replies::{fill, quiet, reserve, send, with_first};
use crate::support::{KIB, LIMIT, on_another_thread, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{ConnectionLimits, ReplySlot, SendError, TcpServerBuilder};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

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

/// Reserves a slot for an `s`, and replies to any other byte with a block. Counts the calls of
/// `on_high_water` and `on_low_water`.
struct Holding {
    slots: Rc<RefCell<Vec<ReplySlot>>>,
    marks: Rc<RefCell<[usize; 2]>>,
}

const BLOCK: usize = 6 * KIB;

impl ConnectionHandler for Holding {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        for byte in input.take_all() {
            match byte {
                b's' => self.slots.borrow_mut().push(conn.reserve_reply()?),
                _ => conn.send(vec![*byte; BLOCK])?,
            }
        }
        Ok(())
    }

    fn on_high_water(&mut self, _: &TcpConnection<'_>, _: usize) -> io::Result<()> {
        self.marks.borrow_mut()[0] += 1;
        Ok(())
    }

    fn on_low_water(&mut self, _: &TcpConnection<'_>) -> io::Result<()> {
        self.marks.borrow_mut()[1] += 1;
        Ok(())
    }
}

#[test]
fn reading_resumes_when_a_filled_slot_releases_output_above_the_high_water_mark() {
    with_watchdog(LIMIT, || {
        let (slots, marks) = (Rc::default(), Rc::default());
        let (kept, counted) = (Rc::clone(&slots), Rc::clone(&marks));
        let bench = Bench::new(
            EventLoop::builder().propagate_panics(),
            |builder| builder.limits(ConnectionLimits::new().water_marks(2 * BLOCK, BLOCK)),
            move |_| Holding { slots: Rc::clone(&kept), marks: Rc::clone(&counted) },
        );
        let mut client = bench.connect();
        for round in 1..=3 {
            bench.send(&mut client, "sabc");
            assert_eq!(bench.handle(0).unsent(), 3 * BLOCK);
            assert_eq!(*marks.borrow(), [round, round - 1]);
            // Not read, because the replies before it are above the mark.
            client.write_all(b"d").unwrap();
            bench.settle();
            assert_eq!(bench.handle(0).unsent(), 3 * BLOCK);
            slots.borrow_mut().drain(..).for_each(|slot| fill(slot, "s"));
            let expected =
                [&b"s"[..], &[b'a'; BLOCK], &[b'b'; BLOCK], &[b'c'; BLOCK], &[b'd'; BLOCK]].concat();
            assert!(bench.read_exact(&mut client, expected.len()) == expected);
            bench.settle();
            assert_eq!((*marks.borrow(), bench.handle(0).unsent()), ([round, round], 0));
        }
    });
}
