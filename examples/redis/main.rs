//! A Redis server on one loop: strings, lists, sets, hashes, sorted sets, and keys that expire.
//!
//! Run it with `cargo run --release --example redis`, then `redis-cli -p 6380` or `redis-benchmark
//! -p 6380 -q -P 16`. It has the commands of the default tests of redis-benchmark and those that
//! are near to them; their replies and errors are those of Redis 7.0. Each also works as an inline
//! command, for example with `nc 127.0.0.1 6380`. There is one database, RESP2, and no persistence.
//!
//! It shows a decoder of a binary protocol whose frames borrow from the input, and commands without
//! I/O behind it. The replies to pipelined commands leave in one system call. A command that cannot
//! be decoded gets an error reply, and then the connection closes. WAIT reserves its place among
//! the replies, and so delays those to later commands.

#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/serving.rs"]
mod serving;

mod bytes;
mod commands;
mod database;
mod glob;
mod numbers;
mod protocol;
mod reply;
mod session;
mod table;
mod value;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::codec::Framed;
use reveille::net::{ConnectionLimits, KeepAlive, SocketOptions};
use reveille::{EventLoop, TcpServer};

use options::{Failure, Options};
use protocol::{Commands, LONGEST_ARGUMENT};
use session::{HIGH_WATER, Session, Shared};

const USAGE: &str = "usage: redis [OPTION VALUE]...

  --listen      the address to listen on; default: 127.0.0.1:6380; port 0 selects a free port
  --max-memory  the memory for keys and values in MiB, and the maximum length of a command and of a
                reply; a command that would exceed it gets an error; default: 256
  --timeout     the time in seconds without a command after which a connection is closed; default:
                0, which stands for never
  --busy-poll   the time in microseconds for which the server checks for requests before it sleeps; it
                then keeps a processor busy, and clients need not wake it; default: 0
  --grace       the time in seconds for connections to close after a signal; default: 3";

const MIB: usize = 1 << 20;

/// The time that a client has to send the rest of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection ends when its client has not accepted a byte of its replies, or has been silent and
/// unreachable, for this time.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// Keys that are not accessed are removed after they have expired: so many in each period.
const EXPIRY_PERIOD: Duration = Duration::from_millis(100);
const EXPIRY_BUDGET: usize = 20_000;

fn main() -> ExitCode {
    let names = ["--listen", "--max-memory", "--timeout", "--busy-poll", "--grace"];
    options::main(USAGE, &names, &[], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    listen: SocketAddr,
    /// In bytes.
    max_memory: usize,
    timeout: Option<Duration>,
    busy_poll: Option<Duration>,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let default = const { NonZeroUsize::new(256).unwrap() };
        let mib: NonZeroUsize = options.get("--max-memory", default, "a number of MiB from 1")?;
        // Twice the limit is computed below.
        let max_memory = mib.get().checked_mul(4 * MIB).map(|bytes| bytes / 4);
        let timeout = options.get("--timeout", 0, "a number of seconds")?;
        let busy_poll = options.get("--busy-poll", 0, "a number of microseconds")?;
        Ok(Arguments {
            listen: serving::listen(options, 6380)?,
            max_memory: max_memory.ok_or_else(|| options.wrong(format!("`{mib}` is too much memory")))?,
            timeout: (timeout > 0).then(|| Duration::from_secs(timeout)),
            busy_poll: (busy_poll > 0).then(|| Duration::from_micros(busy_poll)),
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let mut builder = EventLoop::builder();
    if let Some(busy_poll) = arguments.busy_poll {
        builder = builder.busy_poll(busy_poll);
    }
    let event_loop = builder.build()?;
    let max_memory = arguments.max_memory;
    let max_command = max_memory.min(LONGEST_ARGUMENT + MIB);
    let shared = Rc::new(Shared::new(&event_loop, max_memory));
    let mut limits = ConnectionLimits::new()
        .water_marks(HIGH_WATER, HIGH_WATER / 2)
        .max_unsent(2 * (HIGH_WATER + max_memory))
        .max_unread(max_command + MIB);
    if let Some(timeout) = arguments.timeout {
        limits = limits.idle_timeout(timeout);
    }
    let options = SocketOptions::new().keep_alive(KeepAlive::new(KEEP_ALIVE)).user_timeout(READ_TIMEOUT);
    let sessions = Rc::clone(&shared);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .socket_options(options)
        .limits(limits)
        // Commands that are being received and replies that are not read, of all connections.
        .max_buffered(2 * max_memory + MIB)
        .serve(move |_| {
            Framed::new(Commands::new(max_command), Session::new(&sessions)).frame_timeout(COMMAND_TIMEOUT)
        })?;
    let _ = shared.server.set(server.handle());
    let expiring = Rc::clone(&shared);
    event_loop.run_every(EXPIRY_PERIOD, move |event_loop| {
        let mut database = expiring.database.borrow_mut();
        expiring.update_time(event_loop, &mut database);
        database.remove_expired(EXPIRY_BUDGET);
    });

    let counters = server.handle();
    serving::run(&event_loop, server, arguments.grace, |ip, port| format!("redis-cli -h {ip} -p {port}"))?;
    let accepted = counters.counters().accepted;
    let _ = writeln!(io::stdout(), "{accepted} connections, {} commands", shared.executed.get());
    Ok(())
}
