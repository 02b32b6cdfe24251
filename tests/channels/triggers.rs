//! Edge-triggered and one-shot channels.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::channels::{drain, pair};
use crate::support::{Count, Recorder, is_readable, turn, with_catching_loop, with_loop};
use reveille::io::{Channel, ChannelEvent, Interest, Trigger};

type Event<'a> = ChannelEvent<'a, UnixStream>;

#[test]
fn an_edge_triggered_channel_is_called_once_for_unread_input() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let counting = calls.clone();
        let callback = move |_: &Event<'_>| counting.add();
        let channel =
            Channel::with_trigger(event_loop, ours, Interest::READABLE, Trigger::Edge, callback).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 0);
        theirs.write_all(b"x").unwrap();
        for _ in 0..3 {
            turn(event_loop);
            assert_eq!(calls.get(), 1);
        }
        assert!(!is_readable(event_loop), "unread input does not wake the loop");
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 2, "more input is an edge");
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 3, "existing readiness is reported again");
        drop(theirs);
        turn(event_loop);
        assert_eq!(calls.get(), 4, "the end of input is an edge");
    });
}

#[test]
fn an_edge_triggered_channel_that_drains_misses_no_input() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), seen) = (pair(), Recorder::new());
        let recording = seen.clone();
        let callback = move |event: &Event<'_>| recording.record(drain(event));
        let _channel =
            Channel::with_trigger(event_loop, ours, Interest::READABLE, Trigger::Edge, callback).unwrap();
        for length in 1..100 {
            theirs.write_all(&vec![0; length]).unwrap();
            turn(event_loop);
            assert_eq!(seen.take(), [(length, false)]);
        }
        theirs.write_all(b"last").unwrap();
        drop(theirs);
        turn(event_loop);
        assert_eq!(seen.take(), [(4, true)]);
    });
}

#[test]
fn an_edge_triggered_channel_may_change_its_own_interest() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), seen) = (pair(), Recorder::new());
        let recording = seen.clone();
        let callback = move |event: &Event<'_>| {
            recording.record((event.readiness().is_readable(), event.readiness().is_writable()));
            drain(event);
            event.set_interest(Interest::READABLE).unwrap();
        };
        let _channel =
            Channel::with_trigger(event_loop, ours, Interest::WRITABLE, Trigger::Edge, callback).unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(false, true)]);
        turn(event_loop);
        assert_eq!(seen.take(), []);
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(true, false)]);
    });
}

#[test]
fn a_one_shot_channel_is_called_once_until_armed_again() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let counting = calls.clone();
        let callback = move |_: &Event<'_>| counting.add();
        let channel =
            Channel::with_trigger(event_loop, ours, Interest::READABLE, Trigger::OneShot, callback).unwrap();
        turn(event_loop);
        assert_eq!((calls.get(), channel.interest()), (0, Interest::READABLE));
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!((calls.get(), channel.interest()), (1, Interest::EMPTY));
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 1);
        assert!(!is_readable(event_loop), "an unarmed channel does not wake the loop");
        for armed in 2..5 {
            channel.set_interest(Interest::READABLE).unwrap();
            turn(event_loop);
            turn(event_loop);
            assert_eq!(calls.get(), armed, "input that exists is reported, once");
        }
        drop(theirs);
        turn(event_loop);
        assert_eq!(calls.get(), 4, "not even for a hang-up");
        assert!(!is_readable(event_loop));
    });
}

#[test]
fn a_one_shot_callback_may_arm_or_close_its_channel() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), seen) = (pair(), Recorder::new());
        let recording = seen.clone();
        let callback = move |event: &Event<'_>| {
            let mut byte = [0];
            match event.source().read(&mut byte).unwrap() {
                0 => event.close(),
                _ => event.set_interest(Interest::READABLE).unwrap(),
            }
            recording.record(byte[0]);
        };
        let channel =
            Channel::with_trigger(event_loop, ours, Interest::READABLE, Trigger::OneShot, callback).unwrap();
        theirs.write_all(b"ab").unwrap();
        drop(theirs);
        for expected in [b'a', b'b', 0] {
            assert!(channel.is_open());
            turn(event_loop);
            assert_eq!(seen.take(), [expected]);
        }
        assert!(!channel.is_open());
    });
}

#[test]
fn a_panic_in_a_one_shot_callback_closes_the_channel() {
    with_catching_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        let callback = |_: &Event<'_>| panic!("on purpose");
        let channel =
            Channel::with_trigger(event_loop, ours, Interest::READABLE, Trigger::OneShot, callback).unwrap();
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert!(!channel.is_open() && channel.set_interest(Interest::READABLE).is_err());
    });
}
