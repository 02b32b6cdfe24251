//! An echo server (RFC 862): returns everything that it receives.
//!
//! Run it with `cargo run --release --example echo`, then connect with `nc 127.0.0.1 2007`. It
//! shows a server with state, a server on several loops (`--threads 4`), and a graceful shutdown on
//! a signal.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::net::ConnectionLimits;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};

use options::Options;

const USAGE: &str = "usage: echo [--listen ADDRESS:PORT] [--threads N] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port
  --threads  the number of loops that serve connections; default: 1
  --grace    the time in seconds for connections to close after a signal; default: 3";

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Arguments::parse() {
        Ok(arguments) => options::status_of("echo", run(&arguments)),
        Err(status) => status,
    }
}

struct Arguments {
    listen: SocketAddr,
    threads: NonZeroUsize,
    grace: Duration,
}

impl Arguments {
    fn parse() -> Result<Arguments, ExitCode> {
        let mut options = Options::parse("echo", USAGE, &["--listen", "--threads", "--grace"])?;
        options.rest(0)?;
        Ok(Arguments {
            listen: serving::listen(&options, 2007)?,
            threads: options.get("--threads", NonZeroUsize::MIN, "a number of threads from 1")?,
            grace: serving::grace(&options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let totals = Arc::new(Totals::default());
    let counted = Arc::clone(&totals);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .threads(arguments.threads.get())
        .limits(ConnectionLimits::new().idle_timeout(IDLE))
        .serve(move |_| Echo { totals: Arc::clone(&counted), messages: 0, bytes: 0 })?;

    serving::run(&event_loop, server, arguments.grace, |ip, port| format!("nc {ip} {port}"))?;
    // Connections left open by a second signal are closed with the loop, and counted then.
    drop(event_loop);
    let _ = writeln!(
        io::stdout(),
        "{} connections, {} messages, {} bytes",
        totals.connections.load(Relaxed),
        totals.messages.load(Relaxed),
        totals.bytes.load(Relaxed)
    );
    Ok(())
}

/// One connection. Counts locally, and adds to the totals when it closes.
struct Echo {
    totals: Arc<Totals>,
    messages: u64,
    bytes: u64,
}

impl ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.messages += 1;
        self.bytes += input.len() as u64;
        conn.send(input.take_all())?;
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.totals.connections.fetch_add(1, Relaxed);
        self.totals.messages.fetch_add(self.messages, Relaxed);
        self.totals.bytes.fetch_add(self.bytes, Relaxed);
    }
}

#[derive(Default)]
struct Totals {
    connections: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
}
