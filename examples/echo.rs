//! An echo server (RFC 862): sends back whatever it is sent.
//!
//! Run it with `cargo run --release --example echo`, then talk to it with `nc 127.0.0.1 2007`. It shows a server with state, a
//! server on several loops (`--threads 4`), and an orderly end on a signal.

use std::env;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::{Buffer, ConnectionHandler, EventLoop, Signal, Signals, TcpConnection, TcpServer};

const USAGE: &str = "usage: echo [--listen ADDRESS:PORT] [--threads N] [--grace SECONDS]

  --listen   where to listen; 127.0.0.1:2007 if not given, port 0 for one that is free
  --threads  how many loops serve connections; 1 if not given
  --grace    how long connections may take to end after a signal; 3 if not given";

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
        .threads(arguments.threads)?
        .serve(move |_| Echo { totals: Arc::clone(&counted), messages: 0, bytes: 0 })?;

    let local = server.local_addr();
    let mut server = Some(server);
    let grace = arguments.grace;
    let _signals =
        Signals::new(&event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| match server.take() {
            // The second signal: whoever sent it does not want to wait.
            None => event_loop.quit(),
            Some(server) => server.stop(grace, |event_loop, _| event_loop.quit()),
        })?;
    // Only now: whoever reads this may send a signal. If nobody does it serves all the same, so a write may fail.
    let _ = writeln!(io::stdout(), "listening on {local}\ntry: nc {} {}", local.ip(), local.port());
    event_loop.run()?;
    // The connections that a second signal has left open are closed with the loop, and counted then.
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

/// One connection. It counts for itself, and adds to the totals when it ends.
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
    threads: NonZeroUsize,
    grace: Duration,
}

impl Arguments {
    /// `None` if the user asks for help.
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
        let mut arguments = Arguments {
            listen: SocketAddr::from(([127, 0, 0, 1], 2007)),
            threads: NonZeroUsize::MIN,
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
                        .map_err(|_| format!("`{threads}` is not a number of threads from 1"))?;
                }
                "--grace" => {
                    let grace = value()?;
                    let seconds = grace.parse();
                    arguments.grace = seconds
                        .map(Duration::from_secs)
                        .map_err(|_| format!("`{grace}` is not a number of seconds"))?;
                }
                _ => return Err(format!("there is no argument `{name}`")),
            }
        }
        Ok(Some(arguments))
    }
}
