//! A Redis server on one loop: strings, counters and keys that expire.
//!
//! Run it with `cargo run --release --example redis`, then `redis-cli -p 6380` or `redis-benchmark
//! -p 6380 -t set,get,incr,ping -P 16`. It has the commands PING, ECHO, GET, SET (with EX), DEL,
//! EXISTS, INCR, EXPIRE, TTL, WAIT and QUIT. Each also works as an inline command, for example with
//! `nc 127.0.0.1 6380`.
//!
//! It shows a decoder of a binary protocol whose frames borrow from the input. `on_frame` sends one
//! reply per command; the replies to pipelined commands leave in one system call. A command that
//! cannot be decoded gets an error reply, and then the connection closes. Keys expire by a timer of
//! the loop. WAIT reserves its place among the replies, and so delays those to later commands.

#[path = "redis/commands.rs"]
mod commands;
#[path = "redis/keys.rs"]
mod keys;
#[path = "shared/options.rs"]
mod options;
#[path = "shared/resp.rs"]
mod resp;
#[path = "shared/serving.rs"]
mod serving;

use std::cell::Cell;
use std::io::{self, IoSlice, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::codec::{FrameError, FrameHandler, Framed};
use reveille::net::{ConnectionLimits, SendError};
use reveille::{EventLoop, TcpConnection, TcpServer};

use commands::{Commands, MAX_COMMAND};
use keys::Keys;
use options::Options;
use resp::{ProtocolError, number};

const USAGE: &str = "usage: redis [--listen ADDRESS:PORT] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:6380; port 0 selects a free port
  --grace    the time in seconds for connections to close after a signal; default: 3";

/// The time that a client has to send the rest of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The time that a client has to read the error reply that ends its connection.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection pauses at this number of unsent bytes, so one reply more must fit its limit.
const HIGH_WATER: usize = 1 << 20;

/// The maximum time to live of a key, in seconds: a hundred years.
const LONGEST_LIFE: i64 = 100 * 365 * 24 * 3600;

const COMMANDS: [&[u8]; 13] = [
    b"PING", b"ECHO", b"GET", b"SET", b"DEL", b"EXISTS", b"INCR", b"EXPIRE", b"TTL", b"WAIT", b"COMMAND",
    b"CONFIG", b"QUIT",
];

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Arguments::parse() {
        Ok(arguments) => options::status_of("redis", run(&arguments)),
        Err(status) => status,
    }
}

struct Arguments {
    listen: SocketAddr,
    grace: Duration,
}

impl Arguments {
    fn parse() -> Result<Arguments, ExitCode> {
        let mut options = Options::parse("redis", USAGE, &["--listen", "--grace"])?;
        options.rest(0)?;
        Ok(Arguments { listen: serving::listen(&options, 6380)?, grace: serving::grace(&options)? })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let (keys, executed) = (Rc::new(Keys::default()), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&executed);
    let limits = ConnectionLimits::new()
        .water_marks(HIGH_WATER, HIGH_WATER / 2)
        .max_unsent(HIGH_WATER + 2 * MAX_COMMAND)
        .max_unread(2 * MAX_COMMAND);
    let server = TcpServer::bind(&event_loop, arguments.listen)?.limits(limits).serve(move |_| {
        let session = Session { keys: Rc::clone(&keys), executed: Rc::clone(&counted) };
        Framed::new(Commands::default(), session).frame_timeout(COMMAND_TIMEOUT)
    })?;

    let counters = server.handle();
    serving::run(&event_loop, server, arguments.grace, |ip, port| format!("redis-cli -h {ip} -p {port}"))?;
    let accepted = counters.counters().accepted;
    let _ = writeln!(io::stdout(), "{accepted} connections, {} commands", executed.get());
    Ok(())
}

/// One connection.
struct Session {
    keys: Rc<Keys>,
    /// The number of commands of all connections.
    executed: Rc<Cell<u64>>,
}

impl FrameHandler<Commands> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, arguments: Vec<&[u8]>) -> io::Result<()> {
        let Some((given, arguments)) = arguments.split_first() else { return Ok(()) };
        self.executed.set(self.executed.get() + 1);
        // Longer than the name of any command.
        let mut name = [0; 16];
        let name = &mut name[..given.len().min(16)];
        name.copy_from_slice(&given[..name.len()]);
        name.make_ascii_uppercase();
        self.execute(conn, name, arguments)?;
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<ProtocolError>) -> io::Result<()> {
        conn.send(format!("-ERR {error}\r\n"))?;
        conn.close_gracefully(ERROR_TIMEOUT);
        Ok(())
    }
}

impl Session {
    /// Executes one command and sends the reply. `name` is in upper case.
    fn execute(&self, conn: &TcpConnection, name: &[u8], arguments: &[&[u8]]) -> Result<(), SendError> {
        let (keys, event_loop) = (&self.keys, conn.event_loop());
        match (name, arguments) {
            (b"PING", []) => conn.send("+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => send_bulk(conn, text),
            (b"GET", [key]) => match keys.get(key) {
                Some(value) => send_bulk(conn, &value),
                None => conn.send("$-1\r\n"),
            },
            (b"SET", [key, value]) => {
                keys.set(event_loop, key, value);
                conn.send("+OK\r\n")
            }
            (b"SET", [key, value, option, seconds]) if option.eq_ignore_ascii_case(b"EX") => {
                let Some(life) = number(seconds).filter(|life| (1..=LONGEST_LIFE).contains(life)) else {
                    return conn.send("-ERR invalid expire time in 'set' command\r\n");
                };
                keys.set(event_loop, key, value);
                keys.expire(event_loop, key, Duration::from_secs(life.unsigned_abs()));
                conn.send("+OK\r\n")
            }
            (b"SET", [_, _, ..]) => conn.send("-ERR syntax error\r\n"),
            (b"DEL", [_, ..]) => {
                send_integer(conn, count(arguments.iter().filter(|key| keys.remove(event_loop, key))))
            }
            (b"EXISTS", [_, ..]) => {
                send_integer(conn, count(arguments.iter().filter(|key| keys.get(key).is_some())))
            }
            (b"INCR", [key]) => match keys.increment(key) {
                Some(sum) => send_integer(conn, sum),
                None => conn.send("-ERR value is not an integer or out of range\r\n"),
            },
            (b"EXPIRE", [key, seconds]) => match number(seconds) {
                Some(..=0) => send_integer(conn, keys.remove(event_loop, key).into()),
                Some(life @ ..=LONGEST_LIFE) => {
                    let life = Duration::from_secs(life.unsigned_abs());
                    send_integer(conn, keys.expire(event_loop, key, life).into())
                }
                _ => conn.send("-ERR value is not an integer or out of range\r\n"),
            },
            (b"TTL", [key]) => match keys.time_to_live(event_loop, key) {
                Some(Some(life)) => send_integer(conn, (life.as_millis() as i64 + 500) / 1000),
                Some(None) => send_integer(conn, -1),
                None => send_integer(conn, -2),
            },
            // Waits for replicas, of which there are none.
            (b"WAIT", [_, milliseconds]) => {
                let Some(time @ 0..=3_600_000) = number(milliseconds) else {
                    return conn.send("-ERR timeout is not an integer or out of range\r\n");
                };
                let reply = conn.reserve_reply()?;
                // The timer ends with the connection.
                conn.run_after(Duration::from_millis(time.unsigned_abs()), move |_: &mut Session, _| {
                    reply.fill(":0\r\n").map_err(|refused| refused.reason())
                });
                Ok(())
            }
            // Clients send these when they start. No command is described, and no setting has a
            // value.
            (b"COMMAND", _) => conn.send("*0\r\n"),
            (b"CONFIG", [get, setting]) if get.eq_ignore_ascii_case(b"GET") => {
                conn.send("*2\r\n")?;
                send_bulk(conn, setting)?;
                send_bulk(conn, b"")
            }
            (b"QUIT", []) => {
                conn.send("+OK\r\n")?;
                conn.close_gracefully(ERROR_TIMEOUT);
                Ok(())
            }
            _ if COMMANDS.contains(&name) => conn.send("-ERR wrong number of arguments\r\n"),
            _ => conn.send(format!("-ERR unknown command '{}'\r\n", name.escape_ascii())),
        }
    }
}

fn count(keys: impl Iterator) -> i64 {
    keys.count() as i64
}

fn send_integer(conn: &TcpConnection, number: i64) -> Result<(), SendError> {
    conn.send(format!(":{number}\r\n"))
}

fn send_bulk(conn: &TcpConnection, bytes: &[u8]) -> Result<(), SendError> {
    let length = format!("${}\r\n", bytes.len());
    conn.send_vectored(&[length.as_bytes(), bytes, b"\r\n"].map(IoSlice::new))
}
