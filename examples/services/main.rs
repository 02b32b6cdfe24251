//! The services of RFC 862 to 868 in one process, on one loop: echo, discard, chargen, quote of the
//! day, daytime and time, each over TCP and over UDP.
//!
//! Run it with `cargo run --release --example services`; it prints the address of each service. The
//! port is 2000 plus the assigned number, so echo is on 2007. Then run `services_client`, or `nc
//! 127.0.0.1 2013`. It shows how different kinds of handler share a loop: one that replies, one
//! that sends when the connection opens, and one that sends without end, as fast as its peer reads.
//! A line per second shows the throughput of discard.
//!
//! The source of a datagram may be forged. The services over UDP therefore do not reply to ports
//! below 1024, nor to port numbers of their own, and limit the number of replies and by how much
//! they exceed what was received: see `guard.rs`. Do not offer them to the internet.

#[path = "../shared/options.rs"]
mod options;

mod clock;
mod guard;
mod pattern;
mod replies;
mod service;
mod tcp;
mod totals;
mod udp;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer, UdpSocket};

use guard::Guard;
use options::{Failure, Options};
use service::Service;
use totals::Totals;

const USAGE: &str = "usage: services [--listen ADDRESS:PORT] [--report SECONDS] [--grace SECONDS]

  --listen  the address to listen on; the assigned number of each service (echo 7, discard 9,
            daytime 13, qotd 17, chargen 19, time 37) is added to the port; default:
            127.0.0.1:2000; with port 0 each service gets a free port
  --report  the period in seconds after which discard prints its throughput; default: 1
  --grace   the time in seconds for connections to close after a signal; default: 3";

/// The maximum of the first port: the assigned numbers are added to it.
const MAX_PORT: u16 = u16::MAX - 37;

fn main() -> ExitCode {
    let names = ["--listen", "--report", "--grace"];
    options::main(USAGE, &names, &[], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    listen: SocketAddr,
    report: Duration,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let default = SocketAddr::from(([127, 0, 0, 1], 2000));
        let listen: SocketAddr =
            options.get("--listen", default, "an address with a port, such as 127.0.0.1:2000")?;
        if listen.port() > MAX_PORT {
            return Err(options.wrong(format!("the port `{}` is more than {MAX_PORT}", listen.port())));
        }
        let report = options.seconds("--report", 1)?;
        let grace = options.get("--grace", 3, "a number of seconds")?;
        Ok(Arguments { listen, report, grace: Duration::from_secs(grace) })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let totals = Rc::new(Totals::default());
    let guard = Rc::new(RefCell::new(Guard::new(event_loop.now())));
    let mut servers = Vec::new();
    let mut sockets = Vec::new();
    let mut lines = String::new();
    for service in Service::ALL {
        let mut address = arguments.listen;
        if address.port() > 0 {
            address.set_port(address.port() + service.assigned_port());
        }
        let failed = |kind: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{service} over {kind} on {address}: {error}"))
        };
        let server =
            tcp::serve(&event_loop, service, address, &totals).map_err(|error| failed("TCP", error))?;
        let socket = udp::serve(&event_loop, service, address, &totals, &guard)
            .map_err(|error| failed("UDP", error))?;
        lines += &format!("{service} tcp on {}\n", server.local_addr()?);
        lines += &format!("{service} udp on {}\n", socket.local_addr()?);
        servers.push(server);
        sockets.push(socket);
    }
    let echo = servers.first().map(TcpServer::local_addr).transpose()?;
    let counted = Rc::clone(&totals);
    totals::report_throughput(&event_loop, arguments.report, move || counted.discarded.get())?;
    let _signals = stop_on_signals(&event_loop, servers, sockets, arguments.grace)?;
    // Printed last: a reader of these lines may send a signal. Serving does not depend on them, so
    // the write may fail.
    let echo = echo.map_or_else(String::new, |echo| format!("--connect {echo} "));
    let _ = writeln!(io::stdout(), "{lines}try: services_client {echo}echo");
    event_loop.run()?;
    drop(event_loop);
    let _ = writeln!(io::stdout(), "{totals}");
    Ok(())
}

/// On SIGINT or SIGTERM, ends the loop when all connections have closed, after at most `grace`. A
/// second signal ends it at once.
fn stop_on_signals(
    event_loop: &EventLoop,
    mut servers: Vec<TcpServer>,
    mut sockets: Vec<UdpSocket>,
    grace: Duration,
) -> io::Result<Signals> {
    Signals::new(event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| {
        if servers.is_empty() {
            return event_loop.quit();
        }
        sockets.clear();
        let open = Rc::new(Cell::new(servers.len()));
        for server in servers.drain(..) {
            let open = Rc::clone(&open);
            server.stop(grace, move |event_loop, _| {
                open.set(open.get() - 1);
                if open.get() == 0 {
                    event_loop.quit();
                }
            });
        }
    })
}
