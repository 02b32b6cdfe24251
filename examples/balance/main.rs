//! A TCP load balancer: round-robin or least connections, health checks, the PROXY protocol, and
//! back ends that are removed without cutting their connections.
//!
//! Run it with `cargo run --release --example balance -- 127.0.0.1:9001 127.0.0.1:9002`, then `nc
//! 127.0.0.1 2014`. With `--config FILE`, SIGHUP loads the file again.
//!
//! It shows a client for each accepted connection, linked with it, and tried again with another
//! back end before a byte was read; probes with the back-off of a client; and state that the loops
//! of a server share with short locks.

#[path = "../shared/descriptors.rs"]
mod descriptors;
#[path = "../shared/network.rs"]
mod network;
#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/serving.rs"]
mod serving;

mod backends;
mod config;
mod pool;
mod proxy_header;
mod session;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use reveille::net::ConnectionLimits;
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer};

use config::Config;
use network::Network;
use options::{Failure, Options};
use pool::Pool;
use session::{Session, Setup};

const USAGE: &str = "usage: balance [OPTION VALUE]... BACKEND...
       balance [OPTION VALUE]... --config FILE

A TCP load balancer. A BACKEND is an address with a port.

  --listen           the address to listen on; default: 127.0.0.1:2014; port 0 selects a free port
  --threads          the number of loops that serve connections; default: 1
  --policy           `round-robin` or `least-connections`; default: round-robin
  --send-proxy       `v1` or `v2`: back ends get a header of the PROXY protocol; default: none
  --accept-proxy     a network such as 10.0.0.0/8; connections from there begin with a header of
                     the PROXY protocol, of either version; default: none
  --config           a file with a setting a line: `policy NAME`, `send-proxy v1` or `v2`, and
                     `backend ADDRESS:PORT` or `backend ADDRESS:PORT limit N` for each back end,
                     where N is the maximum number of its connections
  --check            the time in seconds between the checks of a back end; 0 for none: then only the
                     connections of clients find out that it is down; default: 2
  --timeout          the time in seconds for each connect to a back end, and for a client to send the
                     header of the PROXY protocol; default: 3
  --idle             the time in seconds without traffic after which a connection is closed;
                     default: 300
  --max-connections  the number of clients that are served at a time; others wait; default: 10000
  --grace            the time in seconds for connections to close after a signal; default: 3

A back end that cannot be connected to gets no connections. It is probed, with growing delays of up
to 15 seconds, and returns when a probe succeeds. A client is connected to up to 3 back ends in
turn; if none can be reached, or all are at their limit, its connection is reset.

SIGHUP loads the file again. Connections to a back end that was removed continue: it drains.
SIGUSR1 prints the back ends.";

/// The maximum number of bytes that are relayed at a time. A relay of much data with 256 KiB took
/// four fifths of the CPU time that it took with 64 KiB.
const INPUT_BUFFER: usize = 256 * 1024;

/// Unsent bytes of a relayed connection at which the other one is not read, until the second value
/// is reached.
const WATER_MARKS: (usize, usize) = (512 * 1024, 128 * 1024);

fn main() -> ExitCode {
    let names = [
        "--listen",
        "--threads",
        "--policy",
        "--send-proxy",
        "--accept-proxy",
        "--config",
        "--check",
        "--timeout",
        "--idle",
        "--max-connections",
        "--grace",
    ];
    options::main(USAGE, &names, &[], |options| Ok(run(Arguments::parse(options)?)?))
}

/// Where the back ends come from.
enum Source {
    File(PathBuf),
    Arguments(Config),
}

struct Arguments {
    listen: SocketAddr,
    threads: usize,
    source: Source,
    accept_proxy: Option<Network>,
    check: Option<Duration>,
    timeout: Duration,
    idle: Duration,
    max_connections: NonZeroUsize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        let source = source(options)?;
        let accept_proxy = options.text("--accept-proxy").map(|text| text.parse());
        let connections = const { NonZeroUsize::new(10_000).unwrap() };
        let check: u32 = options.get("--check", 2, "a number of seconds")?;
        Ok(Arguments {
            listen: serving::listen(options, 2014)?,
            threads: serving::threads(options)?,
            source,
            accept_proxy: accept_proxy.transpose().map_err(|error| options.wrong(error))?,
            check: (check > 0).then(|| Duration::from_secs(check.into())),
            timeout: options.seconds("--timeout", 3)?,
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

fn source(options: &mut Options) -> Result<Source, Failure> {
    let backends = options.rest(usize::MAX)?;
    if let Some(file) = options.path("--config") {
        let others = options.has("--policy") || options.has("--send-proxy") || !backends.is_empty();
        return if others {
            Err(options.wrong("the back ends, the policy and the header are in the file of --config"))
        } else {
            Ok(Source::File(file))
        };
    }
    let mut config = Config {
        policy: options.get("--policy", Default::default(), "`round-robin` or `least-connections`")?,
        ..Config::default()
    };
    if let Some(version) = options.text("--send-proxy") {
        let version =
            version.parse().map_err(|()| options.wrong(format!("`{version}` is not `v1` or `v2`")))?;
        config.send_proxy = Some(version);
    }
    for backend in &backends {
        config.add(&backend.to_string_lossy(), None).map_err(|error| options.wrong(error))?;
    }
    if config.targets.is_empty() {
        return Err(options.wrong("there is no back end"));
    }
    Ok(Source::Arguments(config))
}

impl Source {
    fn load(&self) -> io::Result<Config> {
        match self {
            Source::File(path) => load(path),
            Source::Arguments(config) => Ok(config.clone()),
        }
    }
}

fn load(path: &Path) -> io::Result<Config> {
    let name = path.display();
    let text =
        fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    Config::parse(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {error}")))
}

fn run(arguments: Arguments) -> io::Result<()> {
    descriptors::raise_limit();
    let pool = Arc::new(Pool::new(&arguments.source.load()?, arguments.timeout));
    // The loops of `threads` have it too.
    let event_loop = EventLoop::builder().input_buffer(INPUT_BUFFER).build()?;
    let limits =
        ConnectionLimits::new().water_marks(WATER_MARKS.0, WATER_MARKS.1).idle_timeout(arguments.idle);
    let setup = Arc::new(Setup { pool: Arc::clone(&pool), accept_proxy: arguments.accept_proxy, limits });
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .threads(arguments.threads)
        .max_connections(arguments.max_connections.get())
        .limits(limits)
        .serve(move |_| Session::new(&setup))?;
    let counters = server.handle();

    if let Some(period) = arguments.check {
        let (first, checked) = (Arc::clone(&pool), Arc::clone(&pool));
        event_loop.queue_in_loop(move |event_loop| first.check_all(event_loop));
        event_loop.run_every(period, move |event_loop| checked.check_all(event_loop));
    }
    let (source, reloaded) = (arguments.source, Arc::clone(&pool));
    let _signals = Signals::new(&event_loop, [Signal::HUP, Signal::USR1], move |_, signal| match signal {
        Signal::HUP => reload(&source, &reloaded),
        _ => _ = write!(io::stdout(), "{}", reloaded.describe()),
    })?;

    serving::run(&event_loop, server, arguments.grace, |ip, port| format!("nc {ip} {port}"))?;
    drop(event_loop);
    let totals = &pool.totals;
    let _ = writeln!(
        io::stdout(),
        "{} clients, {} connected, {} attempts failed, {} refused",
        counters.counters().accepted,
        totals.connected.load(Relaxed),
        totals.retried.load(Relaxed),
        totals.refused.load(Relaxed)
    );
    Ok(())
}

fn reload(source: &Source, pool: &Pool) {
    match source.load() {
        Ok(config) => {
            let change = pool.configure(&config);
            let _ = writeln!(
                io::stdout(),
                "loaded again: {} back ends added, {} kept, {} draining, {} removed",
                change.added,
                change.kept,
                change.draining,
                change.removed
            );
        }
        Err(error) => _ = writeln!(io::stderr(), "balance: the old configuration stays in use: {error}"),
    }
}
