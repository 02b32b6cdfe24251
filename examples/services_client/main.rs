//! A client of the services of RFC 862 to 868, over TCP and over UDP.
//!
//! Run it with `cargo run --release --example services_client -- daytime`, while the example
//! `services` runs. It verifies each byte that echo and chargen send, measures the throughput of
//! discard, and prints what daytime, qotd and time send.
//!
//! It shows a client that is an async function: each wait has a time limit, and a datagram that is
//! lost is sent again.

#[path = "../services/clock.rs"]
mod clock;
#[path = "../shared/options.rs"]
mod options;
#[path = "../services/pattern.rs"]
mod pattern;
#[path = "../services/service.rs"]
mod service;

mod check;
mod tcp;
mod udp;

use std::cell::Cell;
use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, time};

use options::{Failure, Options};
use service::Service;

const USAGE: &str = "usage: services_client [OPTION VALUE]... [--udp] [NAME]

  NAME       echo, discard, daytime, qotd, chargen or time; default: echo
  --connect  the address and port, or name and port, of the service; default: 127.0.0.1 and 2000
             plus the assigned port number, such as 127.0.0.1:2007 for echo
  --udp      sends datagrams; default: a TCP connection
  --bytes    the number of bytes that echo and discard send and chargen receives; over UDP chargen
             receives one datagram; default: 1048576
  --timeout  the time in seconds for the connection and for each reply; default: 10

The exit status is 1 if the service fails or sends a wrong byte.";

fn main() -> ExitCode {
    let names = ["--connect", "--bytes", "--timeout"];
    options::main(USAGE, &names, &["--udp"], |options| Ok(run(Arguments::parse(options)?)?))
}

struct Arguments {
    service: Service,
    target: Target,
    is_udp: bool,
    request: Request,
}

/// What is requested, by either transport.
#[derive(Clone, Copy)]
struct Request {
    bytes: usize,
    timeout: Duration,
}

/// A name or an address, with a port.
struct Target(String);

impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Target, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(());
        }
        Ok(Target(text.to_owned()))
    }
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        let service = match options.rest(1)?.pop() {
            None => Service::Echo,
            Some(name) => {
                let name = name.to_string_lossy();
                name.parse().map_err(|()| options.wrong(format!("`{name}` is not one of the services")))?
            }
        };
        let default = Target(format!("127.0.0.1:{}", 2000 + service.assigned_port()));
        Ok(Arguments {
            service,
            target: options.get("--connect", default, "an address with a port, such as 127.0.0.1:2007")?,
            is_udp: options.has("--udp"),
            request: Request {
                bytes: options.get("--bytes", 1 << 20, "a number of bytes")?,
                timeout: options.seconds("--timeout", 10)?,
            },
        })
    }
}

impl Request {
    /// The result of one wait, or an error after the time limit.
    async fn within<T>(&self, wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        time::timeout(self.timeout, wait).await.unwrap_or_else(|_| {
            let message = format!("the service did not reply within {} s", self.timeout.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let outcome = Rc::new(Cell::new(None));
    let set = Rc::clone(&outcome);
    let handle = event_loop.handle();
    event_loop.spawn_local(async move {
        let Arguments { service, target: Target(target), is_udp, request } = arguments;
        set.set(Some(match is_udp {
            true => udp::request(service, &target, request).await,
            false => tcp::request(service, &target, request).await,
        }));
        handle.quit();
    });
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    event_loop.run()?;
    let interrupted = || Err(io::Error::new(io::ErrorKind::Interrupted, "ended by a signal"));
    let text = outcome.take().unwrap_or_else(interrupted)?;
    writeln!(io::stdout(), "{text}")
}
