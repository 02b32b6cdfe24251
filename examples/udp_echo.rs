//! An echo server for datagrams (RFC 862): returns each one to its sender.
//!
//! Run it with `cargo run --release --example udp_echo`, then connect with `nc -u 127.0.0.1 2007`.
//! It shows a handler with state, that errors never close a UDP socket, and which datagrams an echo
//! server must not reply to.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io::{self, Write};
use std::mem;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use options::{Failure, Options};
use reveille::net::{DatagramHandler, UdpRef};
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, UdpSocket};

const USAGE: &str = "usage: udp_echo [--listen ADDRESS:PORT]

  --listen  the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port";

fn main() -> ExitCode {
    options::main(USAGE, &["--listen"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let address = serving::listen(options, 2007)?;
    let event_loop = EventLoop::new()?;
    let socket = UdpSocket::bind(&event_loop, address)?.serve(Echo::default())?;
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    // Serving does not depend on the output, so the write may fail.
    let _ = writeln!(io::stdout(), "receiving on {}", socket.local_addr()?);
    Ok(event_loop.run()?)
}

#[derive(Default)]
struct Echo {
    datagrams: u64,
    /// The time of the last error line, and the number of errors suppressed since.
    last_error: Option<Instant>,
    left_out: u64,
}

impl DatagramHandler for Echo {
    fn on_datagram(&mut self, socket: &UdpRef, datagram: &[u8], from: SocketAddr) -> io::Result<()> {
        self.datagrams += 1;
        // The sender's address may be forged. Port 0 cannot receive a reply. If the address is that
        // of this socket, it would reply to its own replies forever.
        if from.port() == 0 || is_own(socket.local_addr()?, from) {
            return Ok(());
        }
        socket.send_to(datagram, from)?;
        Ok(())
    }

    /// Writes at most one line per second, with the number of suppressed errors; otherwise a peer
    /// could flood the terminal.
    fn on_error(&mut self, socket: &UdpRef, error: io::Error, peer: Option<SocketAddr>) {
        let now = socket.event_loop().now();
        if self.last_error.is_some_and(|last| now.saturating_duration_since(last) < Duration::from_secs(1)) {
            self.left_out += 1;
            return;
        }
        self.last_error = Some(now);
        let left_out = mem::take(&mut self.left_out);
        let (datagrams, errors) = (self.datagrams, io::stderr());
        let _ =
            writeln!(&errors, "after {datagrams} datagrams, of {peer:?}: {error} ({left_out} more errors)");
    }
}

/// Whether a datagram to `address` would be received by the socket bound to `own`.
fn is_own(own: SocketAddr, address: SocketAddr) -> bool {
    let is_local = || {
        let any_port = SocketAddr::new(address.ip(), 0);
        std::net::UdpSocket::bind(any_port).is_ok()
    };
    own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified() && is_local())
}
