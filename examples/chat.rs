//! A chat server: what a guest writes goes to all guests of the same room.
//!
//! Run it with `cargo run --release --example chat`, then connect several times with `nc 127.0.0.1
//! 2011`. `/nick NAME` changes the name of the guest and `/join ROOM` the room; every other line is
//! said in the room.
//!
//! It shows groups of connections whose members are on several loops (`--threads N`), without a
//! lock in the program. A guest who does not read is removed, so that no other guest waits. The
//! guests of one loop share a counter.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::cell::Cell;
use std::io::{self, Write};
use std::mem;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::codec::{FrameError, FrameHandler, Framed, LineCodec, LineError};
use reveille::net::{CloseReason, ConnectionLimits, FullPolicy, GroupMap};
use reveille::{EventLoop, TcpConnection, TcpServer};

use options::Options;

const USAGE: &str = "usage: chat [--listen ADDRESS:PORT] [--threads N] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:2011; port 0 selects a free port
  --threads  the number of loops that serve guests; default: 2
  --grace    the time in seconds for connections to close after a signal; default: 3";

const LONGEST_LINE: usize = 1000;

/// The maximum number of characters of the name of a guest or a room.
const LONGEST_NAME: usize = 30;

/// The time that a guest has to complete a line.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);

/// The time that a guest has to read the reply that ends the connection.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);

/// A guest who leaves more bytes than this unread, apart from what the kernel buffers, is removed.
const MAX_UNSENT: usize = 256 << 10;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Arguments::parse() {
        Ok(arguments) => options::status_of("chat", run(&arguments)),
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
        let mut options = Options::parse("chat", USAGE, &["--listen", "--threads", "--grace"])?;
        options.rest(0)?;
        Ok(Arguments {
            listen: serving::listen(&options, 2011)?,
            threads: options.get("--threads", NonZeroUsize::MIN.saturating_add(1), "a number from 1")?,
            grace: serving::grace(&options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let rooms = GroupMap::new(FullPolicy::Close);
    let lines = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&lines);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .limits(ConnectionLimits::new().max_unsent(MAX_UNSENT))
        .threads(arguments.threads.get())
        .serve_per_loop(
            move |_| Ok(Rc::new(Lines { of_loop: Cell::new(0), total: Arc::clone(&total) })),
            move |lines, conn| {
                let name = format!("guest{}", conn.id());
                let guest =
                    Guest { rooms: rooms.clone(), room: "lobby".to_owned(), name, lines: Rc::clone(lines) };
                Framed::new(LineCodec::new(LONGEST_LINE), guest).frame_timeout(LINE_TIMEOUT)
            },
        )?;

    let counters = server.handle();
    serving::run(&event_loop, server, arguments.grace, |ip, port| format!("nc {ip} {port}"))?;
    // The other loops end here.
    drop(event_loop);
    let guests = counters.counters().accepted;
    let _ = writeln!(io::stdout(), "{guests} guests, {} lines", lines.load(Relaxed));
    Ok(())
}

/// The number of lines of one loop. Added to the total when the loop ends.
struct Lines {
    of_loop: Cell<u64>,
    total: Arc<AtomicU64>,
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.total.fetch_add(self.of_loop.get(), Relaxed);
    }
}

/// One connection.
struct Guest {
    rooms: GroupMap<String>,
    room: String,
    name: String,
    lines: Rc<Lines>,
}

impl Guest {
    /// Sends a line to all guests of the room, including this one.
    fn say(&self, conn: &TcpConnection, line: String) -> io::Result<()> {
        if let Err(error) = self.rooms.send(&self.room, line.into_bytes()) {
            // A loop has too much in transit. This is not the fault of a single guest.
            conn.send(format!("* not sent: {error}\n"))?;
        }
        Ok(())
    }

    fn enter(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.rooms.join(self.room.clone(), &conn.handle());
        self.say(conn, format!("* {} is in {}\n", self.name, self.room))
    }
}

impl FrameHandler<LineCodec> for Guest {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.enter(conn)
    }

    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        self.lines.of_loop.set(self.lines.of_loop.get() + 1);
        let line = String::from_utf8_lossy(line);
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("/nick", name) if is_name(name) => {
                let old = mem::replace(&mut self.name, name.to_owned());
                self.say(conn, format!("* {old} is now {name}\n"))
            }
            ("/join", room) if is_name(room) => {
                self.say(conn, format!("* {} has left\n", self.name))?;
                self.rooms.leave(&self.room, conn.id());
                self.room = room.to_owned();
                self.enter(conn)
            }
            (command, _) if command.starts_with('/') => {
                conn.send("* the commands are: /nick NAME and /join ROOM\n")?;
                Ok(())
            }
            _ => {
                // Control characters could change the terminal of a guest.
                let text = line.replace(char::is_control, " ");
                self.say(conn, format!("{}: {text}\n", self.name))
            }
        }
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        conn.send(format!("* {error}\n"))?;
        conn.close_gracefully(ERROR_TIMEOUT);
        Ok(())
    }

    fn on_close(&mut self, _conn: &TcpConnection, reason: &CloseReason) {
        log::info!("{}: {reason}", self.name);
        // Groups remove connections that have closed. An overloaded room misses this line.
        let _ = self.rooms.send(&self.room, format!("* {} has left\n", self.name).into_bytes());
    }
}

fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=LONGEST_NAME).contains(&length) && text.chars().all(char::is_alphanumeric)
}
