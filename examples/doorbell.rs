//! Two processes that exchange messages through shared memory, and ring for one another only when somebody sleeps.
//!
//! `cargo run --release --example doorbell` takes no arguments and ends by itself after a few seconds, with a table: messages a
//! second in both directions together, with up to 64 under way, and the median time there and back with one under way; through
//! a shared ring, and beside it over a pair of Unix sockets that keep the borders of messages (`SOCK_SEQPACKET`, one send and one
//! receive a message).
//!
//! The other process is this program again. A Unix socket, its standard input, is all that it is given. The ring's three
//! descriptors come to it through that; and both sides keep it open and watch it, because a process that dies rings no bell,
//! but its end of the socket is closed.

#[path = "shared/arguments.rs"]
mod arguments;

use std::cell::RefCell;
use std::env;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use reveille::{Channel, EventFd, EventLoop, Interest, SharedRing};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::thread::CpuSet;

/// In whose environment this stands is the other process.
const IS_CHILD: &str = "DOORBELL_EXAMPLE_CHILD";

const MESSAGE: [u8; 64] = [0x2a; 64];

/// Bytes of each direction's ring: some 900 messages.
const CAPACITY: usize = 64 * 1024;

/// How many messages are under way when there are many. Fewer than a socket holds, or both processes could wait for room.
const MANY: usize = 64;

/// Each measurement ends with the first of these.
const MOST_TRIPS: u64 = 500_000;
const MOST_TIME: Duration = Duration::from_millis(800);

/// How long nothing may happen before the other process counts as hanging.
const PATIENCE: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    if let Err(status) = arguments::positional("doorbell", "usage: doorbell", 0..=0) {
        return status;
    }
    let done = if env::var_os(IS_CHILD).is_some() { answer() } else { measure() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("doorbell: {error}");
            ExitCode::FAILURE
        }
    }
}

// --- This process ---------------------------------------------------------------------------------

fn measure() -> io::Result<()> {
    let before = descriptors(Which::All)?;
    let inheritable = descriptors(Which::Inheritable)?;
    let outcome = Outcome::of_both(inheritable)?;
    let after = descriptors(Which::All)?;

    // A pipe that nobody reads any more is an error, and no panic.
    let mut out = io::stdout();
    writeln!(out, "messages of {} bytes between two processes", MESSAGE.len())?;
    writeln!(out, "  {:<12} {:>12} {:>15}", "", "messages/s", "round trip, us")?;
    for (name, exchange) in [("shared ring", &outcome.ring), ("socket pair", &outcome.socket)] {
        let round_trip = exchange.one.median().as_secs_f64() * 1e6;
        writeln!(out, "  {name:<12} {:>12.0} {round_trip:>15.2}", exchange.many.messages_a_second())?;
    }
    let ratio = outcome.ring.many.messages_a_second() / outcome.socket.many.messages_a_second();
    writeln!(out, "shared ring : socket pair = {ratio:.1} in messages a second")?;
    let messages = 2 * (outcome.ring.many.count + outcome.ring.one.count);
    if cfg!(debug_assertions) {
        writeln!(
            out,
            "(built without --release, so the ring's figures are those of code that is not optimised)"
        )?;
    }
    writeln!(out, "the bells were rung {} times for {messages} messages", outcome.rings)?;
    writeln!(out, "descriptors: {before} before, {after} after; the other process inherited {inheritable}")?;
    if before != after {
        return Err(io::Error::other("descriptors are left"));
    }
    Ok(())
}

struct Outcome {
    ring: Exchange,
    socket: Exchange,
    rings: u64,
}

/// What one way of exchanging messages has come to: with many under way, and with one.
struct Exchange {
    many: Trips,
    one: Trips,
}

impl Outcome {
    fn of_both(inheritable: u64) -> io::Result<Outcome> {
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let child =
            Command::new(env::current_exe()?).env(IS_CHILD, "1").stdin(Stdio::from(theirs)).spawn()?;
        // Killed unless it ends by itself before.
        let mut child = Killed(child);
        // Not before, since the other process begins with what this one may run on.
        run_on_cpu(0)?;
        let mut inherited = [0; 8];
        receive(&socket, &mut inherited)?;
        if u64::from_ne_bytes(inherited) != inheritable {
            return Err(io::Error::other("the other process has inherited what it should not"));
        }

        let (ring, passed) = SharedRing::create(CAPACITY)?;
        // Each ring takes 1 from a bell's counter.
        let bells = [passed[1].try_clone()?, passed[2].try_clone()?].map(EventFd::from);
        let before = sum_of_counters(&bells)?;
        send_descriptors(socket.as_fd(), &passed)?;
        drop(passed);
        let through_ring = exchange_by_ring(ring, &socket)?;
        let rings = (before - sum_of_counters(&bells)?) as u64;
        drop(bells);

        // The word to go on without the ring.
        send(&socket, &[0])?;
        let over_socket = exchange_by_socket(&socket)?;
        drop(socket);
        let status = child.0.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("the other process has failed: {status}")));
        }
        Ok(Outcome { ring: through_ring, socket: over_socket, rings })
    }
}

fn sum_of_counters(bells: &[EventFd; 2]) -> io::Result<u128> {
    Ok(u128::from(bells[0].counter()?) + u128::from(bells[1].counter()?))
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail harmlessly when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Messages that go there and come back, some of them under way at a time.
struct Trips {
    under_way: usize,
    /// How many are out now.
    out: usize,
    count: u64,
    began: Instant,
    took: Duration,
    /// Of each trip, if there is one at a time.
    times: Vec<Duration>,
    sent_at: Instant,
}

impl Trips {
    fn begin(under_way: usize) -> Trips {
        let now = Instant::now();
        let (took, times) = (Duration::ZERO, Vec::new());
        Trips { under_way, out: under_way, count: 0, began: now, took, times, sent_at: now }
    }

    /// One has come back. Answers whether it is to go again.
    fn returned(&mut self, message: &[u8]) -> bool {
        assert!(message == MESSAGE, "a message came back as another");
        self.count += 1;
        // The clock costs as much as a message.
        if self.under_way == 1 || self.count % 64 == 0 || !self.took.is_zero() {
            let now = Instant::now();
            if self.under_way == 1 {
                self.times.push(now - self.sent_at);
                self.sent_at = now;
            }
            let enough = self.count >= MOST_TRIPS || now - self.began >= MOST_TIME;
            if enough || !self.took.is_zero() {
                self.took = now - self.began;
                self.out -= 1;
                return false;
            }
        }
        true
    }

    fn messages_a_second(&self) -> f64 {
        2.0 * self.count as f64 / self.took.as_secs_f64()
    }

    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

fn exchange_by_ring(ring: SharedRing, socket: &OwnedFd) -> io::Result<Exchange> {
    let event_loop = EventLoop::new()?;
    let trips = Rc::new(RefCell::new(Trips::begin(0)));
    let returning = Rc::clone(&trips);
    let source = ring.watch(&event_loop, move |ring, message| {
        let mut trips = returning.borrow_mut();
        if trips.returned(message) {
            ring.send(message).expect("the room of the message that has come back");
        } else if trips.out == 0 {
            ring.event_loop().quit();
        }
    })?;
    // The other process says nothing here, so this is its end. The loop then stops before all messages are back.
    let _socket = Channel::new(&event_loop, socket.try_clone()?, Interest::READABLE, |event| {
        event.event_loop().quit();
    })?;
    let exchange = |under_way| {
        *trips.borrow_mut() = Trips::begin(under_way);
        for _ in 0..under_way {
            source.send(MESSAGE)?;
        }
        event_loop.run_for(PATIENCE)?;
        let trips = trips.replace(Trips::begin(0));
        match trips.out {
            0 => Ok(trips),
            _ => Err(io::Error::other("the other process has gone, or is silent")),
        }
    };
    Ok(Exchange { many: exchange(MANY)?, one: exchange(1)? })
}

fn exchange_by_socket(socket: &OwnedFd) -> io::Result<Exchange> {
    let exchange = |under_way| {
        let mut trips = Trips::begin(under_way);
        for _ in 0..under_way {
            send(socket, &MESSAGE)?;
        }
        let mut message = MESSAGE;
        while trips.out > 0 {
            let length = receive(socket, &mut message)?;
            if trips.returned(&message[..length]) {
                send(socket, &message)?;
            }
        }
        Ok::<_, io::Error>(trips)
    };
    Ok(Exchange { many: exchange(MANY)?, one: exchange(1)? })
}

// --- The other process ----------------------------------------------------------------------------

fn answer() -> io::Result<()> {
    run_on_cpu(1)?;
    let inherited = descriptors(Which::Inheritable)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    send(&socket, &inherited.to_ne_bytes())?;
    let ring = SharedRing::from_descriptors(receive_descriptors(socket.as_fd())?, CAPACITY)?;

    let event_loop = EventLoop::new()?;
    let source = ring.watch(&event_loop, |ring, message| {
        ring.send(message).expect("room for all that can be under way");
    })?;
    // A word to go on without the ring, or the end of the first process.
    let channel = Channel::new(&event_loop, socket.try_clone()?, Interest::READABLE, |event| {
        event.event_loop().quit();
    })?;
    event_loop.run()?;
    source.close();
    channel.close();

    let mut message = MESSAGE;
    let mut length = receive(&socket, &mut message)?;
    while length > 0 {
        // The word itself, of one byte, has no answer.
        if length == MESSAGE.len() {
            send(&socket, &message)?;
        }
        length = receive(&socket, &mut message)?;
    }
    Ok(())
}

// --- Sockets and descriptors ----------------------------------------------------------------------

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, message, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message. None is as long as 0 bytes, so that is the end.
fn receive(socket: &OwnedFd, message: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, message, RecvFlags::empty())?.0)
}

fn send_descriptors(socket: BorrowedFd<'_>, descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "room for three descriptors");
    // They travel with a byte, since a message of none could not be told from the end.
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_descriptors(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    // Closed on exec from the first moment on, or a program that another thread starts just now would inherit them.
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, flags)?;
    let rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

/// Keeps this thread on the processor of that number among those that the program was given, so that the two processes do not
/// share one, and neither moves. With one processor only there is nothing to choose.
fn run_on_cpu(number: usize) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let (Some(cpu), true) = (allowed.get(number), allowed.len() > 1) {
        let mut only = CpuSet::new();
        only.set(*cpu);
        rustix::thread::sched_setaffinity(None, &only)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those that a program which is started from here finds open, if they are not replaced.
    Inheritable,
}

/// How many descriptors this process has, besides the one that it takes to count them.
fn descriptors(which: Which) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let info = fs::read_to_string(entry?.path())?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim(), 8).map_err(io::Error::other)?;
        let is_inherited = flags & rustix::fs::OFlags::CLOEXEC.bits() == 0;
        if which == Which::All || is_inherited {
            count += 1;
        }
    }
    // The directory was open, and is never inherited.
    Ok(if which == Which::All { count - 1 } else { count })
}
