//! Messages through shared rings, on loops and off them: they arrive in order, a full ring waits
//! for room, and a peer is rung for only when it sleeps.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use reveille::ipc::{RingHandler, RingRef, RingSendError};
use support::ring::{pair, received, rings, watch};
use support::{LIMIT, turn, with_loop, with_watchdog};

#[test]
fn messages_are_called_back_in_order_each_as_it_was_sent() {
    with_loop(|event_loop| {
        let (mut here, there, _) = pair(4096);
        here.send("sent before it was watched").unwrap();
        let (source, messages) = watch(event_loop, there);
        turn(event_loop);
        assert_eq!(messages.take(), [b"sent before it was watched"]);
        for round in 0..5_u8 {
            for length in [0, 1, 63, 64, 100] {
                here.send(vec![round; length]).unwrap();
            }
            turn(event_loop);
            assert_eq!(messages.take(), [0, 1, 63, 64, 100].map(|length| vec![round; length]));
            turn(event_loop);
            assert_eq!(messages.take(), Vec::<Vec<u8>>::new());
            source.send([round]).unwrap();
            assert_eq!(received(&mut here), Some(vec![round]));
            assert_eq!(received(&mut here), None);
        }
    });
}

#[test]
fn a_sleeping_loop_is_woken_for_each_message_and_for_nothing_else() {
    with_loop(|event_loop| {
        let (mut here, there, [_, _, bell]) = pair(4096);
        let _source = there
            .watch(event_loop, |ring, message| match message {
                b"the end" => ring.event_loop().quit(),
                _ => ring.send(message).unwrap(),
            })
            .unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..500_u32 {
                    here.send(n.to_le_bytes()).unwrap();
                    let answer = loop {
                        if let Some(answer) = received(&mut here) {
                            break answer;
                        }
                        here.wait(None).unwrap();
                    };
                    assert_eq!(answer, n.to_le_bytes());
                }
                here.send("the end").unwrap();
            });
            event_loop.run().unwrap();
        });
        assert!(rings(&bell) <= 501, "{} rings for 501 messages", rings(&bell));
    });
}

#[test]
fn a_full_ring_calls_back_when_there_is_room_and_loses_nothing() {
    /// Sends numbers for as long as there is room, and again when there is.
    struct Counting {
        next: u32,
        refused: Rc<Cell<u32>>,
    }

    impl Counting {
        fn fill(&mut self, ring: &RingRef<'_>) {
            while self.next < 10_000 {
                match ring.send(self.next.to_le_bytes()) {
                    Ok(()) => self.next += 1,
                    Err(RingSendError::Full) => return self.refused.set(self.refused.get() + 1),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    impl RingHandler for Counting {
        fn on_message(&mut self, ring: &RingRef<'_>, _: &[u8]) {
            self.fill(ring);
        }

        fn on_room(&mut self, ring: &RingRef<'_>) {
            self.fill(ring);
        }
    }

    with_loop(|event_loop| {
        let (here, mut there, [_, here_bell, _]) = pair(1024);
        let refused = Rc::new(Cell::new(0));
        let _source = here.serve(event_loop, Counting { next: 0, refused: Rc::clone(&refused) }).unwrap();
        there.send("begin").unwrap();
        let mut expected = 0_u32;
        while expected < 10_000 {
            turn(event_loop);
            while let Some(message) = received(&mut there) {
                assert_eq!(message, expected.to_le_bytes());
                expected += 1;
            }
        }
        // 64 messages fill it, and the sender is rung for once for each time that it was refused.
        assert!((150..170).contains(&refused.get()), "{}", refused.get());
        assert_eq!(rings(&here_bell), u64::from(refused.get()) + 1);
    });
}

#[test]
fn a_peer_that_never_stops_leaves_others_their_turn() {
    with_loop(|event_loop| {
        let (mut here, there, _) = pair(1 << 20);
        let (_source, messages) = watch(event_loop, there);
        for _ in 0..1000 {
            here.send("short").unwrap();
        }
        for expected in [256, 256, 256, 232, 0] {
            turn(event_loop);
            assert_eq!(messages.take().len(), expected);
        }
        for _ in 0..7 {
            here.send(vec![0; 100_000]).unwrap();
        }
        for expected in [3, 3, 1, 0] {
            turn(event_loop);
            assert_eq!(messages.take().len(), expected);
        }
    });
}

#[test]
fn a_million_messages_to_a_loop_that_is_awake_ring_hardly_ever() {
    with_loop(|event_loop| {
        const MESSAGES: u64 = 1_000_000;
        let (mut here, there, [_, here_bell, there_bell]) = pair(1 << 20);
        let count = Rc::new(Cell::new(0_u64));
        let counting = Rc::clone(&count);
        let _source = there
            .watch(event_loop, move |_, message| {
                assert_eq!(message, counting.get().to_le_bytes());
                counting.set(counting.get() + 1);
            })
            .unwrap();
        // Awake by construction: whenever it takes a turn there is more than it takes in one.
        let mut sent = 0_u64;
        while sent < MESSAGES {
            while sent < MESSAGES && sent < count.get() + 1024 {
                here.send(sent.to_le_bytes()).unwrap();
                sent += 1;
            }
            turn(event_loop);
        }
        while count.get() < MESSAGES {
            turn(event_loop);
        }
        assert_eq!((rings(&there_bell), rings(&here_bell)), (1, 0));
    });
}

#[test]
fn a_million_messages_between_two_threads_ring_once_a_sleep_at_most() {
    with_loop(|event_loop| {
        const MESSAGES: u64 = 1_000_000;
        let (mut here, there, [_, _, bell]) = pair(1 << 16);
        let count = Rc::new(Cell::new(0_u64));
        let counting = Rc::clone(&count);
        let _source = there
            .watch(event_loop, move |ring, message| {
                assert_eq!(message, counting.get().to_le_bytes());
                counting.set(counting.get() + 1);
                if counting.get() == MESSAGES {
                    ring.event_loop().quit();
                }
            })
            .unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..MESSAGES {
                    while here.send(n.to_le_bytes()) == Err(RingSendError::Full) {
                        here.wait(None).unwrap();
                    }
                }
            });
            event_loop.run().unwrap();
        });
        assert_eq!(count.get(), MESSAGES);
        // How many it comes to is for the scheduler to say, but a loop that takes a batch sleeps
        // once for it.
        assert!(rings(&bell) < MESSAGES / 2, "{} rings", rings(&bell));
    });
}

#[test]
fn two_threads_wait_for_messages_and_for_room_and_neither_sleeps_for_ever() {
    with_watchdog(LIMIT, || {
        const MESSAGES: u32 = 20_000;
        let (mut here, mut there, _) = pair(64);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut message = Vec::new();
                for _ in 0..MESSAGES {
                    while !there.receive(&mut message).unwrap() {
                        there.wait(None).unwrap();
                    }
                    while there.send(&message) == Err(RingSendError::Full) {
                        there.wait(None).unwrap();
                    }
                }
            });
            let (mut sent, mut answered) = (0, 0);
            while answered < MESSAGES {
                while sent < MESSAGES && here.send(sent.to_le_bytes()).is_ok() {
                    sent += 1;
                }
                match received(&mut here) {
                    Some(answer) => {
                        assert_eq!(answer, answered.to_le_bytes());
                        answered += 1;
                    }
                    None => here.wait(None).unwrap(),
                }
            }
        });
    });
}

#[test]
fn what_an_end_without_a_loop_was_rung_for_is_called_back_when_it_gets_one() {
    with_loop(|event_loop| {
        let (mut here, mut there, _) = pair(4096);
        here.send("first").unwrap();
        assert_eq!(received(&mut there), Some(b"first".to_vec()));
        here.send("second").unwrap();
        let (_source, messages) = watch(event_loop, there);
        turn(event_loop);
        assert_eq!(messages.take(), [b"second"]);
    });
}

#[test]
fn a_loop_is_rung_for_only_after_a_whole_turn_that_has_found_nothing() {
    with_loop(|event_loop| {
        let (mut here, there, [_, _, bell]) = pair(4096);
        let (_source, messages) = watch(event_loop, there);
        turn(event_loop);
        for round in 1..5 {
            here.send("it sleeps").unwrap();
            assert_eq!(rings(&bell), round);
            turn(event_loop);
            here.send("it has just found something").unwrap();
            assert_eq!(rings(&bell), round);
            turn(event_loop);
            assert_eq!(messages.take().len(), 2);
            turn(event_loop);
        }
    });
}

#[test]
fn a_wait_ends_with_its_time_and_at_once_if_there_is_a_message() {
    with_watchdog(LIMIT, || {
        let (mut here, mut there, [_, _, bell]) = pair(64);
        there.wait(Some(Duration::from_millis(1))).unwrap();
        there.wait(Some(Duration::ZERO)).unwrap();
        here.send("there").unwrap();
        there.wait(None).unwrap();
        there.wait(Some(Duration::MAX)).unwrap();
        assert_eq!((received(&mut there), rings(&bell)), (Some(b"there".to_vec()), 1));
        there.wait(Some(Duration::ZERO)).unwrap();
    });
}
