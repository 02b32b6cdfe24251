//! A peer that violates the protocol causes an error and nothing else.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;

use rustix::fs::OFlags;

use super::super::event_index::Word;
use super::super::tests::{Pair, next};
use super::super::*;
use crate::eventfd::EventFd;
use crate::random::Random;

/// Upper bound for a call that does not sleep.
const LIMIT: Duration = Duration::from_secs(60);

/// A pair in which this end has messages to read and has sent some that the other end has not read.
fn busy() -> Pair {
    let mut pair = Pair::new(256);
    for n in 0..4 {
        pair.there.send([n; 16]).unwrap();
        pair.here.send([n; 16]).unwrap();
    }
    next(&mut pair.here).unwrap();
    pair
}

/// Checks that this end detects the violation in `act`, and returns the same error ever after.
#[track_caller]
fn ends_with(expected: RingError, spoil: impl Fn(&mut Pair), act: fn(&mut SharedRing) -> Option<RingError>) {
    let mut pair = busy();
    spoil(&mut pair);
    assert_eq!(act(&mut pair.here), Some(expected));
    let untouched: Vec<u64> = pair.memory.words().iter().map(Word::load_relaxed).collect();
    assert_eq!(pair.here.send("no more"), Err(RingSendError::Ended(expected)));
    assert_eq!(pair.here.receive(&mut Vec::new()), Err(expected));
    assert_eq!(pair.here.link.may_sleep(), Err(expected));
    assert_eq!(pair.here.link.take_space_event(), Err(expected));
    let error = pair.here.wait(None).unwrap_err();
    assert_eq!(error.to_string(), expected.to_string());
    let now: Vec<u64> = pair.memory.words().iter().map(Word::load_relaxed).collect();
    assert_eq!(untouched, now, "nothing is written after the end");
}

fn receive_all(end: &mut SharedRing) -> Option<RingError> {
    let mut message = Vec::new();
    for _ in 0..100 {
        match end.receive(&mut message) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(error),
        }
    }
    panic!("more messages than the ring can hold");
}

fn fill(end: &mut SharedRing) -> Option<RingError> {
    for _ in 0..100 {
        match end.send([0; 24]) {
            Ok(()) => {}
            Err(RingSendError::Ended(error)) => return Some(error),
            Err(_) => return None,
        }
    }
    panic!("more messages than the ring can hold");
}

#[test]
fn an_invalid_tail_ends_the_link() {
    // This end has read a tail of 96; once all of that is read, the tail may be 256 further.
    for tail in [0, 88, 24, 97, 100, 96 + 257, 96 + 264, 1 << 40, u64::MAX, u64::MAX - 7] {
        let spoil = |pair: &mut Pair| pair.memory.ring_of(Side::Joiner).tail.store_relaxed(tail);
        ends_with(RingError::Position, spoil, receive_all);
        ends_with(RingError::Position, spoil, |end| end.link.may_sleep().err());
    }
}

#[test]
fn an_invalid_head_ends_the_link() {
    // 256 bytes have been written when this end reads the head.
    for head in [264, 97, 1, 95, 1 << 40, u64::MAX - 7] {
        let spoil = |pair: &mut Pair| pair.memory.ring_of(Side::Creator).head.store_relaxed(head);
        ends_with(RingError::Position, spoil, fill);
    }
    // Backwards, after this end has read a larger value.
    ends_with(
        RingError::Position,
        |pair| {
            let head = |head| pair.memory.ring_of(Side::Creator).head.store_relaxed(head);
            head(48);
            assert_eq!(fill(&mut pair.here), None);
            head(40);
        },
        |end| end.link.take_space_event().err(),
    );
}

#[test]
fn an_invalid_length_ends_the_link() {
    // The next message is at 24, and 72 bytes have been written from there.
    for length in [65, 72, 248, 249, 256, 1 << 31, 1 << 32, (1 << 32) + 16, 1 << 63, u64::MAX, u64::MAX - 7] {
        let spoil = |pair: &mut Pair| {
            let (header, _) = pair.memory.ring_of(Side::Joiner).pieces(24, 8);
            header[0].store_relaxed(length);
        };
        ends_with(RingError::Length, spoil, receive_all);
    }
}

/// Brings the counter to its maximum.
fn fill_counter(eventfd: &EventFd) {
    let counter = eventfd.counter().unwrap();
    eventfd.write(EventFd::MAX - counter).unwrap();
    assert_eq!(eventfd.write(1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// Each bell is rung by one end and watched by the other; either may be the hostile one.
#[test]
fn blocking_full_bells_can_still_be_rung() {
    within(LIMIT, || {
        let pair = Pair::new(256);
        for bell in [&pair.here.bell, &pair.there.bell] {
            fill_counter(bell.eventfd());
            let flags = rustix::fs::fcntl_getfl(bell).unwrap();
            rustix::fs::fcntl_setfl(bell, flags.difference(OFlags::NONBLOCK)).unwrap();
        }
        let (mut from, mut to) = (pair.here, pair.there);
        for _ in 0..2 {
            to.wait(Some(Duration::ZERO)).unwrap();
            from.send("rung for").unwrap();
            to.wait(None).unwrap();
            assert!(next(&mut to).is_some());
            (from, to) = (to, from);
        }
    });
}

#[test]
fn ringing_a_full_plain_bell_does_not_block() {
    let (mut here, descriptors) = SharedRing::create_with(256, Doorbell::Plain).unwrap();
    let mut there = SharedRing::from_descriptors_with(descriptors, 256, Doorbell::Plain).unwrap();
    there.bell.eventfd().write(EventFd::MAX).unwrap();
    here.send("it has been rung for, if not by us").unwrap();
    assert!(next(&mut there).is_some());
}

/// The eventfd is the test's own, since the counter of a bell cannot be exhausted. Its id is not
/// compared here.
#[test]
fn ringing_an_empty_or_plain_eventfd_ends_the_link() {
    let empty = EventFd::builder().semaphore().build().unwrap();
    let plain = EventFd::new(7).unwrap();
    for (eventfd, kind) in [(empty, io::ErrorKind::WouldBlock), (plain, io::ErrorKind::InvalidData)] {
        let blocking = OwnedFd::from(eventfd);
        rustix::fs::fcntl_setfl(&blocking, OFlags::empty()).unwrap();
        let mut pair = Pair::new(256);
        pair.here.link.peer = Bell::unchecked(EventFd::from(blocking));
        within(LIMIT, move || {
            let ended = RingError::Bell(kind);
            assert_eq!(pair.here.send("!"), Err(RingSendError::Ended(ended)));
            assert_eq!(pair.here.receive(&mut Vec::new()), Err(ended));
        });
    }
}

/// Fails if the call sleeps.
fn within(limit: Duration, call: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        call();
        done.send(()).unwrap();
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = is_done.recv_timeout(limit) {
        panic!("a call sleeps");
    }
    thread.join().unwrap();
}

impl Memory {
    /// A ring of 256 bytes, written by `side`.
    fn ring_of(&self, side: Side) -> layout::Ring<'_> {
        layout::ring_in(self.words(), 256, side)
    }
}

/// Runs random operations on the end, whatever they return. No message may be longer than the ring.
fn live(end: &mut SharedRing, random: &mut Random, steps: usize) -> Option<RingError> {
    let mut message = Vec::new();
    for _ in 0..steps {
        let done = match random.below(5) {
            0 | 1 => end.receive(&mut message).map(drop),
            2 => match end.send(&[1; 248][..random.below(249)]) {
                Err(RingSendError::Ended(error)) => Err(error),
                _ => Ok(()),
            },
            3 => end.link.may_sleep().map(drop),
            _ => end.link.take_space_event().map(drop),
        };
        assert!(message.len() <= 248, "a message of {} bytes", message.len());
        if let Err(error) = done {
            assert_eq!(end.receive(&mut message), Err(error), "an end is for good");
            return Some(error);
        }
    }
    None
}

/// A word that is invalid in an interesting way.
fn garbage(random: &mut Random, words: &[std::sync::atomic::AtomicU64]) -> u64 {
    let near = words[random.below(words.len())].load_relaxed();
    match random.below(7) {
        0 => random.next(),
        1 => near.wrapping_add(random.below(600) as u64 * 8).wrapping_sub(2400),
        2 => random.below(300) as u64,
        3 => near,
        4 => near.wrapping_add(random.below(16) as u64).wrapping_sub(8),
        5 => [0, u64::MAX, u64::MAX - 7, 1 << 63, 1 << 32, 256][random.below(6)],
        _ => near ^ (1 << random.below(64)),
    }
}

/// Picks a word: positions and marks more often than message bytes, since they matter more.
fn place(random: &mut Random, words: usize) -> usize {
    match random.below(3) {
        0 => 16 * random.below(9),
        1 => 512 + random.below(64),
        _ => random.below(words),
    }
}

#[test]
fn garbage_between_calls_is_an_error_or_harmless() {
    let (mut ended, mut lived) = (0, 0);
    for seed in 1..=3000 {
        let mut random = Random::new(seed);
        let mut pair = Pair::new(256);
        let mut error = None;
        for _ in 0..20 {
            live(&mut pair.there, &mut random, 6);
            error = live(&mut pair.here, &mut random, 6);
            if error.is_some() {
                break;
            }
            let words = pair.memory.words();
            let garbage = garbage(&mut random, words);
            words[place(&mut random, words.len())].store_relaxed(garbage);
        }
        *if error.is_some() { &mut ended } else { &mut lived } += 1;
    }
    assert!(ended > 1000 && lived > 100, "{ended} ended, {lived} lived on");
}

#[test]
fn concurrent_garbage_is_an_error_or_harmless() {
    for seed in 1..=40 {
        let mut pair = Pair::new(256);
        let mut random = Random::new(seed);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(seed + 1_000_000);
                let words = pair.memory.words();
                while !done.load(SeqCst) {
                    // Mostly headers and bytes of messages, so that the link survives for a while.
                    let place = if random.below(50) == 0 {
                        place(&mut random, words.len())
                    } else {
                        512 + random.below(64)
                    };
                    let value = if random.below(2) == 0 { 16 } else { garbage(&mut random, words) };
                    words[place].store_relaxed(value);
                }
            });
            for _ in 0..200 {
                live(&mut pair.there, &mut random, 10);
                if live(&mut pair.here, &mut random, 10).is_some() {
                    break;
                }
            }
            done.store(true, SeqCst);
        });
    }
}
