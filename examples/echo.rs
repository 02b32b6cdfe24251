//! An echo server (RFC 862): returns everything that it receives.
//!
//! Run it with `cargo run --release --example echo`, then connect with `nc 127.0.0.1 2007`. It
//! shows a server with state, a server on several loops (`--threads 4`), and a graceful shutdown on
//! a signal.

use std::env;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::signal::{Signal, Signals};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};

const USAGE: &str = "usage: echo [--listen ADDRESS:PORT] [--threads N] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port
  --threads  the number of loops that serve connections; default: 1
  --grace    the time in seconds for connections to close after a signal; default: 3";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = writeln!(io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("echo: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let totals = Arc::new(Totals::default());
    let counted = Arc::clone(&totals);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .threads(arguments.threads)
        .serve(move |_| Echo { totals: Arc::clone(&counted), messages: 0, bytes: 0 })?;

    let local = server.local_addr()?;
    let mut server = Some(server);
    let grace = arguments.grace;
    let _signals =
        Signals::new(&event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| match server.take() {
            // The second signal skips the grace period.
            None => event_loop.quit(),
            Some(server) => server.stop(grace, |event_loop, _| event_loop.quit()),
        })?;
    // Printed last: a reader of this line may send a signal. Serving does not depend on it, so the
    // write may fail.
    let _ = writeln!(io::stdout(), "listening on {local}\ntry: nc {} {}", local.ip(), local.port());
    event_loop.run()?;
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

struct Arguments {
    listen: SocketAddr,
    threads: usize,
    grace: Duration,
}

impl Arguments {
    /// Returns `None` for `--help`.
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
        let mut arguments = Arguments {
            listen: SocketAddr::from(([127, 0, 0, 1], 2007)),
            threads: 1,
            grace: Duration::from_secs(3),
        };
        while let Some(name) = given.next() {
            let mut value = || given.next().ok_or_else(|| format!("{name} wants a value"));
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--listen" => {
                    let listen = value()?;
                    arguments.listen = listen.parse().map_err(|_| {
                        format!(
                            "`{listen}` is not an address with a port, such as 127.0.0.1:2007 or [::1]:2007"
                        )
                    })?;
                }
                "--threads" => {
                    let threads = value()?;
                    arguments.threads = threads
                        .parse()
                        .ok()
                        .filter(|&number| number > 0)
                        .ok_or_else(|| format!("`{threads}` is not a number of threads from 1"))?;
                }
                "--grace" => {
                    let grace = value()?;
                    let seconds = grace.parse();
                    arguments.grace = seconds
                        .map(Duration::from_secs)
                        .map_err(|_| format!("`{grace}` is not a number of seconds"))?;
                }
                _ => return Err(format!("unknown argument `{name}`")),
            }
        }
        Ok(Some(arguments))
    }
}
