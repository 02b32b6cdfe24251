//! The close after a delay, and how it is cancelled.

use std::time::Duration;

use crate::support::actor::{Actor, opening, seconds};
use crate::support::bench::with_virtual_time;
use crate::support::clock::{HOUR, SECOND};
use crate::support::net::End;
use crate::support::turn;

#[test]
fn a_second_delay_of_a_close_replaces_the_first() {
    for (first, second) in [(SECOND, 3 * SECOND), (10 * SECOND, 3 * SECOND)] {
        with_virtual_time(move |builder, clock| {
            let (bench, actors) = opening(builder, move |conn| {
                conn.close_after(first);
                conn.close_after(second);
            });
            let mut client = bench.connect();
            bench.settle();
            actors.calls.take();
            assert_eq!(seconds(&bench, &clock, &actors, 3), [vec![], vec![], vec!["close"]]);
            assert_eq!(actors.end(), Some(End::Closed));
            assert_eq!(bench.read_to_fin(&mut client), b"");
            assert_eq!(bench.event_loop.next_deadline(), None, "a timer is left");
        });
    }
}

#[test]
fn a_delayed_close_can_be_cancelled() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = opening(builder, |conn| {
            assert!(!conn.cancel_close());
            conn.close_after(SECOND);
            assert!(conn.cancel_close());
            assert!(!conn.cancel_close());
        });
        let mut client = bench.connect();
        bench.settle();
        assert_eq!(bench.event_loop.next_deadline(), None);
        clock.advance(HOUR);
        bench.send(&mut client, "still open");
        assert_eq!(actors.calls.take(), ["open", "message"]);
        // A new delay takes effect after a cancelled one.
        bench.handle(0).with(|_: &mut Actor, conn| conn.close_after(SECOND)).unwrap();
        assert_eq!(seconds(&bench, &clock, &actors, 1), [vec!["close"]]);
    });
}

#[test]
fn a_closed_connection_has_no_delayed_close() {
    with_virtual_time(|builder, _| {
        let (bench, _) = opening(builder, |conn| {
            conn.close_after(SECOND);
            conn.close();
            assert!(!conn.cancel_close());
            conn.close_after(SECOND);
            assert!(!conn.cancel_close());
        });
        let _client = bench.connect();
        bench.settle();
        assert_eq!(bench.event_loop.next_deadline(), None);
    });
}

#[test]
fn a_delay_of_zero_closes_in_this_turn_or_the_next() {
    with_virtual_time(|builder, _| {
        let (bench, actors) = opening(builder, |_| ());
        let _client = bench.connect();
        bench.handle(0).with(|_: &mut Actor, conn| conn.close_after(Duration::ZERO)).unwrap();
        turn(&bench.event_loop);
        turn(&bench.event_loop);
        assert_eq!(actors.calls.take(), ["open", "close"]);
    });
}

#[test]
fn a_delayed_close_discards_neither_earlier_replies_nor_their_order() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = opening(builder, |conn| conn.close_after(SECOND));
        let mut client = bench.connect();
        assert!(bench.handle(0).send("all of it").is_ok());
        bench.settle();
        clock.advance(SECOND);
        bench.settle();
        assert_eq!(bench.read_to_fin(&mut client), b"all of it");
        assert_eq!(actors.end(), Some(End::Closed));
    });
}
