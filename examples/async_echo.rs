//! An echo server (RFC 862) as an async function: each connection has a task of its own, on the
//! same loops as callbacks.
//!
//! Run it with `cargo run --release --example async_echo`, then connect with `nc 127.0.0.1 2007`.
//! The options are those of the example `echo`.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use reveille::net::{ByteStream, ConnectionLimits};
use reveille::{Buffer, EventLoop, TcpServer};

use options::{Failure, Options};

const USAGE: &str = "usage: async_echo [--listen ADDRESS:PORT] [--threads N] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port
  --threads  the number of loops that serve connections; default: 1
  --grace    the time in seconds for connections to close after a signal; default: 3";

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    options::main(USAGE, &["--listen", "--threads", "--grace"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let (listen, threads) = (serving::listen(options, 2007)?, serving::threads(options)?);
    let grace = serving::grace(options)?;

    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, listen)?
        .threads(threads)
        .limits(ConnectionLimits::new().idle_timeout(IDLE))
        .serve_async(echo)?;
    Ok(serving::run(&event_loop, server, grace, |ip, port| format!("nc {ip} {port}"))?)
}

/// Ends with the input, also when the server stops.
async fn echo(mut stream: ByteStream) -> io::Result<()> {
    let mut input = Buffer::new();
    while stream.read_buf(&mut input).await? > 0 {
        stream.write_buf(&mut input).await?;
    }
    Ok(())
}
