//! An echo on the listening sockets that systemd passes (systemd.socket(5)).
//!
//! Run it with `systemd-socket-activate -l 2007 -l 2008 target/release/examples/socket_activation`,
//! then connect with `nc 127.0.0.1 2007` or `nc 127.0.0.1 2008`. All sockets belong to one server.
//! Without passed sockets it listens on its only argument, by default 127.0.0.1:2007.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io::{self, Write};
use std::process::ExitCode;

use options::{Failure, Options};
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer, net};

const USAGE: &str = "usage: socket_activation [--listen ADDRESS:PORT]

  --listen  the address to listen on if systemd passes no socket; default: 127.0.0.1:2007; port 0
            selects a free port";

fn main() -> ExitCode {
    options::main(USAGE, &["--listen"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let address = serving::listen(options, 2007)?;
    let passed = net::systemd_listeners()?;
    let event_loop = EventLoop::new()?;
    let mut builder = TcpServer::builder(&event_loop);
    if passed.is_empty() {
        builder = builder.listen(address);
    }
    for listener in passed {
        builder = builder.listener(listener.fd);
    }
    let server = builder.serve_fn(|conn, input| conn.send(input.take_all()))?;
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    for address in server.local_addresses() {
        // Serving does not depend on the output, so the write may fail.
        let _ = writeln!(io::stdout(), "listening on {address}");
    }
    Ok(event_loop.run()?)
}
