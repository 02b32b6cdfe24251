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

#[path = "../shared/options.rs"]
mod options;

mod exchange;
mod process;
mod responder;
mod socket;

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use reveille::EventFd;
use reveille::ipc::SharedRing;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use exchange::Exchange;
use process::{Which, descriptors, run_on_cpu};
use socket::{receive, send, send_descriptors};

/// Set in the environment of the other process.
const IS_CHILD: &str = "DOORBELL_EXAMPLE_CHILD";

const MESSAGE: [u8; 64] = [0x2a; 64];

/// The size of each direction's ring in bytes: about 900 messages.
const CAPACITY: usize = 64 * 1024;

/// The other process counts as hung after this time without progress.
const TIMEOUT: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    options::main("usage: doorbell", &[], &[], |options| {
        options.rest(0)?;
        let done = if env::var_os(IS_CHILD).is_some() { responder::respond() } else { measure() };
        Ok(done?)
    })
}

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
        let through_ring = exchange::by_ring(ring, &socket)?;
        let rings = (before - sum_of_counters(&bells)?) as u64;
        drop(bells);

        // Makes the other process continue without the ring.
        send(&socket, &[0])?;
        let over_socket = exchange::by_socket(&socket)?;
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
