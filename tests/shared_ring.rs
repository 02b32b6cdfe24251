//! Shared rings as their users meet them: on loops and off them, with every kind of wrong descriptor, and with a peer that
//! writes garbage.

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use reveille::{
    Buffer, ConnectionHandler, EventFd, EventLoop, RingError, RingHandler, RingRef, RingSendError,
    SharedRing, SharedRingSource, TcpClient, TcpConnection, TcpServer,
};
use rustix::fs::{MemfdFlags, SealFlags};
use support::alone::alone;
use support::net::{Random, turn_until};
use support::unix::abstract_name;
use support::{LIMIT, Recorder, turn, with_catching_loop, with_loop, with_watchdog};

/// The largest ring that is taken.
const MOST: usize = 1 << 20;

/// Both ends, and descriptors of what they share: the memory, the maker's bell, the other one's.
fn pair(capacity: usize) -> (SharedRing, SharedRing, [OwnedFd; 3]) {
    let (here, descriptors) = SharedRing::create(capacity).unwrap();
    let copies = clones(&descriptors);
    let there = SharedRing::from_descriptors(descriptors, MOST).unwrap();
    (here, there, copies.try_into().unwrap())
}

fn clones(descriptors: &[OwnedFd]) -> Vec<OwnedFd> {
    descriptors.iter().map(|descriptor| descriptor.try_clone().unwrap()).collect()
}

fn rings(bell: &OwnedFd) -> u64 {
    EventFd::from(bell.try_clone().unwrap()).counter().unwrap()
}

fn received(ring: &mut SharedRing) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    ring.receive(&mut message).unwrap().then_some(message)
}

/// Watches an end, and records its messages.
fn watch(event_loop: &EventLoop, ring: SharedRing) -> (SharedRingSource, Recorder<Vec<u8>>) {
    let messages = Recorder::new();
    let recording = messages.clone();
    let source = ring.watch(event_loop, move |_, message| recording.record(message.to_vec())).unwrap();
    (source, messages)
}

// --- On a loop ------------------------------------------------------------------------------------

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
        // How many it comes to is for the scheduler to say, but a loop that takes a batch sleeps once for it.
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
        let (mut here, mut there, [_, _, bell]) = pair(4096);
        here.send("first").unwrap();
        assert_eq!(received(&mut there), Some(b"first".to_vec()));
        here.send("second").unwrap();
        EventFd::from(bell.try_clone().unwrap()).read().unwrap();
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
fn an_end_that_is_closed_is_watched_no_longer_although_the_peer_has_its_bell() {
    with_loop(|event_loop| {
        let watched = || {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", event_loop.as_fd().as_raw_fd()));
            info.unwrap().lines().filter(|line| line.starts_with("tfd:")).count()
        };
        let before = watched();
        let (_here, there, _copies) = pair(4096);
        let (source, _) = watch(event_loop, there);
        turn(event_loop);
        assert_eq!(watched(), before + 1);
        source.close();
        assert_eq!(watched(), before);
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
        assert_eq!(rings(&bell), 0, "or every wait would end at once from here on");
    });
}

#[test]
fn an_end_that_is_dropped_or_closed_in_its_callback_is_not_called_again() {
    with_loop(|event_loop| {
        for by_drop in [true, false] {
            let (mut here, there, _) = pair(4096);
            let source: Rc<RefCell<Option<SharedRingSource>>> = Rc::default();
            let (calls, dropping) = (Recorder::new(), Rc::clone(&source));
            let recording = calls.clone();
            let watched = there.watch(event_loop, move |ring, message| {
                recording.record(message.to_vec());
                if by_drop {
                    drop(dropping.take());
                } else {
                    ring.close();
                }
                assert_eq!(ring.send("too late"), Err(RingSendError::Closed));
            });
            *source.borrow_mut() = Some(watched.unwrap());
            here.send("one").unwrap();
            here.send("two").unwrap();
            turn(event_loop);
            turn(event_loop);
            assert_eq!(calls.take(), [b"one"]);
            if let Some(source) = source.take() {
                assert!(!source.is_open());
                assert_eq!(source.send("too late"), Err(RingSendError::Closed));
            }
            assert_eq!(received(&mut here), None);
        }
    });
}

#[test]
fn a_panic_in_a_callback_ends_its_link_and_no_other() {
    with_catching_loop(|event_loop| {
        let (mut here, there, _) = pair(4096);
        let source = there.watch(event_loop, |_, _| panic!("as I was told")).unwrap();
        let (mut other, its_peer, _) = pair(4096);
        let (other_source, messages) = watch(event_loop, its_peer);
        here.send("!").unwrap();
        other.send("?").unwrap();
        turn(event_loop);
        assert!(!source.is_open() && other_source.is_open());
        assert_eq!(messages.take(), [b"?"]);
        assert_eq!(source.send("!"), Err(RingSendError::Closed));
    });
}

#[test]
fn a_loop_that_is_gone_has_closed_its_ends() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (_here, there, _) = pair(4096);
        let (source, _) = watch(&event_loop, there);
        drop(event_loop);
        assert!(!source.is_open());
        assert_eq!(source.send("!"), Err(RingSendError::Closed));
    });
}

/// Takes a ring that comes along with bytes, and sends its messages back for as long as the connection lasts.
#[derive(Default)]
struct Taker {
    ring: Option<SharedRingSource>,
}

impl ConnectionHandler for Taker {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.accept_descriptors(3)
    }

    fn on_descriptors(&mut self, conn: &TcpConnection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let ring = SharedRing::from_descriptors(descriptors, MOST)?;
        self.ring = Some(ring.watch(conn.event_loop(), |ring, message| ring.send(message).unwrap())?);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

#[test]
fn a_ring_that_is_passed_over_a_unix_socket_lasts_as_long_as_the_connection() {
    with_loop(|event_loop| {
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap().serve(|_| Taker::default());
        let server = server.unwrap();
        let (here, descriptors) = SharedRing::create(512).unwrap();
        let copies = clones(&descriptors);
        let (source, messages) = watch(event_loop, here);
        let mut to_send = Some(descriptors);
        let client = TcpClient::connect(event_loop, server.address())
            .serve(move |conn| {
                conn.send_with_descriptors("a ring", to_send.take().unwrap()).unwrap();
                Taker::default()
            })
            .unwrap();
        source.send("sent before the other end is there").unwrap();
        turn_until(event_loop, || messages.len() == 1);
        assert_eq!(messages.take(), [b"sent before the other end is there"]);

        // The other end rings for what it sends, until it has gone.
        let [_, bell, _] = &copies[..] else { panic!("three descriptors") };
        let before = rings(bell);
        source.send("and again").unwrap();
        turn_until(event_loop, || messages.len() == 1);
        assert_eq!(rings(bell), before + 1);
        drop(client);
        turn_until(event_loop, || server.open_connections() == 0);
        source.send("to nobody").unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!((messages.len(), rings(bell)), (1, before + 1));
    });
}

// --- A peer that is not to be trusted -------------------------------------------------------------

/// Records how the link has ended.
struct Ending(Recorder<RingError>, Recorder<usize>);

impl RingHandler for Ending {
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]) {
        self.1.record(message.len());
        match ring.send(message) {
            Ok(()) | Err(RingSendError::Full) => {}
            Err(RingSendError::Ended(_)) => {
                assert!(matches!(ring.send("once more"), Err(RingSendError::Ended(_))));
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn on_end(&mut self, ring: &RingRef<'_>, error: RingError) {
        assert_eq!(ring.send("it is closed"), Err(RingSendError::Closed));
        self.0.record(error);
    }
}

#[test]
fn a_link_that_the_peer_breaks_is_told_once_and_closed() {
    with_loop(|event_loop| {
        // Where a position is, from the beginning of the memory: the tail and the head of the taker's ring.
        for (tail, at) in [(true, 5 * 128), (false, 7 * 128)] {
            let (here, mut there, [memory, bell, _]) = pair(4096);
            let (ends, messages) = (Recorder::new(), Recorder::new());
            let source = here.serve(event_loop, Ending(ends.clone(), messages.clone())).unwrap();
            there.send("as it should be").unwrap();
            turn(event_loop);
            let before = messages.take().len();
            assert_eq!((before, ends.len()), (1, 0));
            // The maker reads the taker's tail; of its own ring it reads the head, but only when that seems full.
            let at = if tail { at } else { 3 * 128 };
            File::from(memory).write_all_at(&u64::MAX.to_ne_bytes(), at).unwrap();
            EventFd::from(bell).write(1).unwrap();
            turn(event_loop);
            if !tail {
                let sent = (0..1000).map(|_| source.send([0; 56])).find(Result::is_err);
                assert_eq!(sent, Some(Err(RingSendError::Ended(RingError::Position))));
                assert_eq!(ends.len(), 0, "not told inside of a call");
                turn(event_loop);
            }
            assert_eq!(ends.take(), [RingError::Position]);
            assert!(!source.is_open());
            turn(event_loop);
            assert_eq!(ends.len(), 0);
        }
    });
}

#[test]
fn garbage_from_another_process_ends_the_link_or_is_a_message_and_every_turn_ends() {
    with_loop(|event_loop| {
        const CAPACITY: usize = 512;
        let (mut ended, mut called) = (0, 0);
        for seed in 1..=150 {
            let (here, mut there, [memory, bell, _]) = pair(CAPACITY);
            let (ends, messages) = (Recorder::new(), Recorder::new());
            let source = here.serve(event_loop, Ending(ends.clone(), messages.clone())).unwrap();
            let (memory, bell, done) = (File::from(memory), EventFd::from(bell), AtomicBool::new(false));
            // As another process would, it writes bytes, and not even whole words.
            let spoil = |random: &mut Random| {
                let mut below = |bound: u64| (random.next() >> 16) % bound;
                let at = match below(4) {
                    0 => 128 * below(9),
                    _ => 4096 + below(2 * CAPACITY as u64 - 8),
                };
                let word = match below(4) {
                    0 => below(600),
                    1 => 16,
                    2 => below(u64::MAX),
                    _ => below(80) * 8,
                };
                let few = &word.to_ne_bytes()[..1 + below(8) as usize];
                memory.write_all_at(few, at).unwrap();
                bell.signal().unwrap();
            };
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut random = Random::new(seed);
                    while !done.load(SeqCst) {
                        spoil(&mut random);
                    }
                });
                let mut random = Random::new(seed + 1000);
                for step in 0..60 {
                    spoil(&mut random);
                    // What the other end makes of it does not matter here.
                    let _ = there.send(vec![1; step]);
                    let _ = there.receive(&mut Vec::new());
                    turn(event_loop);
                    let lengths = messages.take();
                    assert!(lengths.len() <= 256 && lengths.iter().all(|length| *length <= CAPACITY - 8));
                    called += lengths.len();
                    if ends.len() > 0 {
                        break;
                    }
                }
                done.store(true, SeqCst);
            });
            assert_eq!(source.is_open(), ends.len() == 0, "seed {seed}");
            assert!(ends.len() <= 1, "seed {seed}");
            ended += ends.len();
        }
        assert!(ended > 50 && called > 50, "{ended} ended, with {called} messages");
    });
}

// --- Descriptors ----------------------------------------------------------------------------------

/// Takes the descriptors that it should be given, changed by `change`, and answers with what is said to that.
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<OwnedFd>)) -> (ErrorKind, String) {
    let (_here, mut descriptors) = SharedRing::create(4096).unwrap();
    change(&mut descriptors);
    let error = SharedRing::from_descriptors(descriptors, MOST).unwrap_err();
    (error.kind(), error.to_string())
}

fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("a test", flags).unwrap();
    rustix::fs::ftruncate(&memfd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

/// Memory with the content that it should have.
fn copy_of(memory: &OwnedFd, bytes: u64, seals: SealFlags) -> OwnedFd {
    let mut content = vec![0; 4096];
    File::from(memory.try_clone().unwrap()).read_exact_at(&mut content, 0).unwrap();
    let copy = File::from(memfd(bytes, SealFlags::empty()));
    copy.write_all_at(&content, 0).unwrap();
    rustix::fs::fcntl_add_seals(&copy, seals).unwrap();
    copy.into()
}

const SIZE: u64 = 4096 + 2 * 4096;

#[test]
fn memory_whose_size_is_not_sealed_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        let (kind, why) = refused(|passed| passed[0] = copy_of(&passed[0], SIZE, all.difference(missing)));
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(why.contains("not sealed"), "{why}");
    }
    // Sealed it is taken, so that what was said above is said of the seals.
    let (_here, mut descriptors) = SharedRing::create(4096).unwrap();
    descriptors[0] = copy_of(&descriptors[0], SIZE, all);
    SharedRing::from_descriptors(descriptors, MOST).unwrap();
}

#[test]
fn memory_that_is_no_ring_or_of_another_size_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let (kind, why) = refused(|passed| passed[0] = memfd(SIZE, all));
    assert_eq!(kind, ErrorKind::InvalidData);
    assert!(why.contains("not that of a shared ring"), "{why}");
    for bytes in [4096, SIZE - 8, SIZE + 8, 2 * SIZE] {
        let (kind, why) = refused(|passed| passed[0] = copy_of(&passed[0], bytes, all));
        assert_eq!(kind, ErrorKind::InvalidData);
        assert!(why.contains("not the size that its header says"), "{why}");
    }
}

#[test]
fn memory_that_cannot_be_written_is_refused() {
    let (kind, why) = refused(|passed| {
        let path = format!("/proc/self/fd/{}", passed[0].as_raw_fd());
        passed[0] = File::open(path).unwrap().into();
    });
    assert_eq!(kind, ErrorKind::InvalidInput);
    assert!(why.contains("cannot be written"), "{why}");
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let (_, why) = refused(|passed| passed[0] = copy_of(&passed[0], SIZE, all | SealFlags::WRITE));
    assert!(why.contains("cannot be written"), "{why}");
}

#[test]
fn descriptors_in_another_order_or_number_or_of_another_kind_are_refused() {
    type Change = fn(&mut Vec<OwnedFd>);
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let changes: [(Change, &str); 9] = [
        (|passed| passed.swap(0, 1), "not a memfd"),
        (|passed| passed.swap(0, 2), "not a memfd"),
        (|passed| passed.swap(1, 2), "in another order"),
        (|passed| passed[1] = passed[0].try_clone().unwrap(), "not an eventfd"),
        (|passed| passed[2] = passed[1].try_clone().unwrap(), "in another order"),
        (|passed| passed[2] = EventFd::new(0).unwrap().into(), "not those of this shared ring"),
        (|passed| drop(passed.pop()), "3 descriptors, and not 2"),
        (|passed| passed.clear(), "3 descriptors, and not 0"),
        (|passed| passed.push(passed[0].try_clone().unwrap()), "3 descriptors, and not 4"),
    ];
    for (change, expected) in changes {
        let (kind, why) = refused(change);
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(why.contains(expected), "{why}");
    }
    for place in 0..3 {
        let (kind, why) = refused(|passed| passed[place] = null());
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(why.contains(["not a memfd", "not an eventfd"][place.min(1)]), "{why}");
    }
}

#[test]
fn an_eventfd_that_blocks_is_refused() {
    for place in [1, 2] {
        let (kind, why) = refused(|passed| {
            let flags = rustix::fs::fcntl_getfl(&passed[place]).unwrap();
            let blocking = flags.difference(rustix::fs::OFlags::NONBLOCK);
            rustix::fs::fcntl_setfl(&passed[place], blocking).unwrap();
        });
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(why.contains("blocks"), "{why}");
    }
}

fn own_descriptors() -> BTreeSet<String> {
    let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    links.filter_map(|link| Some(format!("{link:?} {:?}", fs::read_link(&link).ok()?))).collect()
}

/// What `ls` sees of its own descriptors, by their numbers.
fn seen_by_another_program() -> String {
    let output = Command::new("ls").arg("/proc/self/fd").output().expect("ls");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn no_descriptor_is_left_and_none_is_inherited() {
    alone(|| {
        let usual = seen_by_another_program();
        let before = own_descriptors();
        for _ in 0..50 {
            let (here, there, _) = pair(4096);
            drop((here, there));
            refused(|passed| passed.swap(1, 2));
            refused(|passed| passed.swap(0, 1));
            refused(|passed| drop(passed.pop()));
        }
        assert_eq!(own_descriptors(), before);
        {
            let (here, descriptors) = SharedRing::create(4096).unwrap();
            // They come as a careless receiver would have taken them.
            for descriptor in &descriptors {
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).unwrap();
            }
            let there = SharedRing::from_descriptors(descriptors, MOST).unwrap();
            assert_eq!(seen_by_another_program(), usual);
            let event_loop = EventLoop::new().unwrap();
            let (here, _) = watch(&event_loop, here);
            let (there, _) = watch(&event_loop, there);
            turn(&event_loop);
            assert_eq!(seen_by_another_program(), usual);
            here.close();
            drop(event_loop);
            drop(there);
        }
        assert_eq!(own_descriptors(), before);
    });
}

#[test]
fn the_memory_is_given_back_when_both_ends_have_gone() {
    alone(|| {
        let mapped =
            || fs::read_to_string("/proc/self/maps").unwrap().matches("reveille shared ring").count();
        let (here, there, _) = pair(1 << 20);
        assert_eq!(mapped(), 2);
        drop(here);
        assert_eq!(mapped(), 1);
        with_loop(|event_loop| {
            let (source, _) = watch(event_loop, there);
            turn(event_loop);
            assert_eq!(mapped(), 1);
            source.close();
            assert_eq!(mapped(), 0);
        });
    });
}
