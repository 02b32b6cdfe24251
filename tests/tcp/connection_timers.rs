//! The timers of a connection, which get its handler and end with it; and its delayed close.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::support::actor::{Actor, Actors, opening, seconds};
use crate::support::bench::{Bench, defaults, with_virtual_time};
use crate::support::clock::{HOUR, MINUTE, SECOND};
use crate::support::counting;
use crate::support::net::End;
use crate::support::{Count, LIMIT, panic_of, turn, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::time::VirtualClock;
use reveille::{ConnectionHandle, EventLoop, TcpConnection, TimerId};

fn tick(actor: &mut Actor, conn: &TcpConnection<'_>) -> io::Result<()> {
    actor.call("tick", conn)
}

// --- Calls ---------------------------------------------------------------------------------------

#[test]
fn a_timer_gets_its_handler_at_its_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = opening(builder, |conn| {
            conn.run_after(2 * SECOND, tick);
        });
        let _client = bench.connect();
        assert_eq!(actors.calls.take(), ["open"]);
        assert_eq!(seconds(&bench, &clock, &actors, 4), [vec![], vec!["tick"], vec![], vec![]]);
        assert_eq!(bench.event_loop.next_deadline(), None);
    });
}

#[test]
fn a_repeating_timer_gets_its_handler_and_keeps_its_state() {
    with_virtual_time(|builder, clock| {
        let mut number = 0;
        let (bench, actors) = opening(builder, |_| ());
        let mut client = bench.connect();
        let call = move |_: &mut Actor, conn: &TcpConnection<'_>| {
            conn.run_every(SECOND, move |_: &mut Actor, conn| {
                number += 1;
                conn.send(format!("{number} "))
            });
        };
        bench.handle(0).with(call).unwrap();
        seconds(&bench, &clock, &actors, 4);
        assert_eq!(bench.read_exact(&mut client, 8), b"1 2 3 4 ");
    });
}

#[test]
fn timers_of_a_framed_connection_get_either_handler() {
    struct Lines(u32);

    impl FrameHandler<LineCodec> for Lines {
        fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
            conn.run_after(SECOND, |lines: &mut Lines, _| lines.0 += 1);
            conn.run_every(SECOND, |_: &mut Framed<LineCodec, Lines>, conn| conn.send("framed "));
            conn.run_after(2 * SECOND, |lines: &mut Lines, conn| conn.send(lines.0.to_string()));
            Ok(())
        }

        fn on_frame(&mut self, _: &TcpConnection<'_>, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    with_virtual_time(|builder, clock| {
        let bench = Bench::new(builder, defaults, |_| Framed::new(LineCodec::new(10), Lines(0)));
        let mut client = bench.connect();
        bench.settle();
        for _ in 0..2 {
            clock.advance(SECOND);
            bench.settle();
        }
        let mut received = bench.read_exact(&mut client, 15);
        received.sort_unstable();
        let mut expected = b"framed framed 1".to_vec();
        expected.sort_unstable();
        assert_eq!(received, expected);
    });
}

#[test]
fn a_timer_made_in_the_factory_gets_the_later_handler() {
    with_virtual_time(|builder, clock| {
        let actors = Actors::new();
        let cast = actors.clone();
        let bench = Bench::new(builder, defaults, move |conn| {
            conn.run_after(Duration::ZERO, tick);
            conn.run_after(SECOND, tick);
            cast.actor(|_, _| Ok(()))
        });
        let _client = bench.connect();
        bench.settle();
        assert_eq!(actors.calls.take(), ["open", "tick"]);
        assert_eq!(seconds(&bench, &clock, &actors, 2), [vec!["tick"], vec![]]);
    });
}

// --- Ids -----------------------------------------------------------------------------------------

#[test]
fn timers_of_a_connection_are_cancelled_and_reset_by_id() {
    with_virtual_time(|builder, clock| {
        let ids = Rc::new(RefCell::new(Vec::<TimerId>::new()));
        let made = Rc::clone(&ids);
        let (bench, actors) = opening(builder, move |conn| {
            made.borrow_mut().extend([
                conn.run_after(SECOND, tick),
                conn.run_after(SECOND, tick),
                conn.run_every(SECOND, tick),
            ]);
        });
        let _client = bench.connect();
        bench.settle();
        actors.calls.take();
        let ids = ids.take();
        assert!(bench.event_loop.cancel(ids[0]));
        assert!(bench.event_loop.reset(ids[1], 3 * SECOND));
        assert_eq!(bench.event_loop.deadline(ids[1]), Some(clock.now() + 3 * SECOND));
        let expected = [vec!["tick"], vec!["tick"], vec!["tick", "tick"]];
        assert_eq!(seconds(&bench, &clock, &actors, 3), expected);
        assert!(bench.event_loop.cancel(ids[2]));
        assert!(!bench.event_loop.cancel(ids[1]), "the timer has fired");
        assert_eq!(seconds(&bench, &clock, &actors, 2), [[""; 0]; 2]);
    });
}

#[test]
fn a_repeating_timer_may_cancel_itself() {
    with_virtual_time(|builder, clock| {
        let drops = Count::default();
        let counted = drops.clone();
        let (bench, actors) = opening(builder, move |conn| {
            let id = Rc::new(Cell::new(None));
            let (own, token) = (Rc::clone(&id), counted.drop_token());
            let timer = conn.run_every(SECOND, move |actor: &mut Actor, conn| {
                token.keep();
                assert!(conn.event_loop().cancel(own.get().unwrap()));
                actor.call("tick", conn)
            });
            id.set(Some(timer));
        });
        let _client = bench.connect();
        bench.settle();
        actors.calls.take();
        assert_eq!(seconds(&bench, &clock, &actors, 3), [vec!["tick"], vec![], vec![]]);
        assert_eq!(drops.get(), 1);
    });
}

// --- Ends ----------------------------------------------------------------------------------------

#[test]
fn timers_end_at_the_close_and_not_at_their_deadline() {
    with_virtual_time(|builder, _| {
        let drops = Count::default();
        let counted = drops.clone();
        let (bench, actors) = opening(builder, move |conn| {
            let (first, second) = (counted.drop_token(), counted.drop_token());
            conn.run_after(HOUR, move |_: &mut Actor, _| first.keep());
            conn.run_every(HOUR, move |_: &mut Actor, _| second.keep());
        });
        let _client = bench.connect();
        bench.settle();
        assert_eq!(drops.get(), 0);
        bench.handle(0).close();
        bench.settle();
        assert_eq!(drops.get(), 2);
        assert_eq!(actors.calls.take(), ["open", "close"]);
        assert_eq!(bench.event_loop.next_deadline(), None);
    });
}

#[test]
fn a_timer_made_after_the_close_is_dropped() {
    with_virtual_time(|builder, clock| {
        let drops = Count::default();
        let counted = drops.clone();
        let actors = Actors::new();
        let cast = actors.clone();
        let bench = Bench::new(builder, defaults, move |_| {
            let counted = counted.clone();
            cast.actor(move |name, conn| {
                if name == "message" {
                    conn.close();
                }
                if name == "message" || name == "close" {
                    let (first, second) = (counted.drop_token(), counted.drop_token());
                    let timer = conn.run_after(Duration::ZERO, move |_: &mut Actor, _| first.keep());
                    conn.run_every(SECOND, move |_: &mut Actor, _| second.keep());
                    assert_eq!(conn.event_loop().deadline(timer), None);
                }
                Ok(())
            })
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(drops.get(), 4);
        clock.advance(HOUR);
        bench.settle();
        assert_eq!(actors.calls.take(), ["open", "message", "close"]);
    });
}

#[test]
fn a_due_timer_of_a_connection_closed_in_the_turn_does_not_fire() {
    with_virtual_time(|builder, clock| {
        let other = Rc::new(RefCell::new(None::<ConnectionHandle>));
        let closed = Rc::clone(&other);
        let (bench, actors) = opening(builder, move |conn| {
            let closed = Rc::clone(&closed);
            conn.run_after(SECOND, move |actor: &mut Actor, conn| {
                closed.take().expect("only one fires").close();
                actor.call("tick", conn)
            });
        });
        let _clients = [bench.connect(), bench.connect()];
        bench.settle();
        *other.borrow_mut() = Some(bench.handle(1));
        actors.calls.take();
        // Both are due in the same turn. The first closes the second.
        clock.advance(SECOND);
        bench.settle();
        assert_eq!(actors.calls.take(), ["tick", "close"]);
    });
}

#[test]
fn a_timer_that_fails_or_panics_closes_its_connection() {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().virtual_clock(clock.clone());
        let kinds = Rc::new(Cell::new(0));
        let kind = Rc::clone(&kinds);
        let (bench, actors) = opening(builder, move |conn| {
            kind.set(kind.get() + 1);
            let fails = |_: &mut Actor, _: &TcpConnection<'_>| Err::<(), _>(io::Error::other("intended"));
            let panics = |_: &mut Actor, _: &TcpConnection<'_>| -> () { panic!("intended by the test") };
            match kind.get() {
                1 => drop(conn.run_after(SECOND, fails)),
                2 => drop(conn.run_every(SECOND, fails)),
                3 => drop(conn.run_after(SECOND, panics)),
                4 => drop(conn.run_every(SECOND, panics)),
                _ => drop(conn.run_every(SECOND, tick)),
            }
        });
        let error = End::Error(io::ErrorKind::Other, "intended".to_owned());
        for end in [error.clone(), error, End::Panicked, End::Panicked] {
            let _client = bench.connect();
            bench.settle();
            clock.advance(SECOND);
            bench.settle();
            assert_eq!(actors.end.take(), Some(end));
            assert_eq!(actors.calls.take(), ["open", "close"]);
        }
        assert_eq!(bench.event_loop.handle().counters().panics, 2);
        assert_eq!(bench.event_loop.next_deadline(), None, "a timer is left");
        let _client = bench.connect();
        bench.settle();
        actors.calls.take();
        assert_eq!(seconds(&bench, &clock, &actors, 2), [vec!["tick"], vec!["tick"]]);
    });
}

#[test]
fn a_timer_for_another_type_panics_at_the_callers_line() {
    with_virtual_time(|builder, clock| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let panics = Rc::clone(&seen);
        let (bench, actors) = opening(builder, move |conn| {
            let mut panics = panics.borrow_mut();
            panics.push(line_of(|| _ = conn.run_after(SECOND, |_: &mut String, _| ())));
            panics.push(line_of(|| _ = conn.run_every(SECOND, |_: &mut String, _| ())));
            panics.push((panic_of(|| conn.run_every(Duration::ZERO, tick)), true));
        });
        let _client = bench.connect();
        bench.settle();
        let seen = seen.take();
        for (message, is_here) in &seen[..2] {
            assert!(message.contains("alloc::string::String"), "{message}");
            assert!(is_here, "the location of the panic is not in this file");
        }
        assert!(seen[2].0.contains("zero"), "{}", seen[2].0);
        clock.advance(HOUR);
        bench.settle();
        assert_eq!(actors.calls.take(), ["open"]);
    });
}

/// The message of a panic, and whether its location is in this file.
fn line_of(call: impl FnOnce()) -> (String, bool) {
    thread_local! {
        static IS_HERE: Cell<bool> = const { Cell::new(false) };
    }
    // The hook is process-wide, so it calls the previous one for other threads.
    let previous = std::panic::take_hook();
    let this = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == this {
            IS_HERE.set(
                info.location().is_some_and(|location| location.file().ends_with("connection_timers.rs")),
            );
        } else {
            previous(info);
        }
    }));
    let message = panic_of(call);
    drop(std::panic::take_hook());
    (message, IS_HERE.get())
}

#[test]
fn many_short_timers_do_not_accumulate_memory() {
    with_virtual_time(|builder, clock| {
        let (bench, _) = opening(builder, |_| ());
        let _client = bench.connect();
        bench.settle();
        let handle = bench.handle(0);
        let rounds = |n: usize| {
            for _ in 0..n {
                let call = |_: &mut Actor, conn: &TcpConnection<'_>| {
                    conn.run_after(SECOND, |_: &mut Actor, _| ());
                    let cancelled = conn.run_after(HOUR, |_: &mut Actor, _| ());
                    assert!(conn.event_loop().cancel(cancelled));
                };
                handle.with(call).unwrap();
                clock.advance(SECOND);
                turn(&bench.event_loop);
            }
            counting::counts().held
        };
        let before = rounds(100);
        let growth = rounds(20_000) - before;
        assert!(growth < 4096, "20,000 timers have left {growth} bytes");
    });
}

#[test]
fn many_timers_at_once_all_end_with_the_connection() {
    with_virtual_time(|builder, clock| {
        let drops = Count::default();
        let counted = drops.clone();
        let (bench, actors) = opening(builder, move |conn| {
            for number in 0..1000 {
                let token = counted.drop_token();
                let within = if number % 2 == 0 { SECOND } else { MINUTE };
                conn.run_after(within, move |actor: &mut Actor, conn| {
                    token.keep();
                    actor.call("tick", conn)
                });
            }
        });
        let _client = bench.connect();
        clock.advance(SECOND);
        bench.settle();
        assert_eq!(actors.calls.take().len(), 501);
        bench.handle(0).close();
        bench.settle();
        assert_eq!((drops.get(), actors.calls.take()), (1000, vec!["close"]));
        assert_eq!(bench.event_loop.next_deadline(), None);
    });
}
