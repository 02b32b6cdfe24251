//! An echo on the listening sockets that systemd passes (systemd.socket(5)).
//!
//! Run it with `systemd-socket-activate -l 2007 -l 2008 target/release/examples/socket_activation`,
//! then connect with `nc 127.0.0.1 2007` or `nc 127.0.0.1 2008`. All sockets belong to one server.
//! Without passed sockets it listens on its only argument, by default 127.0.0.1:2007.

#[path = "shared/arguments.rs"]
mod arguments;

use std::io::{self, Write};
use std::process::ExitCode;

use reveille::net::ConnectTarget;
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer, net};

const USAGE: &str = "usage: socket_activation [ADDRESS:PORT]";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = match arguments::positional("socket_activation", USAGE, 0..=1) {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let address = arguments.first().map_or("127.0.0.1:2007".into(), |address| address.to_string_lossy());
    let Ok(address) = address.parse() else {
        let message = format!("`{address}` is not an address with a port");
        return arguments::wrong("socket_activation", USAGE, &message);
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("socket_activation: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: ConnectTarget) -> io::Result<()> {
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
    event_loop.run()
}
