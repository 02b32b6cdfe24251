//! A SOCKS proxy: versions 4, 4a and 5 (RFC 1928), with user and password (RFC 1929), rules, and
//! UDP.
//!
//! Run it with `cargo run --release --example socks`, then `curl --socks5-hostname
//! 127.0.0.1:1080 http://example.org/`.
//!
//! It shows a handshake as a state machine without I/O, lookups by a resolver of each loop, clients
//! that try the addresses of a name, relays between two connections, UDP sockets whose lifetime is
//! that of a connection, and files that are loaded again on SIGHUP.

#[path = "../shared/descriptors.rs"]
mod descriptors;
#[path = "../shared/network.rs"]
mod network;
#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/serving.rs"]
mod serving;

mod protocol;
mod rules;
mod session;
mod settings;
mod udp;
mod users;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use reveille::net::{ConnectionLimits, Resolver};
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer};

use options::{Failure, Options};
use session::Session;
use settings::{Files, Shared};

const USAGE: &str = "usage: socks [--listen ADDRESS:PORT] [--threads N] [--users FILE] [--rules FILE]
             [--timeout SECONDS] [--idle SECONDS] [--max-connections N] [--grace SECONDS]

A SOCKS proxy, versions 4, 4a and 5: CONNECT and UDP ASSOCIATE. BIND is refused with code 7.

  --listen           the address to listen on; default: 127.0.0.1:1080; port 0 selects a free port
  --threads          the number of loops that serve connections; default: 1
  --users            a file with a line NAME:PASSWORD for each user; only they are served, by
                     version 5; default: no password
  --rules            a file of rules, one a line: `allow` or `deny`, then a network such as
                     10.0.0.0/8 or `all`, then possibly a port or a range such as 1-1023;
                     the first match decides; default: all destinations are allowed
  --timeout          the time in seconds for the handshake, and again for the connection to the
                     destination; default: 10
  --idle             the time in seconds without traffic after which a connection is closed;
                     default: 300
  --max-connections  the number of clients that are served at a time; others wait; default: 10000
  --grace            the time in seconds for connections to close after a signal; default: 3

SIGHUP loads the two files again. Connections that are relayed already continue.";

/// The maximum number of bytes that are relayed at a time. A relay of much data with 256 KiB took
/// four fifths of the CPU time that it took with 64 KiB.
const INPUT_BUFFER: usize = 256 * 1024;

/// Unsent bytes of a relayed connection at which the other one is not read, until the second value
/// is reached.
const WATER_MARKS: (usize, usize) = (512 * 1024, 128 * 1024);

/// The maximum size of a handshake is well below this.
const MAX_UNREAD: usize = 256 * 1024;

/// The results of lookups are used for this time.
const CACHE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let names = [
        "--listen",
        "--threads",
        "--users",
        "--rules",
        "--timeout",
        "--idle",
        "--max-connections",
        "--grace",
    ];
    options::main(USAGE, &names, &[], |options| Ok(run(Arguments::parse(options)?)?))
}

struct Arguments {
    listen: SocketAddr,
    threads: usize,
    files: Files,
    timeout: Duration,
    idle: Duration,
    max_connections: NonZeroUsize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let connections = const { NonZeroUsize::new(10_000).unwrap() };
        Ok(Arguments {
            listen: serving::listen(options, 1080)?,
            threads: serving::threads(options)?,
            files: Files { rules: options.path("--rules"), users: options.path("--users") },
            timeout: options.seconds("--timeout", 10)?,
            idle: options.seconds("--idle", 300)?,
            max_connections: options.get(
                "--max-connections",
                connections,
                "a number of connections from 1",
            )?,
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    descriptors::raise_limit();
    let shared = Arc::new(Shared::new(arguments.files.load()?, arguments.timeout));
    // The loops of `threads` have it too.
    let event_loop = EventLoop::builder().input_buffer(INPUT_BUFFER).build()?;
    let limits = ConnectionLimits::new()
        .water_marks(WATER_MARKS.0, WATER_MARKS.1)
        .max_unread(MAX_UNREAD)
        .idle_timeout(arguments.idle);
    let (of_sessions, session_limits) = (Arc::clone(&shared), limits);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .threads(arguments.threads)
        .max_connections(arguments.max_connections.get())
        .limits(limits)
        .serve_per_loop(
            |event_loop| Resolver::builder().threads(16).cache(CACHE, 10_000).build(event_loop),
            move |resolver, _| Session::new(&of_sessions, resolver, &session_limits),
        )?;
    let counters = server.handle();

    let (files, reloaded) = (arguments.files, Arc::clone(&shared));
    let _reload = Signals::new(&event_loop, [Signal::HUP], move |_, _| match files.load() {
        Ok(settings) => {
            reloaded.replace(settings);
            let _ = writeln!(io::stdout(), "the files are loaded again");
        }
        Err(error) => _ = writeln!(io::stderr(), "socks: the old files stay in use: {error}"),
    })?;

    serving::run(&event_loop, server, arguments.grace, |ip, port| {
        format!("curl --socks5-hostname {} http://example.org/", SocketAddr::new(ip, port))
    })?;
    drop(event_loop);
    let totals = &shared.totals;
    let _ = writeln!(
        io::stdout(),
        "{} clients, {} connected, {} with UDP, {} refused",
        counters.counters().accepted,
        totals.connected.load(Relaxed),
        totals.associations.load(Relaxed),
        totals.refused.load(Relaxed)
    );
    Ok(())
}
