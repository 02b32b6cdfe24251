//! A loop inside mio: a TCP echo server on the loop and a UDP echo server without it, on one
//! thread.
//!
//! Run it with `cargo run --release --example in_mio`, then connect with `nc 127.0.0.1 2007` or `nc
//! -u 127.0.0.1 2007`. The loop is one of the sources of an edge-triggered `mio::Poll`.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io::{self, ErrorKind, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use options::{Failure, Options};
use reveille::net::ConnectionLimits;
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer};

const USAGE: &str = "usage: in_mio [--listen ADDRESS:PORT]

  --listen  the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port";

const LOOP: Token = Token(0);
const DATAGRAMS: Token = Token(1);

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    options::main(USAGE, &["--listen"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let address = serving::listen(options, 2007)?;
    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, address)?
        .limits(ConnectionLimits::new().idle_timeout(IDLE))
        .serve_fn(|conn, input| conn.send(input.take_all()))?;
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    let datagrams = UdpSocket::bind(address)?;
    datagrams.set_nonblocking(true)?;

    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&event_loop.as_raw_fd()), LOOP, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&datagrams.as_raw_fd()), DATAGRAMS, Interest::READABLE)?;
    let _ = writeln!(io::stdout(), "TCP on {}\nUDP on {}", server.local_addr()?, datagrams.local_addr()?);
    let mut events = Events::with_capacity(16);
    while !event_loop.is_quitting() {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                LOOP => event_loop.run_ready()?,
                _ => echo(&datagrams)?,
            }
        }
    }
    Ok(())
}

/// Drains the socket: an edge reports that datagrams have arrived, not how many.
fn echo(socket: &UdpSocket) -> io::Result<()> {
    let mut bytes = [0; 65_536];
    loop {
        match socket.recv_from(&mut bytes) {
            // A datagram may be lost, so a refused send is ignored.
            Ok((n, from)) => _ = socket.send_to(&bytes[..n], from),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
