//! A tunnel that compresses: it relays each connection to another server, and one side of it speaks
//! zlib.
//!
//! Two tunnels back to back compress what is between them:
//!
//! ```text
//! nc ──plain──▶ zlib_tunnel ──zlib──▶ zlib_tunnel ──plain──▶ echo
//! ```
//!
//! Run the second with `cargo run --release --example zlib_tunnel`, the first with `cargo run
//! --release --example zlib_tunnel -- --listen 127.0.0.1:2013 --connect 127.0.0.1:2012 --zlib
//! connect`, and then `nc 127.0.0.1 2013`.
//!
//! It shows a filter of the program's own, and a relay between a connection with it and one
//! without.

#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/serving.rs"]
mod serving;
mod zlib;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use reveille::net::{CloseReason, ConnectionLimits};
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};

use options::{Failure, Options};
use zlib::Zlib;

const USAGE: &str =
    "usage: zlib_tunnel [--listen ADDRESS:PORT] [--connect ADDRESS:PORT] [--zlib SIDE] [--grace SECONDS]

  --listen   the address to listen on; default: 127.0.0.1:2012; port 0 selects a free port
  --connect  the address to relay to; default: 127.0.0.1:2007
  --zlib     the side that is compressed: `listen` or `connect`; default: listen
  --grace    the time in seconds for connections to close after a signal; default: 3";

/// A connection without traffic in this time is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Listen,
    Connect,
}

impl FromStr for Side {
    type Err = fmt::Error;

    fn from_str(text: &str) -> Result<Side, fmt::Error> {
        match text {
            "listen" => Ok(Side::Listen),
            "connect" => Ok(Side::Connect),
            _ => Err(fmt::Error),
        }
    }
}

fn main() -> ExitCode {
    options::main(USAGE, &["--listen", "--connect", "--zlib", "--grace"], &[], run)
}

#[derive(Clone, Copy)]
struct Tunnel {
    target: SocketAddr,
    zlib: Side,
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::new().idle_timeout(IDLE_TIMEOUT)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let (listen, grace) = (serving::listen(options, 2012)?, serving::grace(options)?);
    let target = serving::address(options, "--connect", 2007)?;
    let zlib = options.get("--zlib", Side::Listen, "`listen` or `connect`")?;
    let tunnel = Tunnel { target, zlib };

    let event_loop = EventLoop::new()?;
    let mut builder = TcpServer::bind(&event_loop, listen)?.limits(limits());
    if tunnel.zlib == Side::Listen {
        builder = builder.filter(Zlib::new);
    }
    let server = builder.serve(move |_| Front { tunnel, back: None })?;
    Ok(serving::run(&event_loop, server, grace, |ip, port| format!("nc {ip} {port}"))?)
}

/// An accepted connection. It is relayed as soon as the connection to the target is established.
struct Front {
    tunnel: Tunnel,
    back: Option<TcpClient>,
}

impl ConnectionHandler for Front {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.pause_reading();
        let mut client = TcpClient::connect(conn.event_loop(), self.tunnel.target).limits(limits());
        if self.tunnel.zlib == Side::Connect {
            client = client.filter(Zlib::new);
        }
        let (front, failed) = (conn.handle(), conn.handle());
        let client = client.on_failure(move |_, error| {
            log::warn!("{error}");
            failed.close();
        });
        self.back = Some(client.serve(move |_| Back(front.clone()))?);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // paused, then relayed
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        if let CloseReason::Error(error) = reason {
            log::warn!("a connection from {}: {error}", conn.peer_address());
        }
    }
}

/// The connection to the target.
struct Back(ConnectionHandle);

impl ConnectionHandler for Back {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.relay_to(&self.0)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // relayed
    }
}
