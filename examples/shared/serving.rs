//! What the servers among the examples have in common: options, and running until a signal.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer};

use super::options::{Failure, Options};

/// The option `--listen`; by default `port` on the loopback interface.
pub(crate) fn listen(options: &Options, port: u16) -> Result<SocketAddr, Failure> {
    address(options, "--listen", port)
}

/// The address of an option; by default `port` on the loopback interface.
pub(crate) fn address(options: &Options, option: &str, port: u16) -> Result<SocketAddr, Failure> {
    let meaning = format!("an address with a port, such as 127.0.0.1:{port} or [::1]:{port}");
    options.get(option, SocketAddr::from(([127, 0, 0, 1], port)), &meaning)
}

/// The option `--threads`; by default one.
pub(crate) fn threads(options: &Options) -> Result<usize, Failure> {
    options.get("--threads", NonZeroUsize::MIN, "a number of threads from 1").map(NonZeroUsize::get)
}

/// The option `--grace`.
pub(crate) fn grace(options: &Options) -> Result<Duration, Failure> {
    options.get("--grace", 3, "a number of seconds").map(Duration::from_secs)
}

/// Runs the loop until SIGINT or SIGTERM, and then until the connections of the server have closed,
/// for at most `grace`. A second signal skips this period. `command` returns a command that
/// connects to the server; it is printed.
pub(crate) fn run(
    event_loop: &EventLoop,
    server: TcpServer,
    grace: Duration,
    command: impl FnOnce(IpAddr, u16) -> String,
) -> io::Result<()> {
    let local = server.local_addr()?;
    let mut server = Some(server);
    let _signals =
        Signals::new(event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| match server.take() {
            None => event_loop.quit(),
            Some(server) => server.stop(grace, |event_loop, _| event_loop.quit()),
        })?;
    // Printed last: a reader of this line may send a signal. Serving does not depend on it, so the
    // write may fail.
    let command = command(local.ip(), local.port());
    let _ = writeln!(io::stdout(), "listening on {local}\ntry: {command}");
    event_loop.run()
}
