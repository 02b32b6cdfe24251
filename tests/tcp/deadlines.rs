//! The deadline that a handler sets, over virtual time, alone and together with an idle timeout.

use std::cell::Cell;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::actor::{Actor, Actors, actors_on};
use crate::support::bench::{Bench, Ended, defaults, with_virtual_time};
use crate::support::clock::{HOUR, MINUTE, SECOND};
use crate::support::net::{End, HandlerCall, with_small_send_buffer};
use reveille::TcpConnection;
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::ConnectionLimits;
use reveille::time::VirtualClock;

/// Connects, and forgets the calls for that.
fn connect(bench: &Bench, actors: &Actors) -> TcpStream {
    let client = bench.connect();
    bench.settle();
    actors.calls.take();
    client
}

fn set(bench: &Bench, within: impl Into<Option<Duration>>) {
    let within = within.into();
    bench.handle(0).with(move |_: &mut Actor, conn| conn.set_deadline(within)).unwrap();
}

fn deadline(bench: &Bench) -> Option<Instant> {
    let found = Rc::new(Cell::new(None));
    let seen = Rc::clone(&found);
    let call = move |_: &mut Actor, conn: &TcpConnection<'_>| seen.set(conn.deadline());
    bench.handle(0).with_local(&bench.event_loop, call).unwrap();
    found.get()
}

/// The result of [`pass`] if no callback is called.
const NOTHING: [Vec<&str>; 2] = [vec![], vec![]];

/// Advances to just before the end of the period, and then to its end. Returns the calls of each
/// part.
fn pass(bench: &Bench, clock: &VirtualClock, actors: &Actors, period: Duration) -> [Vec<&'static str>; 2] {
    [period - Duration::from_nanos(1), Duration::from_nanos(1)].map(|part| {
        clock.advance(part);
        bench.settle();
        actors.calls.take()
    })
}

#[test]
fn a_passed_deadline_closes_the_connection_by_default() {
    with_virtual_time(|builder, clock| {
        let (bench, journal) =
            Bench::scripted_on(builder, defaults, |script| script.on_open(|conn| conn.set_deadline(MINUTE)));
        let mut client = bench.connect();
        clock.advance(MINUTE - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(journal.of(0), [HandlerCall::Open]);
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(journal.of(0), [HandlerCall::Open, HandlerCall::Close(End::TimedOut)]);
        assert_eq!(bench.read_all(&mut client), (vec![], Ended::Fin));
        assert_eq!(bench.event_loop.next_deadline(), None, "a timer is left");
    });
}

#[test]
fn a_deadline_closes_a_framed_connection_by_default() {
    struct Lines(Rc<Cell<Option<End>>>);

    impl FrameHandler<LineCodec> for Lines {
        fn on_open(&mut self, conn: &TcpConnection<'_>) -> std::io::Result<()> {
            conn.set_deadline(SECOND);
            Ok(())
        }

        fn on_frame(&mut self, _: &TcpConnection<'_>, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }

        fn on_close(&mut self, _: &TcpConnection<'_>, reason: &reveille::net::CloseReason) {
            self.0.set(Some(reason.into()));
        }
    }

    with_virtual_time(|builder, clock| {
        let end = Rc::new(Cell::new(None));
        let seen = Rc::clone(&end);
        let bench =
            Bench::new(builder, defaults, move |_| Framed::new(LineCodec::new(10), Lines(Rc::clone(&seen))));
        let _client = bench.connect();
        clock.advance(SECOND);
        bench.settle();
        assert_eq!(end.take(), Some(End::TimedOut));
    });
}

#[test]
fn a_deadline_is_called_once_and_is_then_no_longer_set() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| match name {
            "open" => conn.set_deadline(SECOND),
            "deadline" => assert_eq!(conn.deadline(), None),
            _ => {}
        });
        let _client = bench.connect();
        bench.settle();
        assert_eq!(deadline(&bench), Some(clock.now() + SECOND));
        actors.calls.take();
        assert_eq!(pass(&bench, &clock, &actors, SECOND), [vec![], vec!["deadline"]]);
        assert_eq!(deadline(&bench), None);
        clock.advance(HOUR);
        bench.settle();
        assert_eq!(actors.calls.take(), [""; 0]);
        assert_eq!(bench.event_loop.next_deadline(), None, "a timer is left");
    });
}

#[test]
fn a_deadline_may_be_set_again_when_it_passes() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| {
            if name == "open" || name == "deadline" {
                conn.set_deadline(SECOND);
            }
        });
        let _client = connect(&bench, &actors);
        for _ in 0..3 {
            assert_eq!(pass(&bench, &clock, &actors, SECOND), [vec![], vec!["deadline"]]);
        }
    });
}

#[test]
fn a_new_deadline_replaces_the_previous_one() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |_, _| ());
        let _client = connect(&bench, &actors);
        // Later, earlier, and later again after the timer of the earlier one has been set.
        for series in [&[1, 5][..], &[5, 1], &[9, 1, 5], &[1, 9, 5], &[5, 5]] {
            for seconds in series {
                set(&bench, SECOND * *seconds);
                assert_eq!(deadline(&bench), Some(clock.now() + SECOND * *seconds));
            }
            let last = SECOND * *series.last().unwrap();
            assert_eq!(pass(&bench, &clock, &actors, last), [vec![], vec!["deadline"]], "{series:?}");
            assert_eq!(pass(&bench, &clock, &actors, MINUTE), NOTHING, "{series:?}");
        }
    });
}

#[test]
fn a_removed_deadline_does_not_pass() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |_, _| ());
        let _client = connect(&bench, &actors);
        set(&bench, SECOND);
        set(&bench, None);
        assert_eq!(deadline(&bench), None);
        assert_eq!(pass(&bench, &clock, &actors, HOUR), NOTHING);
        // A removed one can be set again, to an earlier and to a later time than the timer.
        set(&bench, 10 * SECOND);
        set(&bench, None);
        set(&bench, SECOND);
        assert_eq!(pass(&bench, &clock, &actors, SECOND), [vec![], vec!["deadline"]]);
    });
}

#[test]
fn a_deadline_of_zero_passes_in_this_turn_or_the_next() {
    with_virtual_time(|builder, _| {
        let (bench, actors) = actors_on(builder, |name, conn| {
            if name == "message" {
                conn.set_deadline(Duration::ZERO);
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(actors.calls.take(), ["open", "message", "deadline"]);
        // Not within the call that sets it.
        let call = |actor: &mut Actor, conn: &TcpConnection<'_>| {
            conn.set_deadline(Duration::ZERO);
            actor.call("call", conn)
        };
        bench.handle(0).with(call).unwrap();
        assert_eq!(actors.calls.take(), ["call"]);
        bench.event_loop.run_once(Duration::ZERO).unwrap();
        bench.event_loop.run_once(Duration::ZERO).unwrap();
        assert_eq!(actors.calls.take(), ["deadline"]);
    });
}

#[test]
fn a_deadline_beyond_the_range_of_the_clock_never_passes() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |_, _| ());
        let _client = connect(&bench, &actors);
        set(&bench, SECOND);
        set(&bench, Duration::MAX);
        assert_eq!(pass(&bench, &clock, &actors, HOUR), NOTHING);
    });
}

#[test]
fn activity_does_not_move_a_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| match name {
            "open" => conn.set_deadline(10 * SECOND),
            "message" => conn.send("reply").unwrap(),
            _ => {}
        });
        let mut client = bench.connect();
        for _ in 0..9 {
            clock.advance(SECOND);
            bench.send(&mut client, "x");
            bench.read_exact(&mut client, 5);
        }
        actors.calls.take();
        assert_eq!(pass(&bench, &clock, &actors, SECOND), [vec![], vec!["deadline"]]);
    });
}

#[test]
fn a_deadline_and_an_idle_timeout_pass_independently() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| {
            if name == "open" {
                conn.set_idle_timeout(Some(4 * SECOND));
                conn.set_deadline(6 * SECOND);
            }
        });
        let mut client = connect(&bench, &actors);
        assert_eq!(pass(&bench, &clock, &actors, 4 * SECOND), [vec![], vec!["idle"]]);
        assert_eq!(pass(&bench, &clock, &actors, 2 * SECOND), [vec![], vec!["deadline"]]);
        assert_eq!(pass(&bench, &clock, &actors, 2 * SECOND), [vec![], vec!["idle"]]);
        // An earlier deadline leaves the idle timeout as it is, and so does its removal.
        set(&bench, SECOND);
        set(&bench, None);
        assert_eq!(pass(&bench, &clock, &actors, 4 * SECOND), [vec![], vec!["idle"]]);
        // Activity moves the idle timeout only.
        set(&bench, 5 * SECOND);
        clock.advance(3 * SECOND);
        bench.send(&mut client, "x");
        assert_eq!(actors.calls.take(), ["message"]);
        assert_eq!(pass(&bench, &clock, &actors, 2 * SECOND), [vec![], vec!["deadline"]]);
        assert_eq!(pass(&bench, &clock, &actors, 2 * SECOND), [vec![], vec!["idle"]]);
        // Both at the same time.
        set(&bench, 4 * SECOND);
        let [before, mut at] = pass(&bench, &clock, &actors, 4 * SECOND);
        at.sort_unstable();
        assert_eq!((before, at), (vec![], vec!["deadline", "idle"]));
    });
}

#[test]
fn a_close_at_the_deadline_prevents_on_idle() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| match name {
            "open" => {
                conn.set_idle_timeout(Some(SECOND));
                conn.set_deadline(SECOND);
            }
            "deadline" | "idle" => conn.close(),
            _ => {}
        });
        let _client = bench.connect();
        clock.advance(SECOND);
        bench.settle();
        let calls = actors.calls.take();
        assert_eq!((calls.len(), calls[0], calls[2]), (3, "open", "close"), "{calls:?}");
    });
}

#[test]
fn a_closed_connection_has_no_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| {
            if name == "message" || name == "close" {
                conn.set_deadline(SECOND);
                conn.close();
                conn.set_deadline(SECOND);
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(bench.event_loop.next_deadline(), None, "a timer is left");
        clock.advance(HOUR);
        bench.settle();
        assert_eq!(actors.calls.take(), ["open", "message", "close"]);
    });
}

#[test]
fn a_connection_that_closes_gracefully_gets_no_on_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| {
            if name == "open" {
                conn.set_deadline(SECOND);
                conn.close_gracefully(MINUTE);
            }
        });
        let _client = bench.connect();
        clock.advance(2 * SECOND);
        bench.settle();
        assert_eq!(actors.calls.take(), ["open"]);
        clock.advance(MINUTE);
        bench.settle();
        assert_eq!(actors.calls.take(), ["close"]);
        assert_eq!(actors.end(), Some(End::DeadlinePassed));
    });
}

#[test]
fn a_deadline_passes_while_reading_is_paused_or_output_is_queued() {
    with_virtual_time(|builder, clock| {
        let limits = ConnectionLimits::new().water_marks(1000, 500);
        let (bench, journal) = Bench::scripted_on(
            builder,
            move |builder| with_small_send_buffer(builder).limits(limits),
            |script| {
                script.on_message(|conn, input| {
                    input.clear();
                    conn.send(vec![0; 1 << 20])?;
                    conn.pause_reading();
                    conn.set_deadline(SECOND);
                    std::io::Result::Ok(())
                })
            },
        );
        let mut client = bench.connect_slow_reader();
        bench.send(&mut client, "x");
        clock.advance(SECOND);
        assert_eq!(bench.end(&journal, 0), End::TimedOut);
        // The queued output is lost.
        assert_eq!(bench.read_all(&mut client).1, Ended::Reset);
    });
}

/// The deadline moves with each message; only its last value passes.
#[test]
fn a_deadline_that_moves_with_each_message_costs_no_timer_per_message() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = actors_on(builder, |name, conn| {
            if name == "message" {
                conn.set_deadline(10 * SECOND);
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        let armed = bench.event_loop.next_deadline();
        assert_eq!(armed, Some(clock.now() + 10 * SECOND));
        for _ in 0..9 {
            clock.advance(SECOND);
            bench.send(&mut client, "x");
            assert_eq!(bench.event_loop.next_deadline(), armed, "the timer was moved");
        }
        actors.calls.take();
        assert_eq!(pass(&bench, &clock, &actors, 10 * SECOND), [vec![], vec!["deadline"]]);
    });
}
