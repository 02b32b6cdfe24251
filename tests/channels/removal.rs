//! How channels end: closed or dropped, by themselves, by each other, by a panic or with their
//! loop. A closed channel receives no more events.
//!
//! One test checks descriptor numbers, which belong to the process, so all tests run one after
//! another.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use crate::support::alone::{alone, alone_with_loop};
use crate::support::channels::{counted, drain, is_closed, pair};
use crate::support::{Count, Recorder, panic_of, turn};
use reveille::EventLoop;
use reveille::io::{Channel, ChannelEvent, Interest};

#[test]
fn closing_a_channel_closes_its_descriptor_at_once() {
    alone_with_loop(|event_loop| {
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
fn a_self_closed_channel_keeps_its_descriptor_during_the_callback() {
    alone_with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let own = Rc::new(RefCell::new(None));
        let (c, channel, peer) = (calls.clone(), Rc::clone(&own), theirs.try_clone().unwrap());
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            c.add();
            event.close();
            event.close();
            assert!(!is_closed(&peer), "the descriptor stays open during the callback");
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
fn a_channel_can_be_dropped_in_its_own_callback() {
    alone_with_loop(|event_loop| {
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
fn a_callback_can_close_and_reregister_its_descriptor() {
    alone_with_loop(|event_loop| {
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
            // The new channel occupies the old channel's slot on the loop. Operations through the
            // old channel do not reach it.
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

/// Makes two channels ready in one turn. The channel that is called first applies `to_the_other` to
/// the other channel. Returns the calls of both after three turns.
fn calls_after_first(
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
fn a_channel_closed_by_another_is_not_called_that_turn() {
    alone_with_loop(|event_loop| {
        let called = calls_after_first(event_loop, |_, other| other.take().unwrap().close());
        assert_eq!(called.len(), 1, "{called:?}");
        let called = calls_after_first(event_loop, |_, other| drop(other.take()));
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_silenced_by_another_is_not_called_that_turn() {
    alone_with_loop(|event_loop| {
        let called = calls_after_first(event_loop, |_, other| {
            other.as_ref().unwrap().set_interest(Interest::EMPTY).unwrap();
        });
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_changed_by_another_gets_its_current_readiness() {
    alone_with_loop(|event_loop| {
        let called = calls_after_first(event_loop, |_, other| {
            let other = other.as_ref().unwrap();
            // Sets the same interest again. This discards the pending event, and the kernel reports
            // the current readiness.
            other.set_interest(other.interest()).unwrap();
        });
        assert_eq!(called.len(), 2, "{called:?}");
    });
}

#[test]
fn a_change_of_interest_discards_stale_pending_events() {
    alone_with_loop(|event_loop| {
        let called = calls_after_first(event_loop, |_, other| {
            let other = other.as_ref().unwrap();
            other.with(|mut ours| assert_eq!(ours.read(&mut [0; 8]).unwrap(), 1)).unwrap();
            other.set_interest(other.interest()).unwrap();
        });
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_reused_descriptor_number_gets_no_event_of_its_predecessor() {
    alone_with_loop(|event_loop| {
        let (replacement, calls) = (Rc::new(RefCell::new(None)), Count::default());
        let (r, c) = (Rc::clone(&replacement), calls.clone());
        let called = calls_after_first(event_loop, move |event_loop, other| {
            let other = other.take().unwrap();
            let number = other.with(|ours| ours.as_raw_fd()).unwrap();
            other.close();
            let (ours, theirs) = pair();
            assert_eq!(ours.as_raw_fd(), number, "the kernel assigns the lowest free number");
            r.replace(Some((counted(event_loop, ours, &c), theirs)));
        });
        assert_eq!(called.len(), 1, "{called:?}");
        assert_eq!(calls.get(), 0, "the replacement has received no bytes");
        let (channel, mut theirs) = replacement.take().unwrap();
        assert!(channel.is_open());
        theirs.write_all(b"x").unwrap();
        event_loop.run_once(None).unwrap();
        assert_eq!(calls.get(), 1);
    });
}

#[test]
fn channels_can_be_closed_from_timers_and_tasks() {
    alone_with_loop(|event_loop| {
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
fn a_detached_channel_stays_open_until_its_callback_closes_it() {
    alone_with_loop(|event_loop| {
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
fn dropping_the_loop_closes_its_channels_and_disables_their_handles() {
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

        // It does not reach the channel that occupies its slot on the thread's next loop either.
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
fn a_channel_owned_by_another_callback_closes_with_it() {
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
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, |_| panic!("broken too"));
        assert_eq!(panic_of(|| event_loop.run()), "broken too");
        assert!(!channel.unwrap().is_open());
        assert!(is_closed(&theirs));
        turn(&event_loop);
    });
}
