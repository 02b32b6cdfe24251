//! Two ends in one process, and a third mapping through which the peer does what it must not.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use super::event_index::Word;
use super::*;
use crate::eventfd::EventFd;

/// The largest ring that is taken.
const MOST: usize = 4096;

/// What the peer could do: all words of the memory.
pub(super) struct Pair {
    pub(super) here: SharedRing,
    pub(super) there: SharedRing,
    pub(super) memory: Memory,
}

impl Pair {
    pub(super) fn new(capacity: usize) -> Pair {
        let (here, descriptors) = SharedRing::create(capacity).unwrap();
        let memory = Memory::map(descriptors[0].as_fd()).unwrap();
        let there = SharedRing::from_descriptors(descriptors, MOST).unwrap();
        Pair { here, there, memory }
    }

    /// What has been rung, for this end and for the other one.
    fn rings(&self) -> (u64, u64) {
        (self.here.bell.rings(), self.there.bell.rings())
    }
}

/// The next message, if there is one.
pub(super) fn next(end: &mut SharedRing) -> Option<Vec<u8>> {
    let mut message = vec![0xee; 3];
    end.receive(&mut message).unwrap().then_some(message)
}

fn message(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|n| (seed * 31 + n) as u8).collect()
}

/// A xorshift generator.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}

#[test]
fn messages_of_every_length_pass_the_seam_at_every_place() {
    let mut pair = Pair::new(64);
    for begin in (0..64).step_by(8) {
        for length in 0..=pair.here.max_message_len() {
            // On to the place, from wherever the last one has ended.
            while pair.here.link.producer.tail_place(64) != begin {
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
fn random_messages_come_out_in_order_as_they_went_in_and_are_refused_only_if_there_is_no_room() {
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let capacity = 64 << random.below(4);
        let mut pair = Pair::new(capacity);
        let mut on_the_way = [VecDeque::new(), VecDeque::new()];
        for step in 0..400 {
            let way = random.below(2);
            let (from, to) =
                if way == 0 { (&mut pair.here, &mut pair.there) } else { (&mut pair.there, &mut pair.here) };
            let on_the_way: &mut VecDeque<Vec<u8>> = &mut on_the_way[way];
            if random.below(2) == 0 {
                let longest = [8, 40, capacity - 7][random.below(3)];
                let sent = message(step, random.below(longest));
                let used: usize = on_the_way.iter().map(|message| record::bytes_of(message.len())).sum();
                let fits = used + record::bytes_of(sent.len()) <= capacity;
                match from.send(&sent) {
                    Ok(()) => {
                        assert!(fits, "seed {seed}");
                        on_the_way.push_back(sent);
                    }
                    // The consumer does not show each step that it makes, but it has made no more than that.
                    Err(RingSendError::Full) => {
                        assert!(used + record::bytes_of(sent.len()) > capacity - capacity / 8, "seed {seed}");
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            } else {
                assert_eq!(next(to), on_the_way.pop_front(), "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_longest_is_not() {
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
fn a_reader_that_sleeps_is_rung_for_once_and_one_that_is_awake_is_not() {
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
        pair.here.send("it has not said that it sleeps").unwrap();
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
fn a_writer_without_room_is_rung_for_once_half_of_the_ring_is_free() {
    let mut pair = Pair::new(1024);
    let fill = |end: &mut SharedRing| {
        while end.send([0; 56]).is_ok() {}
        assert_eq!(end.send([0; 56]), Err(RingSendError::Full));
    };
    for round in 1..4 {
        fill(&mut pair.here);
        assert!(!pair.here.link.has_got_room().unwrap());
        for _ in 0..7 {
            next(&mut pair.there).unwrap();
        }
        assert_eq!(pair.rings().0, round - 1);
        assert!(!pair.here.link.has_got_room().unwrap(), "less than half of it is free");
        next(&mut pair.there).unwrap();
        assert_eq!(pair.rings().0, round);
        assert!(pair.here.link.has_got_room().unwrap());
        assert!(!pair.here.link.has_got_room().unwrap(), "told once");
        while next(&mut pair.there).is_some() {}
        assert_eq!(pair.rings().0, round, "rung once");
    }
    // One that wants more than half waits for what it wants.
    fill(&mut pair.here);
    assert_eq!(pair.here.send([0; 1016]), Err(RingSendError::Full));
    for _ in 0..15 {
        next(&mut pair.there).unwrap();
    }
    assert!(!pair.here.link.has_got_room().unwrap());
    next(&mut pair.there).unwrap();
    assert_eq!(next(&mut pair.there), None);
    assert!(pair.here.link.has_got_room().unwrap());
    pair.here.send([0; 1016]).unwrap();
}

#[test]
fn an_end_that_waits_without_having_found_the_ring_empty_shows_what_it_has_read() {
    let mut pair = Pair::new(4096);
    pair.here.send([1; 400]).unwrap();
    next(&mut pair.there).unwrap();
    assert_eq!(pair.here.link.layout.ring_of(Side::Maker).head.load_relaxed(), 0, "less than an eighth");
    assert!(pair.there.link.may_sleep().unwrap());
    assert_eq!(pair.here.link.layout.ring_of(Side::Maker).head.load_relaxed(), 408);
}

#[test]
fn positions_pass_the_largest_number() {
    let mut pair = Pair::new(64);
    let begin = u64::MAX - 79; // A multiple of eight, as it must be.
    for (end, ring) in [(&mut pair.here, Side::Maker), (&mut pair.there, Side::Taker)] {
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
        assert!(pair.here.link.has_got_room().unwrap());
    }
}

#[test]
fn what_the_maker_has_sent_before_is_there_for_the_taker() {
    let (mut here, descriptors) = SharedRing::create(256).unwrap();
    for n in 0..5 {
        here.send([n; 40]).unwrap();
    }
    let mut there = SharedRing::from_descriptors(descriptors, MOST).unwrap();
    for n in 0..5 {
        assert_eq!(next(&mut there), Some(vec![n; 40]));
    }
}

#[test]
fn a_capacity_beyond_the_most_is_refused() {
    for bytes in [(1 << 30) + 1, usize::MAX] {
        assert_eq!(SharedRing::create(bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

/// A header with a word in it that is wrong.
#[test]
fn a_header_that_is_wrong_is_an_error_in_words() {
    let wrong: [(usize, u64, &str); 9] = [
        (0, 0, "not that of a shared ring"),
        (1, 1, "bells of the other kind"),
        (1, 3, "another version"),
        (2, 0, "impossible capacity"),
        (2, 32, "impossible capacity"),
        (2, 4104, "impossible capacity"),
        (2, u64::MAX, "impossible capacity"),
        (2, 2048, "not the size"),
        (3, 1 << 40, "not those of this shared ring"),
    ];
    for (word, value, problem) in wrong {
        let (_here, descriptors) = SharedRing::create(4096).unwrap();
        let memory = Memory::map(descriptors[0].as_fd()).unwrap();
        memory.words()[word].store_relaxed(value);
        let error = SharedRing::from_descriptors(descriptors, MOST).unwrap_err();
        assert!(error.to_string().contains(problem), "word {word} is {value}: {error}");
    }
}

#[test]
fn a_ring_that_is_larger_than_this_end_takes_is_refused() {
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
fn memory_that_is_shorter_than_a_header_is_an_error() {
    let bells = || [(); 2].map(|()| OwnedFd::from(EventFd::new(0).unwrap()));
    for bytes in [8, 32, 40] {
        let file = descriptors::sealed_memory(bytes).unwrap();
        let error =
            SharedRing::from_descriptors([file].into_iter().chain(bells()).collect(), MOST).unwrap_err();
        assert!(error.to_string().contains("not that of a shared ring"), "{error}");
    }
    let file = descriptors::sealed_memory(0).unwrap();
    let error = SharedRing::from_descriptors([file].into_iter().chain(bells()).collect(), MOST).unwrap_err();
    assert!(error.to_string().contains("impossible size"), "{error}");
}

#[test]
fn an_end_without_a_loop_sleeps_again_after_it_was_rung_for() {
    for doorbell in [Doorbell::NeverBlocks, Doorbell::Plain] {
        let (mut here, descriptors) = SharedRing::create_with(64, doorbell).unwrap();
        let mut there = SharedRing::from_descriptors_with(descriptors, MOST, doorbell).unwrap();
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
