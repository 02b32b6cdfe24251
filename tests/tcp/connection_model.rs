//! A model of random connections, on real sockets and a virtual clock: they are checked against the
//! invariants of every connection. The tests of TLS run it too.
//!
//! For all operations of the two ends, in any order: each accepted byte arrives in order or is
//! reported as undelivered, each connection is opened once and closed once, no callback follows the
//! close, states only advance, and no descriptor leaks. Each connection is generated from a seed. A
//! failure prints the seed, and `REVEILLE_SEED=n` repeats that connection.

use std::cell::RefCell;
use std::env;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::net::{self, Random, reason};
use crate::support::turn;
use reveille::net::{CloseReason, ConnectionLimits, ConnectionState, SendError, TcpServerBuilder};
use reveille::time::VirtualClock;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use socket2::SockRef;

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

/// The stream of the other end. No method waits.
pub(crate) trait Stream {
    /// The most bytes that have arrived and cannot be read, as others of their record are missing.
    const RECORD: usize = 0;

    /// Reads once. 0 bytes are the end of input.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Returns how many bytes were accepted.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Ends the output, after everything that was accepted.
    fn finish(&mut self) -> io::Result<()>;

    /// Continues a handshake, and sends what was accepted.
    fn advance(&mut self) {}

    /// Whether the end of input after fewer bytes than were sent is always an error.
    fn detects_truncation(&self) -> bool {
        false
    }

    fn into_socket(self) -> TcpStream;
}

impl Stream for TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Read::read(self, bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn into_socket(self) -> TcpStream {
        self
    }
}

/// The other end, which reads and writes without waiting.
struct Peer<S> {
    stream: Option<S>,
    read: Numbered,
    written: Numbered,
    has_reset: bool,
    is_at_end: bool,
    /// The stream has ended without an error, and would have reported a truncation.
    is_complete: bool,
}

impl<S: Stream> Peer<S> {
    fn read(&mut self, max: usize) {
        let Some(stream) = &mut self.stream else { return };
        let mut bytes = [0; 16 * 1024];
        let mut left = max;
        while left > 0 && !self.is_at_end {
            let len = left.min(bytes.len());
            match stream.read(&mut bytes[..len]) {
                Ok(0) => {
                    self.is_at_end = true;
                    self.is_complete = stream.detects_truncation();
                }
                Ok(n) => {
                    self.read.check(&bytes[..n]);
                    left -= n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.is_at_end = true,
            }
        }
    }

    fn write(&mut self, len: usize) {
        let Some(stream) = &mut self.stream else { return };
        if let Ok(n) = stream.write(&self.written.make(0, len)) {
            self.written.accept(0, n);
        }
    }

    fn advance(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.advance();
        }
    }

    fn finish(&mut self, facts: &RefCell<Facts>) {
        if let Some(stream) = &mut self.stream {
            facts.borrow_mut().peer_has_finished = true;
            // Fails if the connection has been reset.
            let _ = stream.finish();
        }
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            net::reset(stream.into_socket());
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
    /// `configure` may add filters to the server.
    fn new(configure: impl FnOnce(TcpServerBuilder<'_>) -> TcpServerBuilder<'_>) -> World {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().virtual_clock(clock.clone()).propagate_panics();
        let event_loop = builder.input_buffer(4096).build().unwrap();
        let next: Rc<RefCell<Option<Subject>>> = Rc::default();
        let taken = Rc::clone(&next);
        let limits = ConnectionLimits::new().water_marks(50_000, 10_000).max_unsent(MAX_UNSENT);
        let server = configure(TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().limits(limits))
            .serve(move |_| taken.take().expect("a handler for each connection"))
            .unwrap();
        World { event_loop, clock, server, next }
    }

    fn run<S: Stream>(&self, seed: u64, connect: impl FnOnce(SocketAddr) -> S) {
        let mut random = Random::new(seed);
        let facts: Rc<RefCell<Facts>> = Rc::default();
        *self.next.borrow_mut() = Some(Subject { facts: Rc::clone(&facts), random: Random::new(!seed) });
        let mut peer = Peer {
            stream: Some(connect(self.server.local_addr().unwrap())),
            read: Numbered::default(),
            written: Numbered::default(),
            has_reset: false,
            is_at_end: false,
            is_complete: false,
        };
        net::turn_until(&self.event_loop, || {
            peer.advance();
            facts.borrow().opened > 0
        });
        for _ in 0..random.below(30) {
            self.step(&mut random, &facts, &mut peer);
        }
        self.end(&mut random, &facts, &mut peer);
        check(&facts.borrow(), &peer);
    }

    fn step<S: Stream>(&self, random: &mut Random, facts: &RefCell<Facts>, peer: &mut Peer<S>) {
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
    fn end<S: Stream>(&self, random: &mut Random, facts: &RefCell<Facts>, peer: &mut Peer<S>) {
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
            peer.advance();
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
            facts.borrow().dropped && (peer.is_at_end || peer.stream.is_none())
        });
        assert_eq!(reason(handle.send("late")), Err(SendError::Closed));
        handle.close();
        turn(&self.event_loop);
        assert_eq!(self.event_loop.next_deadline(), None, "a timer is left");
        assert_eq!(self.server.open_connections(), 0);
    }
}

fn check<S: Stream>(facts: &Facts, peer: &Peer<S>) {
    assert_eq!(facts.opened, 1);
    let closed = facts.closed.as_ref().expect("a closed connection");
    let (accepted, arrived) = (facts.accepted.total(), peer.read.total());
    let (seen, written) = (facts.seen.total(), peer.written.total());
    assert!(arrived <= accepted, "{arrived} of {accepted} bytes");
    assert!(seen <= written, "{seen} of {written} bytes");
    assert!(closed.unsent <= closed.undelivered);
    if !peer.has_reset {
        let lost = closed.undelivered;
        // 0 is exact.
        let unreadable = if lost == 0 { 0 } else { S::RECORD };
        assert!(
            arrived + lost + unreadable >= accepted,
            "{arrived} bytes arrived and {lost} are lost, of {accepted}"
        );
    }
    if peer.is_complete {
        assert_eq!(arrived, accepted, "a truncated stream was complete for the peer");
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

/// Runs one connection for each seed. `connect` connects the peer of one.
pub(crate) fn run<S: Stream>(
    seeds: Range<u64>,
    configure: impl FnOnce(TcpServerBuilder<'_>) -> TcpServerBuilder<'_>,
    connect: impl Fn(SocketAddr, u64) -> S,
) {
    let one = env::var("REVEILLE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let seeds = one.map_or(seeds, |seed| seed..seed + 1);
    let before = net::open_descriptors();
    {
        let world = World::new(configure);
        for seed in seeds {
            let _printer = SeedPrinter(seed);
            world.run(seed, |address| connect(address, seed));
        }
    }
    assert_eq!(net::open_descriptors(), before, "descriptors are left");
}
