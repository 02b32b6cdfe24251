//! Two processes exchange messages through shared memory, and signal a doorbell only if the peer
//! sleeps.
//!
//! `cargo run --release --example doorbell` takes no arguments and prints a table after a few
//! seconds. The table shows the messages per second in both directions together, with up to 64 in
//! flight, and the median round-trip time with one in flight: through a shared ring, and for
//! comparison over a pair of Unix sockets that preserve message boundaries (`SOCK_SEQPACKET`, one
//! send and one receive per message).
//!
//! The other process runs the same program. Its standard input is a Unix socket, over which it
//! receives the ring's three descriptors. Both sides keep the socket open and watch it, because a
//! process that dies signals no doorbell, but its end of the socket is closed.

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

use reveille::io::{Channel, Interest};
use reveille::ipc::SharedRing;
use reveille::{EventFd, EventLoop};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::thread::CpuSet;

/// Set in the environment of the other process.
const IS_CHILD: &str = "DOORBELL_EXAMPLE_CHILD";

const MESSAGE: [u8; 64] = [0x2a; 64];

/// The size of each direction's ring in bytes: about 900 messages.
const CAPACITY: usize = 64 * 1024;

/// Messages in flight in the throughput measurement. A socket can buffer more than that; otherwise
/// both processes could block in a send.
const IN_FLIGHT: usize = 64;

/// Each measurement ends when it reaches one of these limits.
const MAX_TRIPS: u64 = 500_000;
const MAX_TIME: Duration = Duration::from_millis(800);

/// The other process counts as hung after this time without progress.
const TIMEOUT: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    if let Err(status) = arguments::positional("doorbell", "usage: doorbell", 0..=0) {
        return status;
    }
    let done = if env::var_os(IS_CHILD).is_some() { respond() } else { measure() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("doorbell: {error}");
            ExitCode::FAILURE
        }
    }
}

// --- This process --------------------------------------------------------------------------------

fn measure() -> io::Result<()> {
    let before = descriptors(Which::All)?;
    let inheritable = descriptors(Which::Inheritable)?;
    let outcome = Outcome::of_both(inheritable)?;
    let after = descriptors(Which::All)?;

    // A closed output pipe is an error, not a panic.
    let mut out = io::stdout();
    writeln!(out, "messages of {} bytes between two processes", MESSAGE.len())?;
    writeln!(out, "  {:<12} {:>12} {:>15}", "", "messages/s", "round trip, us")?;
    for (name, exchange) in [("shared ring", &outcome.ring), ("socket pair", &outcome.socket)] {
        let round_trip = exchange.one.median().as_secs_f64() * 1e6;
        writeln!(out, "  {name:<12} {:>12.0} {round_trip:>15.2}", exchange.many.messages_per_second())?;
    }
    let ratio = outcome.ring.many.messages_per_second() / outcome.socket.many.messages_per_second();
    writeln!(out, "shared ring : socket pair = {ratio:.1} in messages a second")?;
    let messages = 2 * (outcome.ring.many.count + outcome.ring.one.count);
    if cfg!(debug_assertions) {
        writeln!(out, "(built without --release: the figures of the ring are those of unoptimised code)")?;
    }
    writeln!(out, "the bells were rung {} times for {messages} messages", outcome.rings)?;
    writeln!(out, "descriptors: {before} before, {after} after; the other process inherited {inheritable}")?;
    if before != after {
        return Err(io::Error::other("some descriptors are still open"));
    }
    Ok(())
}

struct Outcome {
    ring: Exchange,
    socket: Exchange,
    rings: u64,
}

/// The results of one transport: with many messages in flight, and with one.
struct Exchange {
    many: Trips,
    one: Trips,
}

impl Outcome {
    fn of_both(inheritable: u64) -> io::Result<Outcome> {
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
        let child =
            Command::new(env::current_exe()?).env(IS_CHILD, "1").stdin(Stdio::from(theirs)).spawn()?;
        // Killed on drop, unless it has already ended.
        let mut child = Killed(child);
        // Pinned after the spawn, since the other process inherits the CPU affinity.
        run_on_cpu(0)?;
        let mut inherited = [0; 8];
        receive(&socket, &mut inherited)?;
        if u64::from_ne_bytes(inherited) != inheritable {
            return Err(io::Error::other("the other process has inherited unexpected descriptors"));
        }

        let (ring, passed) = SharedRing::create(CAPACITY)?;
        // Each signal subtracts 1 from the bell's counter.
        let bells = [passed[1].try_clone()?, passed[2].try_clone()?].map(EventFd::from);
        let before = sum_of_counters(&bells)?;
        send_descriptors(socket.as_fd(), &passed)?;
        drop(passed);
        let through_ring = exchange_by_ring(ring, &socket)?;
        let rings = (before - sum_of_counters(&bells)?) as u64;
        drop(bells);

        // Makes the other process continue without the ring.
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
        // Both fail harmlessly if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Round trips, with a given number of messages in flight.
struct Trips {
    in_flight: usize,
    /// Messages currently in flight.
    out: usize,
    count: u64,
    began: Instant,
    took: Duration,
    /// Duration of each round trip, if one message is in flight at a time.
    times: Vec<Duration>,
    sent_at: Instant,
}

impl Trips {
    fn begin(in_flight: usize) -> Trips {
        let now = Instant::now();
        let (took, times) = (Duration::ZERO, Vec::new());
        Trips { in_flight, out: in_flight, count: 0, began: now, took, times, sent_at: now }
    }

    /// Records a returned message. Returns whether to send it again.
    fn returned(&mut self, message: &[u8]) -> bool {
        assert!(message == MESSAGE, "a returned message was altered");
        self.count += 1;
        // Reading the clock costs as much as a message.
        if self.in_flight == 1 || self.count % 64 == 0 || !self.took.is_zero() {
            let now = Instant::now();
            if self.in_flight == 1 {
                self.times.push(now - self.sent_at);
                self.sent_at = now;
            }
            let enough = self.count >= MAX_TRIPS || now - self.began >= MAX_TIME;
            if enough || !self.took.is_zero() {
                self.took = now - self.began;
                self.out -= 1;
                return false;
            }
        }
        true
    }

    fn messages_per_second(&self) -> f64 {
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
            ring.send(message).expect("space of the returned message");
        } else if trips.out == 0 {
            ring.event_loop().quit();
        }
    })?;
    // The other process sends nothing over the socket in this phase, so readiness means that it has
    // ended. The loop then stops before all messages are back.
    let _socket = Channel::new(&event_loop, socket.try_clone()?, Interest::READABLE, |event| {
        event.event_loop().quit();
    })?;
    let exchange = |in_flight| {
        *trips.borrow_mut() = Trips::begin(in_flight);
        for _ in 0..in_flight {
            source.send(MESSAGE)?;
        }
        event_loop.run_for(TIMEOUT)?;
        let trips = trips.replace(Trips::begin(0));
        match trips.out {
            0 => Ok(trips),
            _ => Err(io::Error::other("the other process has ended or does not respond")),
        }
    };
    Ok(Exchange { many: exchange(IN_FLIGHT)?, one: exchange(1)? })
}

fn exchange_by_socket(socket: &OwnedFd) -> io::Result<Exchange> {
    let exchange = |in_flight| {
        let mut trips = Trips::begin(in_flight);
        for _ in 0..in_flight {
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
    Ok(Exchange { many: exchange(IN_FLIGHT)?, one: exchange(1)? })
}

// --- The other process ---------------------------------------------------------------------------

fn respond() -> io::Result<()> {
    run_on_cpu(1)?;
    let inherited = descriptors(Which::Inheritable)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    send(&socket, &inherited.to_ne_bytes())?;
    let ring = SharedRing::from_descriptors(receive_descriptors(socket.as_fd())?, CAPACITY)?;

    let event_loop = EventLoop::new()?;
    let source = ring.watch(&event_loop, |ring, message| {
        ring.send(message).expect("space for all messages in flight");
    })?;
    // Readiness means either the message to continue without the ring, or the end of the first
    // process.
    let channel = Channel::new(&event_loop, socket.try_clone()?, Interest::READABLE, |event| {
        event.event_loop().quit();
    })?;
    event_loop.run()?;
    source.close();
    channel.close();

    let mut message = MESSAGE;
    let mut length = receive(&socket, &mut message)?;
    while length > 0 {
        // The message to continue, of one byte, gets no reply.
        if length == MESSAGE.len() {
            send(&socket, &message)?;
        }
        length = receive(&socket, &mut message)?;
    }
    Ok(())
}

// --- Sockets and descriptors ---------------------------------------------------------------------

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, message, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message. Messages are never empty, so 0 means end of file.
fn receive(socket: &OwnedFd, message: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, message, RecvFlags::empty())?.0)
}

fn send_descriptors(socket: BorrowedFd<'_>, descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "space for three descriptors");
    // Sent with one byte, since an empty message could not be distinguished from end of file.
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_descriptors(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // Close-on-exec is set atomically; otherwise a program started concurrently by another thread
    // could inherit them.
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, flags)?;
    let rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

/// Pins this thread to the CPU with this index among the allowed ones, so that the two processes
/// neither share a CPU nor migrate. No effect if there is only one CPU.
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
    /// Those that a child process inherits.
    Inheritable,
}

/// The number of open descriptors, without the one used for counting.
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
    // The directory itself was open; it is never inherited.
    Ok(if which == Which::All { count - 1 } else { count })
}
