//! Tests with two ends in one process, and a third mapping through which the peer violates the
//! protocol.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use super::event_index::Word;
use super::*;
use crate::eventfd::EventFd;
use crate::random::Random;

/// The largest capacity accepted.
const MAX: usize = 4096;

/// Two ends, and all words of the memory, as a hostile peer could write them.
pub(super) struct Pair {
    pub(super) here: SharedRing,
    pub(super) there: SharedRing,
    pub(super) memory: Memory,
}

impl Pair {
    pub(super) fn new(capacity: usize) -> Pair {
        let (here, descriptors) = SharedRing::create(capacity).unwrap();
        let memory = Memory::map(descriptors[0].as_fd()).unwrap();
        let there = SharedRing::from_descriptors(descriptors, MAX).unwrap();
        Pair { here, there, memory }
    }

    /// The number of rings received by this end and by the other one.
    fn rings(&self) -> (u64, u64) {
        (self.here.bell.rings(), self.there.bell.rings())
    }
}

/// Receives the next message, if there is one.
pub(super) fn next(end: &mut SharedRing) -> Option<Vec<u8>> {
    let mut message = vec![0xee; 3];
    end.receive(&mut message).unwrap().then_some(message)
}

fn message(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|n| (seed * 31 + n) as u8).collect()
}

#[test]
fn messages_of_every_length_wrap_at_every_offset() {
    let mut pair = Pair::new(64);
    for begin in (0..64).step_by(8) {
        for length in 0..=pair.here.max_message_len() {
            // Advances to the offset, from the end of the last message.
            while pair.here.link.producer.tail_offset(64) != begin {
                pair.here.send([]).unwrap();
                assert_eq!(next(&mut pair.there), Some(vec![]));
            }
            let sent = message(begin, length);
            pair.here.send(&sent).unwrap();
            assert_eq!(next(&mut pair.there), Some(sent), "{length} bytes at {begin}");
            assert_eq!(next(&mut pair.there), None);
        }
    }
}

#[test]
fn random_messages_arrive_in_order_and_are_refused_only_when_full() {
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let capacity = 64 << random.below(4);
        let mut pair = Pair::new(capacity);
        let mut in_flight = [VecDeque::new(), VecDeque::new()];
        for step in 0..400 {
            let way = random.below(2);
            let (from, to) =
                if way == 0 { (&mut pair.here, &mut pair.there) } else { (&mut pair.there, &mut pair.here) };
            let in_flight: &mut VecDeque<Vec<u8>> = &mut in_flight[way];
            if random.below(2) == 0 {
                let longest = [8, 40, capacity - 7][random.below(3)];
                let sent = message(step, random.below(longest));
                let used: usize = in_flight.iter().map(|message| record::total_len(message.len())).sum();
                let fits = used + record::total_len(sent.len()) <= capacity;
                match from.send(&sent) {
                    Ok(()) => {
                        assert!(fits, "seed {seed}");
                        in_flight.push_back(sent);
                    }
                    // The consumer does not publish each message read, but at least every eighth of
                    // the capacity.
                    Err(RingSendError::Full) => {
                        assert!(
                            used + record::total_len(sent.len()) > capacity - capacity / 8,
                            "seed {seed}"
                        );
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            } else {
                assert_eq!(next(to), in_flight.pop_front(), "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn only_messages_above_the_maximum_length_are_refused() {
    let mut pair = Pair::new(1000);
    assert_eq!((pair.here.max_message_len(), pair.there.max_message_len()), (1016, 1016));
    assert_eq!(pair.here.send([1; 1017]), Err(RingSendError::TooLong { longest: 1016 }));
    assert_eq!(next(&mut pair.there), None);
    pair.here.send([7; 1016]).unwrap();
    assert_eq!(pair.here.send([]), Err(RingSendError::Full));
    assert_eq!(next(&mut pair.there), Some(vec![7; 1016]));
    assert_eq!(next(&mut pair.there), None);
    pair.here.send([8; 1016]).unwrap();
    assert_eq!(next(&mut pair.there), Some(vec![8; 1016]));
}

#[test]
fn a_sleeping_reader_is_rung_once_an_awake_one_never() {
    let mut pair = Pair::new(4096);
    pair.here.send("first").unwrap();
    assert_eq!(pair.rings(), (0, 1), "an end begins asleep");
    for _ in 0..100 {
        pair.here.send("more").unwrap();
        pair.there.send("more").unwrap();
    }
    assert_eq!(pair.rings(), (1, 1));
    for round in 2..5 {
        while next(&mut pair.there).is_some() {}
        pair.here.send("sent before the sleep is known").unwrap();
        assert_eq!(pair.rings(), (1, round - 1));
        assert!(!pair.there.link.may_sleep().unwrap(), "there is a message");
        next(&mut pair.there).unwrap();
        assert!(pair.there.link.may_sleep().unwrap());
        pair.here.send("it sleeps").unwrap();
        pair.here.send("and has been rung for").unwrap();
        assert_eq!(pair.rings(), (1, round));
    }
}

#[test]
fn a_blocked_writer_is_rung_once_half_the_ring_is_free() {
    let mut pair = Pair::new(1024);
    let fill = |end: &mut SharedRing| {
        while end.send([0; 56]).is_ok() {}
        assert_eq!(end.send([0; 56]), Err(RingSendError::Full));
    };
    for round in 1..4 {
        fill(&mut pair.here);
        assert!(!pair.here.link.take_space_event().unwrap());
        for _ in 0..7 {
            next(&mut pair.there).unwrap();
        }
        assert_eq!(pair.rings().0, round - 1);
        assert!(!pair.here.link.take_space_event().unwrap(), "less than half of it is free");
        next(&mut pair.there).unwrap();
        assert_eq!(pair.rings().0, round);
        assert!(pair.here.link.take_space_event().unwrap());
        assert!(!pair.here.link.take_space_event().unwrap(), "reported once");
        while next(&mut pair.there).is_some() {}
        assert_eq!(pair.rings().0, round, "rung once");
    }
    // A message larger than half of the ring waits for the space that it needs.
    fill(&mut pair.here);
    assert_eq!(pair.here.send([0; 1016]), Err(RingSendError::Full));
    for _ in 0..15 {
        next(&mut pair.there).unwrap();
    }
    assert!(!pair.here.link.take_space_event().unwrap());
    next(&mut pair.there).unwrap();
    assert_eq!(next(&mut pair.there), None);
    assert!(pair.here.link.take_space_event().unwrap());
    pair.here.send([0; 1016]).unwrap();
}

#[test]
fn a_wait_publishes_the_head_even_if_little_was_read() {
    let mut pair = Pair::new(4096);
    pair.here.send([1; 400]).unwrap();
    next(&mut pair.there).unwrap();
    assert_eq!(pair.here.link.layout.ring_of(Side::Creator).head.load_relaxed(), 0, "less than an eighth");
    assert!(pair.there.link.may_sleep().unwrap());
    assert_eq!(pair.here.link.layout.ring_of(Side::Creator).head.load_relaxed(), 408);
}

#[test]
fn positions_wrap_around() {
    let mut pair = Pair::new(64);
    let begin = u64::MAX - 79; // A multiple of eight, as positions must be.
    for (end, ring) in [(&mut pair.here, Side::Creator), (&mut pair.there, Side::Joiner)] {
        end.link.producer = Producer::starting_at(begin);
        let ring = end.link.layout.ring_of(ring);
        for (word, value) in [(ring.tail, 0), (ring.head, 0), (ring.tail_mark, 1), (ring.head_mark, 1)] {
            word.store_relaxed(begin.wrapping_sub(value));
        }
    }
    pair.here.link.consumer = Consumer::starting_at(begin);
    pair.there.link.consumer = Consumer::starting_at(begin);
    for round in 0..20 {
        assert!(pair.there.link.may_sleep().unwrap());
        for _ in 0..4 {
            pair.here.send([round; 8]).unwrap();
        }
        assert_eq!(pair.here.send([]), Err(RingSendError::Full));
        assert_eq!(pair.rings(), (u64::from(round), u64::from(round) + 1));
        for _ in 0..4 {
            assert_eq!(next(&mut pair.there), Some(vec![round; 8]));
        }
        assert_eq!(next(&mut pair.there), None);
        assert!(pair.here.link.take_space_event().unwrap());
    }
}

#[test]
fn messages_sent_before_the_peer_joins_are_received() {
    let (mut here, descriptors) = SharedRing::create(256).unwrap();
    for n in 0..5 {
        here.send([n; 40]).unwrap();
    }
    let mut there = SharedRing::from_descriptors(descriptors, MAX).unwrap();
    for n in 0..5 {
        assert_eq!(next(&mut there), Some(vec![n; 40]));
    }
}

#[test]
fn a_capacity_above_the_maximum_is_refused() {
    for bytes in [(1 << 30) + 1, usize::MAX] {
        assert_eq!(SharedRing::create(bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

/// A header with one invalid word.
#[test]
fn an_invalid_header_is_an_error_with_a_message() {
    let wrong: [(usize, u64, &str); 9] = [
        (0, 0, "not that of a shared ring"),
        (1, 1, "bells of the other kind"),
        (1, 3, "another version"),
        (2, 0, "impossible capacity"),
        (2, 32, "impossible capacity"),
        (2, 4104, "impossible capacity"),
        (2, u64::MAX, "impossible capacity"),
        (2, 2048, "the size of the memory differs"),
        (3, 1 << 40, "not those of this shared ring"),
    ];
    for (word, value, problem) in wrong {
        let (_here, descriptors) = SharedRing::create(4096).unwrap();
        let memory = Memory::map(descriptors[0].as_fd()).unwrap();
        memory.words()[word].store_relaxed(value);
        let error = SharedRing::from_descriptors(descriptors, MAX).unwrap_err();
        assert!(error.to_string().contains(problem), "word {word} is {value}: {error}");
    }
}

#[test]
fn a_ring_larger_than_max_capacity_is_refused() {
    for (capacity, most, taken) in [(1024, 1024, true), (1024, 1000, true), (1024, 512, false), (64, 0, true)]
    {
        let (_here, descriptors) = SharedRing::create(capacity).unwrap();
        match SharedRing::from_descriptors(descriptors, most) {
            Ok(there) => assert!(taken && there.max_message_len() == capacity - 8),
            Err(error) => assert!(!taken && error.to_string().contains("larger than"), "{error}"),
        }
    }
}

#[test]
fn memory_shorter_than_the_header_is_an_error() {
    let bells = || [(); 2].map(|()| OwnedFd::from(EventFd::new(0).unwrap()));
    for bytes in [8, 32, 40] {
        let file = descriptors::sealed_memory(bytes).unwrap();
        let error =
            SharedRing::from_descriptors([file].into_iter().chain(bells()).collect(), MAX).unwrap_err();
        assert!(error.to_string().contains("not that of a shared ring"), "{error}");
    }
    let file = descriptors::sealed_memory(0).unwrap();
    let error = SharedRing::from_descriptors([file].into_iter().chain(bells()).collect(), MAX).unwrap_err();
    assert!(error.to_string().contains("impossible size"), "{error}");
}

#[test]
fn an_end_without_a_loop_sleeps_again_after_a_ring() {
    for doorbell in [Doorbell::NeverBlocks, Doorbell::Plain] {
        let (mut here, descriptors) = SharedRing::create_with(64, doorbell).unwrap();
        let mut there = SharedRing::from_descriptors_with(descriptors, MAX, doorbell).unwrap();
        there.wait(Some(Duration::ZERO)).unwrap();
        for n in 0..3 {
            assert!(!there.sleeper.is_rung(), "{doorbell:?}, {n}");
            here.send([n]).unwrap();
            assert!(there.sleeper.is_rung(), "{doorbell:?}, {n}");
            assert_eq!(next(&mut there), Some(vec![n]));
            there.wait(None).unwrap();
        }
        assert_eq!(there.bell.rings(), 3);
    }
}
