//! An echo server (RFC 862): returns everything that it receives.
//!
//! Run it with `cargo run --release --example echo`, then connect with `nc 127.0.0.1 2007`. It
//! shows a server on several loops (`--threads 4`), whose connections share counters, and a
//! graceful shutdown on a signal.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use options::{Failure, Options};
use reveille::net::ConnectionLimits;
use reveille::{EventLoop, TcpServer};

const USAGE: &str = "usage: echo [--listen ADDRESS:PORT] [--threads N] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port
  --threads  the number of loops that serve connections; default: 1
  --grace    the time in seconds for connections to close after a signal; default: 3";

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    options::main(USAGE, &["--listen", "--threads", "--grace"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let (listen, threads) = (serving::listen(options, 2007)?, serving::threads(options)?);
    let grace = serving::grace(options)?;

    let event_loop = EventLoop::new()?;
    let (messages, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, sum) = (Arc::clone(&messages), Arc::clone(&bytes));
    let server = TcpServer::bind(&event_loop, listen)?
        .threads(threads)
        .limits(ConnectionLimits::new().idle_timeout(IDLE))
        .serve_fn(move |conn, input| {
            count.fetch_add(1, Relaxed);
            sum.fetch_add(input.len() as u64, Relaxed);
            conn.send(input.take_all())
        })?;

    let counters = server.handle();
    serving::run(&event_loop, server, grace, |ip, port| format!("nc {ip} {port}"))?;
    // The loops end here, with the connections that a second signal has left open.
    drop(event_loop);
    let (connections, messages) = (counters.counters().accepted, messages.load(Relaxed));
    let _ = writeln!(
        io::stdout(),
        "{connections} connections, {messages} messages, {} bytes",
        bytes.load(Relaxed)
    );
    Ok(())
}
