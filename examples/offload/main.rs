//! Offloads work that takes CPU time: a `Workers` pool computes, the loop only sends and receives.
//!
//! Run it with `cargo run --release --example offload`, then connect with `nc 127.0.0.1 2012` and
//! type `primes 1000000`, `factor 999999000001` or `panic`. A request is one line, and so is its
//! reply. Replies leave in the order of the requests.
//!
//! It shows replies that are computed elsewhere (`TcpConnection::reserve_reply`), and what bounds
//! them. A connection with `--pending` requests in work is not read until one has its reply. All
//! connections together may have `--queue` requests waiting; the reply to any other is `error:
//! busy`. The connections that wait take turns, and a worker is assigned when it is free, so a
//! connection with many requests does not delay one with few. `--share` limits how many workers one
//! connection occupies. A single request takes at most about half a second.
//!
//! When a connection is closed, its requests that wait for a worker are removed. A client that has
//! gone without a reset looks like one that has half-closed, until a reply has been sent to it. A
//! job that panics has an error as its reply, and other requests are not affected.

#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/serving.rs"]
mod serving;

mod fair_queue;
mod request;
mod schedule;
mod session;
mod work;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use reveille::codec::{Framed, LineCodec};
use reveille::net::ConnectionLimits;
use reveille::task::Workers;
use reveille::{EventLoop, TcpServer};

use fair_queue::Limits;
use options::{Failure, Options};
use schedule::Schedule;
use session::Session;

const USAGE: &str = "usage: offload [OPTION VALUE]...

  --listen   the address to listen on; default: 127.0.0.1:2012; port 0 selects a free port
  --threads  the number of loops that serve connections; default: 1
  --workers  the number of threads that compute; default: one for each processor
  --share    how many workers one connection may occupy; default: all but one, at least one
  --pending  how many requests of a connection are in work before it is not read; default: 16
  --queue    how many requests of all connections may wait for a worker; default: 1024
  --grace    the time in seconds for accepted requests to finish after a signal; default: 3

requests: `primes N` counts the primes up to N, at most 20000000; `factor N` returns the prime factors
of N, from 2 to 10^15; `panic` panics";

/// The time that a client has to send the rest of a line.
const LINE_TIME: Duration = Duration::from_secs(10);

/// The time without a byte in either direction after which a connection is closed, unless a request
/// of it is in work.
const IDLE: Duration = Duration::from_secs(300);

/// A connection pauses at this number of unsent bytes. They are the replies to wrong requests,
/// which take no worker but wait for the replies before them.
const HIGH_WATER: usize = 64 << 10;

const MAX_CONNECTIONS: usize = 10_000;

/// Prevents one address, or one IPv6 network, from taking all connections.
const MAX_PER_ADDRESS: usize = 2_000;

fn main() -> ExitCode {
    let names = ["--listen", "--threads", "--workers", "--share", "--pending", "--queue", "--grace"];
    options::main(USAGE, &names, &[], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    listen: SocketAddr,
    threads: usize,
    workers: NonZeroUsize,
    share: NonZeroUsize,
    pending: NonZeroUsize,
    queue: usize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let workers = options.get("--workers", processors, "a number of threads from 1")?;
        let share = NonZeroUsize::new(workers.get() - 1).unwrap_or(NonZeroUsize::MIN);
        let default_pending = NonZeroUsize::new(16).expect("more than 0");
        Ok(Arguments {
            listen: serving::listen(options, 2012)?,
            threads: serving::threads(options)?,
            workers,
            share: options.get("--share", share, "a number of workers from 1")?,
            pending: options.get("--pending", default_pending, "a number of requests from 1")?,
            queue: options.get("--queue", 1024, "a number of requests")?,
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let running = arguments.workers.get();
    // The requests wait in the queue of the schedule, so those in the pool have a thread.
    let workers = Workers::builder().threads(running).queue(0).name("offload").build()?;
    let limits = Limits { waiting: arguments.queue, running, running_each: arguments.share.get() };
    let schedule = Schedule::new(workers, limits);
    let serving = Arc::clone(&schedule);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .threads(arguments.threads)
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .limits(
            ConnectionLimits::new()
                .max_open_replies(arguments.pending.get())
                .water_marks(HIGH_WATER, HIGH_WATER / 4)
                .idle_timeout(IDLE),
        )
        .serve(move |_| {
            let session = Session::new(Arc::clone(&serving));
            Framed::new(LineCodec::new(request::LONGEST), session).frame_timeout(LINE_TIME)
        })?;

    serving::run(&event_loop, server, arguments.grace, |ip, port| {
        format!("echo 'primes 1000000' | nc -N {ip} {port}")
    })?;
    // After a second signal, connections and their requests end with the loop.
    drop(event_loop);
    let totals = &schedule.totals;
    let _ = writeln!(
        io::stdout(),
        "{} connections, {} computed, {} panicked, {} busy, {} cancelled",
        totals.connections.load(Relaxed),
        totals.computed.load(Relaxed),
        totals.panicked.load(Relaxed),
        totals.busy.load(Relaxed),
        totals.cancelled.load(Relaxed),
    );
    Ok(())
}
