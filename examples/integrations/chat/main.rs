//! A chat server: what a guest writes goes to all guests of the same room.
//!
//! Run it with `cargo run --release -p integrations --bin chat`, then connect several times with
//! `nc 127.0.0.1 2011`, or open http://127.0.0.1:8011/ in a browser. `/help` lists the commands.
//!
//! It shows groups of connections whose members are on several loops, and two servers that share
//! these loops: lines over TCP, and a page with WebSocket. A guest who does not read is removed, so
//! that no other guest waits. The guests of one loop share counters.
//!
//! With `--backplane` several processes form one chat, through the publish/subscribe of a Redis
//! server. It uses the client of the example `redis_client`, on the loop that accepts.

mod backplane;
mod browser;
mod command;
mod http;
mod hub;
mod lines;
mod member;
mod names;
#[path = "../../shared/options.rs"]
mod options;
mod outbox;
mod pace;
mod published;
mod redis;
#[path = "../../shared/reload.rs"]
mod reload;
mod rooms;
#[path = "../../shared/serving.rs"]
mod serving;
mod socket;

use std::cell::Cell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use reveille::net::{ConnectionLimits, KeepAlive, SocketOptions};
use reveille::signal::{Signal, Signals};
use reveille::tls::ServerTls;
use reveille::{EventFd, EventLoop, LoopPool, TcpServer};

use backplane::Backplane;
use browser::{Browser, SILENCE};
use hub::Hub;
use lines::LineGuest;
use member::{Counts, Totals};
use options::{Failure, Options};
use outbox::Outbox;

const USAGE: &str = "usage: chat [OPTION VALUE]...

  --listen      the address for lines; default: 127.0.0.1:2011; port 0 selects a free port
  --http        the address for the page, and for WebSocket at the path /chat;
                default: 127.0.0.1:8011
  --threads     the number of loops that serve guests; default: 2
  --max-unsent  a guest who leaves more bytes than this unread, apart from what the kernel buffers,
                is removed; default: 262144
  --backplane   redis://HOST:PORT, a Redis server that connects several chat processes
  --tls         two PEM files, a certificate and its key: the page and WebSocket use TLS; SIGHUP loads
                them again
  --grace       the time in seconds for connections to close after a signal; default: 3";

/// The least value of `--max-unsent`. The page and the history of a room must fit in.
const LEAST_UNSENT: usize = 64 << 10;

/// Input that waits while a guest is not read.
const MAX_UNREAD: usize = 256 << 10;

/// What the kernel buffers for a guest. By itself it would buffer megabytes for one who does not
/// read.
const SEND_BUFFER: usize = 64 << 10;

/// For each of the two servers. One address, which may be that of a proxy, cannot take all.
const MAX_CONNECTIONS: usize = 20_000;
const MAX_PER_ADDRESS: usize = 15_000;

/// A peer that has vanished is found in this time, also without a line to it.
const VANISHED: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let names = ["--listen", "--http", "--threads", "--max-unsent", "--backplane", "--tls", "--grace"];
    options::main(USAGE, &names, &[], |options| Ok(run(Arguments::parse(options)?)?))
}

struct Arguments {
    listen: SocketAddr,
    http: SocketAddr,
    threads: NonZeroUsize,
    max_unsent: usize,
    backplane: Option<String>,
    tls: Option<(PathBuf, PathBuf)>,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let max_unsent = options.get("--max-unsent", 256 << 10, "a number of bytes")?;
        if max_unsent < LEAST_UNSENT {
            return Err(options.wrong(format!("--max-unsent is at least {LEAST_UNSENT}")));
        }
        let backplane = match options.text("--backplane") {
            None => None,
            Some(text) => match redis_target(&text) {
                Some(target) => Some(target.to_owned()),
                None => return Err(options.wrong(format!("`{text}` is not redis://HOST:PORT"))),
            },
        };
        Ok(Arguments {
            listen: serving::listen(options, 2011)?,
            http: serving::address(options, "--http", 8011)?,
            threads: options.get("--threads", NonZeroUsize::MIN.saturating_add(1), "a number from 1")?,
            max_unsent,
            backplane,
            tls: options.pair("--tls"),
            grace: serving::grace(options)?,
        })
    }
}

/// The host and port of a URL. Others of its parts are not supported.
fn redis_target(url: &str) -> Option<&str> {
    let target = url.strip_prefix("redis://")?;
    let target = target.strip_suffix('/').unwrap_or(target);
    let (host, port) = target.rsplit_once(':')?;
    let is_valid =
        !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_valid.then_some(target)
}

fn run(arguments: Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let outbox = match arguments.backplane {
        Some(_) => Some(Outbox::new(EventFd::new(0)?)),
        None => None,
    };
    let hub = Arc::new(Hub::new(outbox));
    let totals = Arc::new(Totals::default());
    let pool = LoopPool::new(arguments.threads.get(), "chat")?;
    let socket_options = SocketOptions::new()
        .send_buffer(SEND_BUFFER)
        .user_timeout(VANISHED)
        .keep_alive(KeepAlive::new(VANISHED / 2).interval(VANISHED / 4).count(2));
    let limits = ConnectionLimits::new().max_unsent(arguments.max_unsent).max_unread(MAX_UNREAD);

    let (shared, counted) = (Arc::clone(&hub), Arc::clone(&totals));
    let lines = TcpServer::bind(&event_loop, arguments.listen)?
        .socket_options(socket_options.clone())
        .limits(limits)
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .pool(&pool)
        .serve_per_loop(
            move |_| Ok(Counts::new(&counted)),
            move |counts, _| LineGuest::framed(&shared, counts),
        )?;

    let tls = arguments.tls.map(|(cert, key)| load_tls(&cert, &key)).transpose()?;
    let builder = TcpServer::bind(&event_loop, arguments.http)?;
    let builder = if let Some(tls) = &tls { builder.tls(tls.clone()) } else { builder };
    let (shared, counted) = (Arc::clone(&hub), Arc::clone(&totals));
    let http = builder
        .socket_options(socket_options)
        .limits(limits.idle_timeout(SILENCE))
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .pool(&pool)
        .serve_per_loop(move |_| Ok(Counts::new(&counted)), move |counts, _| Browser::new(&shared, counts))?;

    let scheme = if tls.is_some() { "https" } else { "http" };
    let _reload = reload::on_hangup(&event_loop, tls)?;
    let backplane = arguments.backplane.map(|target| Backplane::new(&event_loop, &target, &hub));
    let backplane = Rc::new(backplane.transpose()?);
    let (listening, page) = (lines.local_addr()?, http.local_addr()?);
    let _signals = stop_on_signals(&event_loop, [lines, http], arguments.grace, backplane)?;
    // Printed last: a reader of these lines may send a signal. Serving does not depend on them.
    let _ = writeln!(
        io::stdout(),
        "listening on {listening}\npage on {page}\ntry: nc {} {}, and {scheme}://{page}/ in a browser",
        listening.ip(),
        listening.port()
    );
    event_loop.run()?;
    // The other loops end here, and connections that a second signal has left open.
    drop((event_loop, pool));
    let [guests, lines, removed] =
        [&totals.guests, &totals.lines, &totals.removed].map(|total| total.load(Relaxed));
    let _ = writeln!(io::stdout(), "{guests} guests, {lines} lines, {removed} guests removed");
    Ok(())
}

fn load_tls(cert: &Path, key: &Path) -> io::Result<ServerTls> {
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    ServerTls::builder().certificate(cert, key).alpn(["http/1.1"]).build()
}

/// The first signal stops both servers, and then publishes the last lines. The second ends the loop
/// at once.
fn stop_on_signals(
    event_loop: &EventLoop,
    servers: [TcpServer; 2],
    grace: Duration,
    backplane: Rc<Option<Backplane>>,
) -> io::Result<Signals> {
    let mut servers = Some(servers);
    Signals::new(event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| match servers.take() {
        None => event_loop.quit(),
        Some(servers) => {
            let running = Rc::new(Cell::new(servers.len()));
            for server in servers {
                let (running, backplane) = (Rc::clone(&running), Rc::clone(&backplane));
                server.stop(grace, move |event_loop, _| {
                    running.set(running.get() - 1);
                    match &*backplane {
                        _ if running.get() > 0 => {}
                        Some(backplane) => backplane.finish(event_loop),
                        None => event_loop.quit(),
                    }
                });
            }
        }
    })
}
