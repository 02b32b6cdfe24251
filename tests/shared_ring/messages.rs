//! Messages through shared rings, with and without loops. Messages arrive in order, a sender is
//! notified when a full ring has space again, and an end rings its peer only when the peer sleeps.

use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::ring::{pair, received, rings, watch};
use crate::support::{LIMIT, turn, with_loop, with_watchdog};
use reveille::ipc::{RingHandler, RingRef, RingSendError};

#[test]
fn messages_arrive_unchanged_and_in_order() {
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
fn a_sleeping_loop_is_woken_only_for_messages() {
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
                    let reply = loop {
                        if let Some(reply) = received(&mut here) {
                            break reply;
                        }
                        here.wait(None).unwrap();
                    };
                    assert_eq!(reply, n.to_le_bytes());
                }
                here.send("the end").unwrap();
            });
            event_loop.run().unwrap();
        });
        assert!(rings(&bell) <= 501, "{} rings for 501 messages", rings(&bell));
    });
}

#[test]
fn a_full_ring_notifies_its_sender_and_loses_nothing() {
    /// Sends numbers until the ring is full, and continues when it has space again.
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
        // 64 messages fill the ring. Each refused send causes one ring of the sender's bell.
        assert!((150..170).contains(&refused.get()), "{}", refused.get());
        assert_eq!(rings(&here_bell), u64::from(refused.get()) + 1);
    });
}

#[test]
fn a_busy_peer_does_not_starve_the_loop() {
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
fn a_million_messages_to_an_awake_loop_ring_once() {
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
        // The loop never sleeps: in each turn, more messages are pending than it takes in one turn.
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
fn a_million_messages_between_threads_ring_once_per_sleep() {
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
        // The exact count depends on the scheduler, but a loop that takes messages in batches
        // sleeps at most once for each batch.
        assert!(rings(&bell) < MESSAGES / 2, "{} rings", rings(&bell));
    });
}

#[test]
fn two_waiting_threads_never_lose_a_wake_up() {
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
            let (mut sent, mut replies) = (0, 0);
            while replies < MESSAGES {
                while sent < MESSAGES && here.send(sent.to_le_bytes()).is_ok() {
                    sent += 1;
                }
                match received(&mut here) {
                    Some(reply) => {
                        assert_eq!(reply, replies.to_le_bytes());
                        replies += 1;
                    }
                    None => here.wait(None).unwrap(),
                }
            }
        });
    });
}

#[test]
fn a_pending_message_is_delivered_when_the_watch_starts() {
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
fn a_loop_is_rung_only_after_an_empty_turn() {
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
fn a_wait_ends_on_timeout_or_a_pending_message() {
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
