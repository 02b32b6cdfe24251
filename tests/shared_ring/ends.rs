//! How a link over a shared ring ends: closed by its owner, by a panic in a callback, with its
//! loop, with the connection that passed it, or by a peer that writes garbage.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::net::{Random, turn_until};
use crate::support::ring::{MAX_CAPACITY, clones, pair, received, rings, watch};
use crate::support::unix::abstract_name;
use crate::support::{LIMIT, Recorder, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::ipc::{RingError, RingHandler, RingRef, RingSendError, SharedRing, SharedRingSource};
use reveille::{Buffer, ConnectionHandler, EventFd, EventLoop, TcpClient, TcpConnection, TcpServer};

#[test]
fn a_closed_end_is_deregistered_although_its_bell_stays_open() {
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
fn an_end_closed_in_its_callback_is_not_called_again() {
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
fn a_panic_in_a_callback_ends_only_its_link() {
    with_catching_loop(|event_loop| {
        let (mut here, there, _) = pair(4096);
        let source = there.watch(event_loop, |_, _| panic!("intended by the test")).unwrap();
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
fn a_dropped_loop_closes_its_ends() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (_here, there, _) = pair(4096);
        let (source, _) = watch(&event_loop, there);
        drop(event_loop);
        assert!(!source.is_open());
        assert_eq!(source.send("!"), Err(RingSendError::Closed));
    });
}

/// Takes a ring that arrives together with bytes, and echoes its messages while the connection is
/// open.
#[derive(Default)]
struct Taker {
    ring: Option<SharedRingSource>,
}

impl ConnectionHandler for Taker {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.accept_descriptors(3)
    }

    fn on_descriptors(&mut self, conn: &TcpConnection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let ring = SharedRing::from_descriptors(descriptors, MAX_CAPACITY)?;
        self.ring = Some(ring.watch(conn.event_loop(), |ring, message| ring.send(message).unwrap())?);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

#[test]
fn a_ring_passed_over_a_socket_ends_with_its_connection() {
    with_loop(|event_loop| {
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap().serve(|_| Taker::default());
        let server = server.unwrap();
        let (here, descriptors) = SharedRing::create(512).unwrap();
        let copies = clones(&descriptors);
        let (source, messages) = watch(event_loop, here);
        let mut to_send = Some(descriptors);
        let client = TcpClient::connect(event_loop, server.local_address())
            .serve(move |conn| {
                conn.send_with_descriptors("a ring", to_send.take().unwrap()).unwrap();
                Taker::default()
            })
            .unwrap();
        source.send("sent before the other end exists").unwrap();
        turn_until(event_loop, || messages.len() == 1);
        assert_eq!(messages.take(), [b"sent before the other end exists"]);

        // The other end rings for its messages until it has ended.
        let [_, bell, _] = &copies[..] else { panic!("three descriptors") };
        let before = rings(bell);
        source.send("and again").unwrap();
        turn_until(event_loop, || messages.len() == 1);
        assert_eq!(rings(bell), before + 1);
        drop(client);
        turn_until(event_loop, || server.open_connections() == 0);
        source.send("after the end").unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!((messages.len(), rings(bell)), (1, before + 1));
    });
}

// --- An untrusted peer

/// Records how the link has ended, and the lengths of its messages.
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
fn a_link_broken_by_the_peer_reports_once_and_closes() {
    with_loop(|event_loop| {
        // The offset of a position in the memory: the tail and the head of the taker's ring.
        for (tail, at) in [(true, 5 * 128), (false, 7 * 128)] {
            let (here, mut there, [memory, bell, _]) = pair(4096);
            let (ends, messages) = (Recorder::new(), Recorder::new());
            let source = here.serve(event_loop, Ending(ends.clone(), messages.clone())).unwrap();
            there.send("as it should be").unwrap();
            turn(event_loop);
            let before = messages.take().len();
            assert_eq!((before, ends.len()), (1, 0));
            // The maker reads the taker's tail. Of its own ring it reads the head, but only when
            // that ring seems full.
            let at = if tail { at } else { 3 * 128 };
            File::from(memory).write_all_at(&u64::MAX.to_ne_bytes(), at).unwrap();
            EventFd::from(bell).try_read().unwrap();
            turn(event_loop);
            if !tail {
                let sent = (0..1000).map(|_| source.send([0; 56])).find(Result::is_err);
                assert_eq!(sent, Some(Err(RingSendError::Ended(RingError::Position))));
                assert_eq!(ends.len(), 0, "not reported during a call");
                turn(event_loop);
            }
            assert_eq!(ends.take(), [RingError::Position]);
            assert!(!source.is_open());
            turn(event_loop);
            assert_eq!(ends.len(), 0);
        }
    });
}

/// Another thread makes both bells blocking, and fills or empties their counters as far as
/// possible. Its own writes block when a counter is full, so each bell has its own thread, which
/// ends with the next ring of the bell.
#[test]
fn blocking_full_bells_do_not_block_the_loop() {
    with_loop(|event_loop| {
        let (here, mut there, [_, here_bell, there_bell]) = pair(4096);
        let (source, messages) = watch(event_loop, here);
        turn(event_loop);
        let spoil = |bell: OwnedFd| {
            rustix::fs::fcntl_setfl(&bell, rustix::fs::OFlags::empty()).unwrap();
            let bell = EventFd::from(bell);
            let (begun, has_begun) = mpsc::channel();
            let thread = thread::spawn(move || {
                let headroom = EventFd::MAX - bell.counter().unwrap();
                bell.write(headroom).unwrap();
                begun.send(()).unwrap();
                // Blocks until a ring has lowered the counter.
                bell.write(1).unwrap();
            });
            has_begun.recv().unwrap();
            thread
        };
        let spoilers = [spoil(here_bell), spoil(there_bell)];
        for n in 0..100_u8 {
            there.send([n]).unwrap();
            turn(event_loop);
            assert_eq!(messages.take(), [[n]]);
            source.send([n]).unwrap();
            assert_eq!(received(&mut there), Some(vec![n]));
            // Waiting makes the next message ring again.
            assert_eq!(received(&mut there), None);
            there.wait(Some(Duration::ZERO)).unwrap();
            turn(event_loop);
        }
        for spoiler in spoilers {
            spoiler.join().unwrap();
        }
        assert!(source.is_open());
    });
}

#[test]
fn garbage_from_the_peer_never_hangs_or_panics_the_loop() {
    with_loop(|event_loop| {
        const CAPACITY: usize = 512;
        let (mut ended, mut called) = (0, 0);
        for seed in 1..=150 {
            let (here, mut there, [memory, bell, _]) = pair(CAPACITY);
            let (ends, messages) = (Recorder::new(), Recorder::new());
            let source = here.serve(event_loop, Ending(ends.clone(), messages.clone())).unwrap();
            let (memory, bell, done) = (File::from(memory), EventFd::from(bell), AtomicBool::new(false));
            // Writes single bytes as another process can, not only whole words.
            let spoil = |random: &mut Random| {
                let mut below = |bound: u64| (random.next() >> 16) % bound;
                let at = match below(4) {
                    0 => 128 * below(9),
                    _ => 4096 + below(2 * CAPACITY as u64 - 8),
                };
                let value = match below(4) {
                    0 => below(600),
                    1 => 16,
                    2 => below(u64::MAX),
                    _ => below(80) * 8,
                };
                let bytes = &value.to_ne_bytes()[..1 + below(8) as usize];
                memory.write_all_at(bytes, at).unwrap();
                bell.try_read().unwrap();
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
                    // The result at the other end does not matter here.
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
