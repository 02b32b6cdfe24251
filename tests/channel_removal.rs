//! How channels end: closed or dropped, by themselves, by each other, by a panic or with their
//! loop, and what they are told no more. One test looks at descriptor numbers, which belong to the
//! process, so all of them run one after another.

mod support;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use reveille::EventLoop;
use reveille::io::{Channel, ChannelEvent, Interest};
use support::channels::{alone, counted, drain, is_closed, pair, with_loop};
use support::{Count, Recorder, panic_of, turn};

#[test]
fn closing_a_channel_closes_its_descriptor_at_once() {
    with_loop(|event_loop| {
        let ((ours, theirs), calls) = (pair(), Count::default());
        let channel = counted(event_loop, ours, &calls);
        assert!(!is_closed(&theirs));
        channel.close();
        assert!(is_closed(&theirs));

        let (ours, theirs) = pair();
        let channel = counted(event_loop, ours, &calls);
        drop(channel);
        assert!(is_closed(&theirs));
        turn(event_loop);
        assert_eq!(calls.get(), 0);
    });
}

#[test]
fn a_channel_that_closes_itself_keeps_its_descriptor_until_its_callback_has_returned() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let own = Rc::new(RefCell::new(None));
        let (c, channel, peer) = (calls.clone(), Rc::clone(&own), theirs.try_clone().unwrap());
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            c.add();
            event.close();
            event.close();
            assert!(!is_closed(&peer), "the callback still has the use of it");
            let mut ours = event.source();
            assert_eq!(ours.read(&mut [0; 8]).unwrap(), 1);
            ours.write_all(b"bye").unwrap();
            assert_eq!(event.set_interest(Interest::WRITABLE).unwrap_err().kind(), ErrorKind::NotFound);
            let channel: Channel<UnixStream> = channel.take().unwrap();
            assert!(!channel.is_open());
            assert_eq!(channel.with(|_| ()), None);
            assert_eq!(channel.interest(), Interest::EMPTY);
            assert_eq!(channel.set_interest(Interest::READABLE).unwrap_err().kind(), ErrorKind::NotFound);
        };
        own.replace(Some(Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()));
        turn(event_loop);
        turn(event_loop);
        assert_eq!(calls.get(), 1);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"bye");
    });
}

#[test]
fn a_channel_may_be_dropped_in_its_own_callback() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let own = Rc::new(RefCell::new(None));
        let (c, channel) = (calls.clone(), Rc::clone(&own));
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            c.add();
            drop(channel.take());
            assert!(event.set_interest(Interest::READABLE).is_err());
            assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
        };
        own.replace(Some(Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()));
        turn(event_loop);
        turn(event_loop);
        assert_eq!(calls.get(), 1);
        assert!(is_closed(&theirs));
    });
}

#[test]
fn a_channel_may_register_its_descriptor_anew_in_its_own_callback() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let (own, successor) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
        let seen = Recorder::new();
        let (s, first, next) = (seen.clone(), Rc::clone(&own), Rc::clone(&successor));
        let callback = move |event: &ChannelEvent<'_, Rc<UnixStream>>| {
            s.record("first");
            event.close();
            let s = s.clone();
            let source = Rc::clone(event.source());
            let again =
                Channel::new(event.event_loop(), source, Interest::READABLE, move |_| s.record("second"));
            next.replace(Some(again.unwrap()));
            // The new one has taken its place on the loop, and nothing that is left of the old one
            // reaches it.
            event.close();
            assert!(event.set_interest(Interest::EMPTY).is_err());
            let first: Channel<Rc<UnixStream>> = first.take().unwrap();
            assert!(!first.is_open());
            drop(first);
        };
        own.replace(Some(Channel::new(event_loop, Rc::new(ours), Interest::READABLE, callback).unwrap()));
        turn(event_loop);
        assert_eq!(seen.take(), ["first"]);
        assert!(successor.borrow().as_ref().unwrap().is_open());
        turn(event_loop);
        assert_eq!(seen.take(), ["second"]);
    });
}

/// Two channels that are ready in one turn. Whichever is called first does `to_the_other` with the
/// other one; answers the calls of both, after three turns.
fn first_come(
    event_loop: &EventLoop,
    to_the_other: impl Fn(&EventLoop, &mut Option<Channel<UnixStream>>) + 'static,
) -> Vec<&'static str> {
    type Slots = [RefCell<Option<Channel<UnixStream>>>; 2];
    let (seen, channels, act) = (Recorder::new(), Rc::new(Slots::default()), Rc::new(to_the_other));
    let mut peers = Vec::new();
    for (number, name) in ["one", "other"].into_iter().enumerate() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        peers.push(theirs);
        let (s, c, act) = (seen.clone(), Rc::clone(&channels), Rc::clone(&act));
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            drain(event);
            s.record(name);
            act(event.event_loop(), &mut c[1 - number].borrow_mut());
        };
        let channel = Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap();
        channels[number].replace(Some(channel));
    }
    for _ in 0..3 {
        turn(event_loop);
    }
    for slot in channels.iter() {
        slot.take();
    }
    seen.take()
}

#[test]
fn a_channel_that_another_one_closes_is_not_called_in_the_same_turn() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| other.take().unwrap().close());
        assert_eq!(called.len(), 1, "{called:?}");
        let called = first_come(event_loop, |_, other| drop(other.take()));
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_that_another_one_silences_is_not_called_in_the_same_turn() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| {
            other.as_ref().unwrap().set_interest(Interest::EMPTY).unwrap();
        });
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_that_another_one_changes_is_called_with_what_stands() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| {
            let other = other.as_ref().unwrap();
            // The same again: the event that was noted is void, and the kernel reports what still
            // stands.
            other.set_interest(other.interest()).unwrap();
        });
        assert_eq!(called.len(), 2, "{called:?}");
    });
}

#[test]
fn a_change_of_interest_voids_what_was_noted_and_no_longer_stands() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| {
            let other = other.as_ref().unwrap();
            other.with(|mut ours| assert_eq!(ours.read(&mut [0; 8]).unwrap(), 1)).unwrap();
            other.set_interest(other.interest()).unwrap();
        });
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_that_takes_over_a_descriptor_number_does_not_get_the_event_of_the_one_before() {
    with_loop(|event_loop| {
        let (heir, calls) = (Rc::new(RefCell::new(None)), Count::default());
        let (h, c) = (Rc::clone(&heir), calls.clone());
        let called = first_come(event_loop, move |event_loop, other| {
            let other = other.take().unwrap();
            let number = other.with(|ours| ours.as_raw_fd()).unwrap();
            other.close();
            let (ours, theirs) = pair();
            assert_eq!(ours.as_raw_fd(), number, "the kernel gives the lowest number that is free");
            h.replace(Some((counted(event_loop, ours, &c), theirs)));
        });
        assert_eq!(called.len(), 1, "{called:?}");
        assert_eq!(calls.get(), 0, "nobody has written to the heir");
        let (channel, mut theirs) = heir.take().unwrap();
        assert!(channel.is_open());
        theirs.write_all(b"x").unwrap();
        event_loop.run_once(None).unwrap();
        assert_eq!(calls.get(), 1);
    });
}

#[test]
fn channels_may_be_closed_from_timers_and_tasks() {
    with_loop(|event_loop| {
        let ((ours, theirs), calls) = (pair(), Count::default());
        let channel = counted(event_loop, ours, &calls);
        event_loop.run_after(Duration::ZERO, move |_| channel.close());
        turn(event_loop);
        assert!(is_closed(&theirs));

        let (ours, theirs) = pair();
        let channel = counted(event_loop, ours, &calls);
        event_loop.queue_in_loop(move |_| drop(channel));
        turn(event_loop);
        assert!(is_closed(&theirs));
        assert_eq!(calls.get(), 0);
    });
}

#[test]
fn a_detached_channel_goes_on_until_its_callback_closes_it() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), seen) = (pair(), Recorder::new());
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let (n, _) = drain(event);
            s.record(n);
            if s.len() == 2 {
                event.close();
            }
        });
        channel.unwrap().detach();
        for round in 1..=2 {
            theirs.write_all(b"x").unwrap();
            assert!(!is_closed(&theirs));
            turn(event_loop);
            assert_eq!(seen.len(), round);
        }
        assert!(is_closed(&theirs));
    });
}

#[test]
fn dropping_the_loop_closes_its_channels_and_what_is_left_of_them_is_inert() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ((ours, theirs), calls, drops) = (pair(), Count::default(), Count::default());
        let token = drops.drop_token();
        let kept = Channel::new(&event_loop, ours, Interest::READABLE, move |_| token.keep()).unwrap();
        let (detached, detached_peer) = pair();
        counted(&event_loop, detached, &calls).detach();
        drop(event_loop);
        assert!(is_closed(&theirs) && is_closed(&detached_peer));
        assert_eq!(drops.get(), 1);
        assert!(!kept.is_open());
        assert_eq!(kept.with(|_| ()), None);
        assert_eq!(kept.interest(), Interest::EMPTY);
        assert_eq!(kept.set_interest(Interest::READABLE).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!format!("{kept:?}").is_empty());

        // Nor does it reach the channel that has its place on the thread's next loop.
        let next = EventLoop::new().unwrap();
        let (ours, theirs) = pair();
        let other = counted(&next, ours, &calls);
        assert!(kept.set_interest(Interest::EMPTY).is_err());
        kept.close();
        assert!(other.is_open() && !is_closed(&theirs));
        assert_eq!(other.interest(), Interest::READABLE);
    });
}

#[test]
fn a_channel_that_a_callback_of_another_one_owns_is_closed_with_it() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ((outer, outer_peer), (inner, inner_peer), calls) = (pair(), pair(), Count::default());
        let owned = counted(&event_loop, inner, &calls);
        let channel = Channel::new(&event_loop, outer, Interest::READABLE, move |_| {
            let _ = owned.is_open();
        })
        .unwrap();
        channel.close();
        assert!(is_closed(&outer_peer) && is_closed(&inner_peer));

        let ((outer, outer_peer), (inner, inner_peer)) = (pair(), pair());
        let owned = counted(&event_loop, inner, &calls);
        let channel = Channel::new(&event_loop, outer, Interest::READABLE, move |_| {
            let _ = owned.is_open();
        });
        channel.unwrap().detach();
        drop(event_loop);
        assert!(is_closed(&outer_peer) && is_closed(&inner_peer));
    });
}

#[test]
fn a_channel_whose_callback_panics_is_closed() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let c = calls.clone();
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, move |_| {
            c.add();
            panic!("this channel is broken");
        })
        .unwrap();
        turn(&event_loop);
        turn(&event_loop);
        assert_eq!(calls.get(), 1);
        assert!(!channel.is_open());
        assert!(is_closed(&theirs));
        assert_eq!(event_loop.handle().counters().panics, 1);

        drop(event_loop);
        let event_loop = EventLoop::builder().propagate_panics(true).build().unwrap();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, |_| panic!("broken too"));
        assert_eq!(panic_of(|| event_loop.run()), "broken too");
        assert!(!channel.unwrap().is_open());
        assert!(is_closed(&theirs));
        turn(&event_loop);
    });
}
