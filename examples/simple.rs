//! Four small services in one process, on one loop: discard (RFC 863), daytime (RFC 867), chargen
//! (RFC 864), time (RFC 868).
//!
//! Run it with `cargo run --release --example simple`; it listens on four ports from 127.0.0.1:2009
//! upwards and prints which service is on which. Its only argument is another address for the first
//! one; with port 0 each service gets a free port. It shows four kinds of handler: a closure that
//! reads, handlers that send on open and shut down, and a handler that sends without end, as fast
//! as its peer reads.

#[path = "shared/arguments.rs"]
mod arguments;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reveille::net::ConnectionLimits;
use reveille::signal::{Signal, Signals};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};

const USAGE: &str = "usage: simple [ADDRESS:PORT]";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = match arguments::positional("simple", USAGE, 0..=1) {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let first = arguments.first().map_or("127.0.0.1:2009".into(), |address| address.to_string_lossy());
    let Ok(first) = first.parse() else {
        let message = format!("`{first}` is not an address with a port");
        return arguments::wrong("simple", USAGE, &message);
    };
    match run(first) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simple: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(first: SocketAddr) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let port = |offset: u16| {
        let port = if first.port() == 0 { 0 } else { first.port().saturating_add(offset) };
        SocketAddr::new(first.ip(), port)
    };
    let limits = ConnectionLimits::new().idle_timeout(IDLE);
    let discard = TcpServer::bind(&event_loop, port(0))?.limits(limits).serve_fn(|_, input| input.clear())?;
    let daytime = TcpServer::bind(&event_loop, port(1))?.serve(|_| Once(daytime))?;
    let chargen = TcpServer::bind(&event_loop, port(2))?.limits(limits).serve(|_| Chargen::default())?;
    let time = TcpServer::bind(&event_loop, port(3))?.serve(|_| Once(time))?;
    // Installed before the addresses are printed: a program that reads them may send a signal.
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    for (name, server) in
        [("discard", &discard), ("daytime", &daytime), ("chargen", &chargen), ("time", &time)]
    {
        // Serving does not depend on the output, so the write may fail.
        let _ = writeln!(io::stdout(), "{name} on {}", server.local_addr()?);
    }
    event_loop.run()
}

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

/// The time that a peer has to read a reply and to close its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends one reply as soon as the connection is open, then closes it. A peer that does not read the
/// reply, or does not close its end, is reset after a time.
struct Once<F>(F);

impl<F: FnMut() -> Vec<u8> + 'static> ConnectionHandler for Once<F> {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.send((self.0)())?;
        conn.close_gracefully(CLOSE_TIMEOUT);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

/// The UTC time in human-readable form.
fn daytime() -> Vec<u8> {
    let seconds = since_1970();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC\r\n").into_bytes()
}

/// Seconds since 1900, as four bytes; wraps around in 2036.
fn time() -> Vec<u8> {
    const FROM_1900_TO_1970: u64 = 2_208_988_800;
    let seconds = since_1970() + FROM_1900_TO_1970;
    (seconds as u32).to_be_bytes().to_vec()
}

fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The Gregorian date of a day since 1970-01-01. Iterates over years and months: simple, and fast
/// enough for once per connection.
fn civil_date(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

/// Sends lines of 72 printable characters, each starting one character later, as long as the peer
/// reads.
#[derive(Default)]
struct Chargen {
    line: usize,
}

impl Chargen {
    fn produce(&mut self, conn: &TcpConnection) -> io::Result<()> {
        let mut page = Vec::with_capacity(74 * 95);
        for _ in 0..95 {
            page.extend((0..72).map(|column| b' ' + ((self.line + column) % 95) as u8));
            page.extend(b"\r\n");
            self.line += 1;
        }
        conn.send(page)?;
        // `on_drained` is called in a later turn, once the peer has read enough. A producer that
        // continued at once would starve other connections if its peer reads fast enough.
        conn.notify_drained();
        Ok(())
    }
}

impl ConnectionHandler for Chargen {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.produce(conn)
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.produce(conn)
    }

    /// The output has no end, so there is nothing to finish.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.close();
        Ok(())
    }
}
