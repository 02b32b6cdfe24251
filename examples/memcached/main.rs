//! A memcached server: the text protocol and the binary protocol, on several loops.
//!
//! Run it with `cargo run --release --example memcached -- --threads 4`, then use any client of
//! memcached, such as `memcstat --servers=127.0.0.1:11211`, or type commands with `nc -C
//! 127.0.0.1 11211`.
//!
//! It shows a table that the loops of a server share, with short locks and a memory limit. The
//! protocols are a decoder without I/O, whose requests borrow from the input. A `get` of many keys
//! is one request for each key, so a client that does not read pauses it in between. The replies
//! of a batch of requests leave together, and large values are sent without a copy.
//!
//! The memory limit counts the blocks of items and the tables. When the sizes of values change,
//! glibc cannot use all free memory between them, in an arena for each loop: with one loop a
//! process with a limit of 64 MiB took 66 MiB for values of 100 bytes, and up to 135 MiB after
//! changes of sizes; with two loops up to 204 MiB. `MALLOC_ARENA_MAX=1` limits it to one arena.

#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/serving.rs"]
mod serving;

mod clock;
mod commands;
mod counters;
mod item;
mod numbers;
mod protocol;
mod session;
mod shard;
mod table;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reveille::codec::Framed;
use reveille::net::ConnectionLimits;
use reveille::{EventLoop, TcpServer};

use clock::Clock;
use commands::Commands;
use counters::Counter;
use options::{Failure, Options};
use protocol::Protocol;
use session::{HIGH_WATER, Local, Session};
use table::{Cursor, Table};

const USAGE: &str = "usage: memcached [--listen ADDRESS:PORT] [--threads N] [--memory-limit MIB]
                 [--item-size BYTES] [--grace SECONDS]

  --listen        the address to listen on; default: 127.0.0.1:11211; port 0 selects a free port
  --threads       the number of loops that serve connections; default: 1
  --memory-limit  the memory for items in MiB; default: 64; what the allocator keeps free between
                  items comes on top
  --item-size     the maximum length of a value in bytes, up to 128 MiB; default: 1048576
  --grace         the time in seconds for connections to close after a signal; default: 3";

const MIB: usize = 1 << 20;

const LARGEST_ITEM: usize = 128 * MIB;

/// The time that a client has to send the rest of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The crawler examines a number of slots in this period.
const CRAWL_PERIOD: Duration = Duration::from_millis(500);
const CRAWL_BUDGET: usize = 16 * 1024;

fn main() -> ExitCode {
    let names = ["--listen", "--threads", "--memory-limit", "--item-size", "--grace"];
    options::main(USAGE, &names, &[], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    listen: SocketAddr,
    threads: usize,
    /// In bytes.
    memory_limit: usize,
    item_size: usize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let mib: NonZeroUsize = options.get(
            "--memory-limit",
            const { NonZeroUsize::new(64).unwrap() },
            "a number of MiB from 1",
        )?;
        let memory_limit = mib.get().checked_mul(MIB);
        let item_size: NonZeroUsize = options.get(
            "--item-size",
            const { NonZeroUsize::new(MIB).unwrap() },
            "a number of bytes from 1",
        )?;
        if item_size.get() > LARGEST_ITEM {
            return Err(options.wrong(format!("`{item_size}` is more than 128 MiB")));
        }
        if memory_limit.is_some_and(|limit| item_size.get() > limit) {
            return Err(options.wrong(format!("`{item_size}` is more than the limit of memory")));
        }
        Ok(Arguments {
            listen: serving::listen(options, 11211)?,
            threads: serving::threads(options)?,
            memory_limit: memory_limit.ok_or_else(|| options.wrong(format!("`{mib}` is too much memory")))?,
            item_size: item_size.get(),
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let item_size = arguments.item_size;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let commands = Arc::new(Commands {
        table: Table::new(arguments.memory_limit, item_size),
        clock: Clock::new(event_loop.now(), unix),
        threads: arguments.threads,
        server: OnceLock::new(),
    });
    let limits = ConnectionLimits::new()
        .water_marks(HIGH_WATER, HIGH_WATER / 2)
        .max_unsent(HIGH_WATER + 2 * item_size + MIB)
        .max_unread(Protocol::max_unread(item_size));
    let shared = Arc::clone(&commands);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .threads(arguments.threads)
        .limits(limits)
        // Values that are being received and replies that are not read, of all connections.
        .max_buffered(arguments.memory_limit.max(64 * item_size))
        .serve_per_loop(
            move |_| Ok(Local::new(Arc::clone(&shared))),
            move |local, _| {
                Framed::new(Protocol::new(item_size), Session::new(local)).frame_timeout(REQUEST_TIMEOUT)
            },
        )?;
    let _ = commands.server.set(server.handle());

    // Items that expire are not found any more. This releases their memory too.
    let (crawled, mut cursor) = (Arc::clone(&commands), Cursor::default());
    event_loop.run_every(CRAWL_PERIOD, move |event_loop| {
        crawled.table.crawl(crawled.clock.second(event_loop.now()), &mut cursor, CRAWL_BUDGET);
    });

    let counters = server.handle();
    serving::run(&event_loop, server, arguments.grace, |ip, port| {
        format!("memcstat --servers={}; or nc -C {ip} {port}", SocketAddr::new(ip, port))
    })?;
    let (totals, _) = commands.table.counters();
    let _ = writeln!(
        io::stdout(),
        "{} connections, {} gets, {} stores, {} evictions",
        counters.counters().accepted,
        totals.get(Counter::CmdGet),
        totals.get(Counter::CmdSet),
        totals.get(Counter::Evictions)
    );
    Ok(())
}
