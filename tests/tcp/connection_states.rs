//! Random connections, on real sockets and a virtual clock, are checked against the invariants of
//! every connection.
//!
//! For all operations of the two ends, in any order: each accepted byte arrives in order or is
//! reported as undelivered, each connection is opened once and closed once, no callback follows the
//! close, states only advance, and no descriptor leaks. Each connection is generated from a seed. A
//! failure prints the seed, and `REVEILLE_SEED=n` repeats that connection.

use std::cell::RefCell;
use std::env;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::net::{self, Random, reason};
use crate::support::turn;
use reveille::net::{CloseReason, ConnectionLimits, ConnectionState, SendError};
use reveille::time::VirtualClock;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use socket2::SockRef;

const CONNECTIONS: u64 = 3_000;
const MAX_UNSENT: usize = 200_000;

/// Bytes that encode which of two senders sent them, and their sequence number for that sender.
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

    /// Checks that `bytes` are the next ones, of either sender.
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

/// The facts that are recorded of one connection.
#[derive(Default)]
struct Facts {
    handle: Option<ConnectionHandle>,
    opened: u32,
    closed: Option<Closed>,
    dropped: bool,
    last_state: Option<ConnectionState>,
    peer_shutdowns: u32,
    /// A graceful close has begun, so input is no longer delivered.
    ignores_input: bool,
    /// A graceful close has been requested.
    may_ignore_input: bool,
    /// Accepted for sending.
    accepted: Numbered,
    /// Offered to the handler.
    seen: Numbered,
    /// The number of offered bytes that the handler has not consumed.
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

/// Performs random operations in each of its callbacks.
struct Subject {
    facts: Rc<RefCell<Facts>>,
    random: Random,
}

impl Subject {
    fn check_state(&self, conn: &TcpConnection) {
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
        assert!(facts.closed.is_none(), "a callback followed the close");
        assert!(
            facts.last_state.is_none_or(|last| order(last) <= order(state)),
            "{:?} to {state:?}",
            facts.last_state
        );
        facts.last_state = Some(state);
    }

    fn act(&mut self, conn: &TcpConnection) {
        self.check_state(conn);
        for _ in 0..self.random.below(3) {
            match self.random.below(24) {
                0 => conn.shutdown(),
                1 => conn.close(),
                2 => {
                    conn.close_gracefully(Duration::from_millis(self.random.below(3000) as u64));
                    self.facts.borrow_mut().ignores_input = true;
                }
                3 | 4 => conn.pause_reading(),
                5 | 6 => conn.resume_reading(),
                7 | 8 => conn.notify_drained(),
                _ => self.send(conn),
            }
            self.check_state(conn);
        }
    }

    fn send(&mut self, conn: &TcpConnection) {
        let len = length(&mut self.random);
        let bytes = self.facts.borrow().accepted.make(DIRECTLY, len);
        let (before, state) = (conn.unsent(), conn.state());
        let sent = match self.random.below(4) {
            0 => net::reason(conn.send_owned(bytes)),
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
            Err(SendError::ShutDown) => assert_eq!(conn.state(), ConnectionState::Closing),
            Err(SendError::Closed) => assert_ne!(conn.state(), ConnectionState::Open),
            Err(SendError::Full) => assert!(before + len > MAX_UNSENT),
            Err(error) => panic!("{error}"),
        }
        assert!(conn.unsent() <= MAX_UNSENT);
    }
}

fn length(random: &mut Random) -> usize {
    let max = [10, 2_000, 2_000, 60_000][random.below(4)];
    random.below(max)
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
        assert!(!facts.ignores_input, "input after a graceful close");
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
        assert!(facts.peer_has_finished && !facts.ignores_input && facts.peer_shutdowns == 1);
        drop(facts);
        self.act(conn);
        if self.random.below(2) == 0 {
            conn.shutdown();
        }
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        self.check_state(conn);
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
    fn read(&mut self, max: usize) {
        let Some(socket) = &mut self.socket else { return };
        let mut bytes = [0; 16 * 1024];
        let mut left = max;
        while left > 0 {
            let len = left.min(bytes.len());
            match socket.read(&mut bytes[..len]) {
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
            // Fails if the connection has been reset.
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
    /// The handler of the next connection.
    next: Rc<RefCell<Option<Subject>>>,
}

impl World {
    fn new() -> World {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().virtual_clock(clock.clone()).propagate_panics();
        let event_loop = builder.input_buffer(4096).build().unwrap();
        let next: Rc<RefCell<Option<Subject>>> = Rc::default();
        let taken = Rc::clone(&next);
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
            .unwrap()
            .limits(ConnectionLimits::new().water_marks(50_000, 10_000).max_unsent(MAX_UNSENT))
            .serve(move |_| taken.take().expect("a handler for each connection"))
            .unwrap();
        World { event_loop, clock, server, next }
    }

    fn run(&self, seed: u64) {
        let mut random = Random::new(seed);
        let facts: Rc<RefCell<Facts>> = Rc::default();
        *self.next.borrow_mut() = Some(Subject { facts: Rc::clone(&facts), random: Random::new(!seed) });
        let socket = net::connect_with_small_packets(self.server.local_addr().unwrap());
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
        let handle = facts.borrow().handle.clone().expect("an open connection");
        match random.below(40) {
            0 => peer.reset(),
            1 => peer.finish(facts),
            2 => handle.shutdown(),
            3 => handle.close(),
            4 => {
                facts.borrow_mut().may_ignore_input = true;
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

    /// Ends the connection, in one of several ways: the peer reads all bytes and finishes, and this
    /// end shuts down or closes gracefully in case it has not done so.
    fn end(&self, random: &mut Random, facts: &RefCell<Facts>, peer: &mut Peer) {
        let handle = facts.borrow().handle.clone().expect("an open connection");
        let ending = random.below(3);
        facts.borrow_mut().may_ignore_input |= ending > 0;
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
        // The bytes that the kernel still holds after the close, and then the end of input.
        net::turn_until(&self.event_loop, || {
            peer.read(usize::MAX);
            facts.borrow().dropped && (peer.is_at_end || peer.socket.is_none())
        });
        assert_eq!(reason(handle.send("late")), Err(SendError::Closed));
        handle.close();
        turn(&self.event_loop);
        assert_eq!(self.event_loop.next_deadline(), None, "a timer is left");
        assert_eq!(self.server.open_connections(), 0);
    }
}

fn check(facts: &Facts, peer: &Peer) {
    assert_eq!(facts.opened, 1);
    let closed = facts.closed.as_ref().expect("a closed connection");
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
        if !facts.ignores_input && !facts.may_ignore_input {
            assert_eq!((seen, facts.peer_shutdowns), (written, 1), "some input was not delivered");
        }
    }
}

/// Prints the seed of a connection that has failed.
struct SeedPrinter(u64);

impl Drop for SeedPrinter {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = writeln!(io::stderr(), "REVEILLE_SEED={}", self.0);
        }
    }
}

#[test]
fn random_connections_report_every_loss_and_every_event() {
    alone(|| {
        let one = env::var("REVEILLE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
        let seeds = one.map_or(0..CONNECTIONS, |seed| seed..seed + 1);
        let before = net::open_descriptors();
        {
            let world = World::new();
            for seed in seeds {
                let _printer = SeedPrinter(seed);
                world.run(seed);
            }
        }
        assert_eq!(net::open_descriptors(), before, "descriptors are left");
    });
}
