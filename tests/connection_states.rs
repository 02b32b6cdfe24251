//! Random lives of connections, on real sockets and a virtual clock, against what every life must
//! keep to.
//!
//! Whatever the two ends do, in whatever order: each byte that was accepted arrives in order or is
//! reported as not delivered, each connection is opened once and closed once, nothing is called
//! after that, states only go forward, and no descriptor is left. A life is made from a seed, which
//! a failure prints; `REVEILLE_SEED=n` repeats that one.

mod support;

use std::cell::RefCell;
use std::env;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use reveille::net::{CloseReason, ConnectionState, SendError};
use reveille::time::VirtualClock;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use socket2::SockRef;
use support::net::{self, Random};
use support::{LIMIT, turn, with_watchdog};

const LIVES: u64 = 3_000;
const MOST_UNSENT: usize = 200_000;

/// Bytes that say who has sent them, of two, and of each the how manieth they are.
#[derive(Default)]
struct Numbered {
    counts: [usize; 2],
}

impl Numbered {
    fn make(&self, sender: usize, len: usize) -> Vec<u8> {
        (self.counts[sender]..).map(|n| (n % 127) as u8 | (sender as u8) << 7).take(len).collect()
    }

    fn accept(&mut self, sender: usize, len: usize) {
        self.counts[sender] += len;
    }

    /// Checks that `bytes` come next, of whichever sender.
    fn check(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let count = &mut self.counts[usize::from(byte >> 7)];
            assert_eq!(usize::from(byte & 127), *count % 127, "after {count} bytes");
            *count += 1;
        }
    }

    fn total(&self) -> usize {
        self.counts[0] + self.counts[1]
    }
}

/// What is known of one life.
#[derive(Default)]
struct Facts {
    handle: Option<ConnectionHandle>,
    opened: u32,
    closed: Option<Closed>,
    dropped: bool,
    last_state: Option<ConnectionState>,
    peer_shutdowns: u32,
    /// A close in order has begun, so that input is not heard of.
    is_deaf: bool,
    /// One has been asked for.
    may_be_deaf: bool,
    /// Accepted for sending.
    accepted: Numbered,
    /// Offered to the handler.
    seen: Numbered,
    /// Of what the handler has been offered, what it has left.
    left: usize,
    peer_has_finished: bool,
}

struct Closed {
    is_finished: bool,
    undelivered: usize,
    unsent: usize,
}

const DIRECTLY: usize = 0;
const BY_HANDLE: usize = 1;

/// Does something at random in each of its calls.
struct Subject {
    facts: Rc<RefCell<Facts>>,
    random: Random,
}

impl Subject {
    fn note_state(&self, conn: &TcpConnection) {
        let order = |state| {
            [
                ConnectionState::Connecting,
                ConnectionState::Open,
                ConnectionState::Closing,
                ConnectionState::Closed,
            ]
            .iter()
            .position(|s| *s == state)
        };
        let mut facts = self.facts.borrow_mut();
        let state = conn.state();
        assert!(facts.closed.is_none(), "called after the close");
        assert!(
            facts.last_state.is_none_or(|last| order(last) <= order(state)),
            "{:?} to {state:?}",
            facts.last_state
        );
        facts.last_state = Some(state);
    }

    fn act(&mut self, conn: &TcpConnection) {
        self.note_state(conn);
        for _ in 0..self.random.below(3) {
            match self.random.below(24) {
                0 => conn.shutdown(),
                1 => conn.close(),
                2 => {
                    conn.close_gracefully(Duration::from_millis(self.random.below(3000) as u64));
                    self.facts.borrow_mut().is_deaf = true;
                }
                3 | 4 => conn.pause_reading(),
                5 | 6 => conn.resume_reading(),
                7 | 8 => conn.notify_drained(),
                _ => self.send(conn),
            }
            self.note_state(conn);
        }
    }

    fn send(&mut self, conn: &TcpConnection) {
        let len = length(&mut self.random);
        let bytes = self.facts.borrow().accepted.make(DIRECTLY, len);
        let (before, state) = (conn.unsent(), conn.state());
        let sent = match self.random.below(4) {
            0 => conn.send_owned(bytes),
            1 => conn.send_shared(&bytes.into()),
            2 => {
                let (one, two) = bytes.split_at(len / 3);
                conn.send_vectored(&[IoSlice::new(one), IoSlice::new(two)])
            }
            _ => conn.send(bytes),
        };
        match sent {
            Ok(_) => {
                assert_eq!(state, ConnectionState::Open);
                self.facts.borrow_mut().accepted.accept(DIRECTLY, len);
            }
            Err(SendError::Closed) => assert_ne!(conn.state(), ConnectionState::Open),
            Err(SendError::Full) => assert!(before + len > MOST_UNSENT),
            Err(error) => panic!("{error}"),
        }
        assert!(conn.unsent() <= MOST_UNSENT);
    }
}

fn length(random: &mut Random) -> usize {
    let most = [10, 2_000, 2_000, 60_000][random.below(4)];
    random.below(most)
}

impl ConnectionHandler for Subject {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        let mut facts = self.facts.borrow_mut();
        facts.opened += 1;
        facts.handle = Some(conn.handle());
        drop(facts);
        if self.random.below(2) == 0 {
            SockRef::from(conn).set_send_buffer_size(16_000)?;
        }
        self.act(conn);
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        let mut facts = self.facts.borrow_mut();
        assert!(!facts.is_deaf, "heard of input");
        let new = &input.readable()[facts.left..];
        facts.seen.check(new);
        if self.random.below(4) > 0 {
            input.consume(self.random.below(input.len() + 1));
        } else {
            input.clear();
        }
        facts.left = input.len();
        drop(facts);
        self.act(conn);
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.act(conn);
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        let mut facts = self.facts.borrow_mut();
        facts.peer_shutdowns += 1;
        assert!(facts.peer_has_finished && !facts.is_deaf && facts.peer_shutdowns == 1);
        drop(facts);
        self.act(conn);
        if self.random.below(2) == 0 {
            conn.shutdown();
        }
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        self.note_state(conn);
        assert_eq!(conn.state(), ConnectionState::Closed);
        let is_finished = matches!(reason, CloseReason::Finished);
        let closed = Closed { is_finished, undelivered: conn.undelivered().unwrap(), unsent: conn.unsent() };
        self.facts.borrow_mut().closed = Some(closed);
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.facts.borrow_mut().dropped = true;
    }
}

/// The other end, which reads and writes without waiting.
struct Peer {
    socket: Option<TcpStream>,
    read: Numbered,
    written: Numbered,
    has_reset: bool,
    is_at_end: bool,
}

impl Peer {
    fn read(&mut self, most: usize) {
        let Some(socket) = &mut self.socket else { return };
        let mut bytes = [0; 16 * 1024];
        let mut left = most;
        while left > 0 {
            let room = left.min(bytes.len());
            match socket.read(&mut bytes[..room]) {
                Ok(0) => return self.is_at_end = true,
                Ok(n) => {
                    self.read.check(&bytes[..n]);
                    left -= n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.is_at_end = true,
            }
        }
    }

    fn write(&mut self, len: usize) {
        let Some(socket) = &mut self.socket else { return };
        if let Ok(n) = socket.write(&self.written.make(0, len)) {
            self.written.accept(0, n);
        }
    }

    fn finish(&mut self, facts: &RefCell<Facts>) {
        if let Some(socket) = &self.socket {
            facts.borrow_mut().peer_has_finished = true;
            // Without effect on a connection that has been reset.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    fn reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            net::reset(socket);
            self.has_reset = true;
        }
    }
}

struct World {
    event_loop: EventLoop,
    clock: VirtualClock,
    server: TcpServer,
    /// The life that the next connection is to have.
    next: Rc<RefCell<Option<Subject>>>,
}

impl World {
    fn new() -> World {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().virtual_clock(clock.clone()).propagate_panics(true);
        let event_loop = builder.input_buffer(4096).build().unwrap();
        let next: Rc<RefCell<Option<Subject>>> = Rc::default();
        let taken = Rc::clone(&next);
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
            .unwrap()
            .water_marks(50_000, 10_000)
            .max_unsent(MOST_UNSENT)
            .serve(move |_| taken.take().expect("a life for each connection"))
            .unwrap();
        World { event_loop, clock, server, next }
    }

    fn live(&self, seed: u64) {
        let mut random = Random::new(seed);
        let facts: Rc<RefCell<Facts>> = Rc::default();
        *self.next.borrow_mut() = Some(Subject { facts: Rc::clone(&facts), random: Random::new(!seed) });
        let socket = net::connect_with_small_packets(self.server.local_addr());
        socket.set_nonblocking(true).unwrap();
        let (read, written) = (Numbered::default(), Numbered::default());
        let mut peer = Peer { socket: Some(socket), read, written, has_reset: false, is_at_end: false };
        net::turn_until(&self.event_loop, || facts.borrow().opened > 0);
        for _ in 0..random.below(30) {
            self.step(&mut random, &facts, &mut peer);
        }
        self.end(&mut random, &facts, &mut peer);
        check(&facts.borrow(), &peer);
    }

    fn step(&self, random: &mut Random, facts: &RefCell<Facts>, peer: &mut Peer) {
        let handle = facts.borrow().handle.clone().expect("it is open");
        match random.below(40) {
            0 => peer.reset(),
            1 => peer.finish(facts),
            2 => handle.shutdown(),
            3 => handle.close(),
            4 => {
                facts.borrow_mut().may_be_deaf = true;
                handle.close_gracefully(Duration::from_millis(random.below(3000) as u64));
            }
            5 | 6 => handle.pause_reading(),
            7 | 8 => handle.resume_reading(),
            9..=12 => self.clock.advance(Duration::from_millis(random.below(200) as u64)),
            13..=18 => {
                let len = length(random);
                let bytes = facts.borrow().accepted.make(BY_HANDLE, len);
                if handle.send(bytes).is_ok() {
                    facts.borrow_mut().accepted.accept(BY_HANDLE, len);
                }
            }
            19..=24 => peer.write(length(random)),
            25..=29 => peer.read(length(random)),
            _ => turn(&self.event_loop),
        }
    }

    /// Brings the connection to its end, one way or the other: the peer reads all that comes, and
    /// finishes; and if this end has no end of its own in mind, it is given one.
    fn end(&self, random: &mut Random, facts: &RefCell<Facts>, peer: &mut Peer) {
        let handle = facts.borrow().handle.clone().expect("it is open");
        let ending = random.below(3);
        facts.borrow_mut().may_be_deaf |= ending > 0;
        match ending {
            0 => handle.shutdown(),
            1 => handle.close_gracefully(Duration::from_secs(60)),
            _ => handle.close_gracefully(Duration::ZERO),
        }
        handle.resume_reading();
        peer.finish(facts);
        let mut turns = 0;
        net::turn_until(&self.event_loop, || {
            peer.read(usize::MAX);
            self.clock.advance(Duration::from_millis(1));
            turns += 1;
            if turns % 100 == 0 {
                // A handler may have paused reading once more.
                handle.resume_reading();
            }
            facts.borrow().closed.is_some()
        });
        // What the kernel still has after the close, and then the end.
        net::turn_until(&self.event_loop, || {
            peer.read(usize::MAX);
            facts.borrow().dropped && (peer.is_at_end || peer.socket.is_none())
        });
        assert_eq!(handle.send("late"), Err(SendError::Closed));
        handle.close();
        turn(&self.event_loop);
        assert_eq!(self.event_loop.next_deadline(), None, "a timer is left");
        assert_eq!(self.server.open_connections(), 0);
    }
}

fn check(facts: &Facts, peer: &Peer) {
    assert_eq!(facts.opened, 1);
    let closed = facts.closed.as_ref().expect("it is closed");
    let (accepted, arrived) = (facts.accepted.total(), peer.read.total());
    let (seen, written) = (facts.seen.total(), peer.written.total());
    assert!(arrived <= accepted, "{arrived} of {accepted} bytes");
    assert!(seen <= written, "{seen} of {written} bytes");
    assert!(closed.unsent <= closed.undelivered);
    if !peer.has_reset {
        let lost = closed.undelivered;
        assert!(arrived + lost >= accepted, "{arrived} bytes arrived and {lost} are lost, of {accepted}");
    }
    if closed.is_finished && !peer.has_reset {
        assert_eq!((arrived, closed.unsent), (accepted, 0));
        if !facts.is_deaf && !facts.may_be_deaf {
            assert_eq!((seen, facts.peer_shutdowns), (written, 1), "not all has been heard of");
        }
    }
}

/// Says with which seed a life has failed.
struct Witness(u64);

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = writeln!(io::stderr(), "REVEILLE_SEED={}", self.0);
        }
    }
}

#[test]
fn whatever_the_two_ends_do_no_byte_is_lost_unreported_and_no_call_is_missed() {
    with_watchdog(LIMIT, || {
        let one = env::var("REVEILLE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
        let seeds = one.map_or(0..LIVES, |seed| seed..seed + 1);
        let before = net::open_descriptors();
        {
            let world = World::new();
            for seed in seeds {
                let _witness = Witness(seed);
                world.live(seed);
            }
        }
        assert_eq!(net::open_descriptors(), before, "descriptors are left");
    });
}
