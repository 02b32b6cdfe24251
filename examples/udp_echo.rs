//! An echo server for datagrams (RFC 862): sends each back to where it came from.
//!
//! Run it with `cargo run --release --example udp_echo`, then talk to it with `nc -u 127.0.0.1 2007`. It shows a handler with
//! state, and that no error ends a UDP socket.

use std::env;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use reveille::{DatagramHandler, EventLoop, Signal, Signals, UdpRef, UdpSocket};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2007".to_owned());
    match run(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("udp_echo: {error}\nusage: udp_echo [ADDRESS:PORT]");
            ExitCode::from(2)
        }
    }
}

fn run(address: &str) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let socket = UdpSocket::bind(&event_loop, address)?.serve(Echo { datagrams: 0 })?;
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    // Whether or not anybody reads this, it serves.
    let _ = writeln!(io::stdout(), "receiving on {}", socket.local_addr());
    event_loop.run()
}

struct Echo {
    datagrams: u64,
}

impl DatagramHandler for Echo {
    fn on_datagram(&mut self, socket: &UdpRef, datagram: &[u8], from: SocketAddr) -> io::Result<()> {
        self.datagrams += 1;
        socket.send_to(datagram, from)?;
        Ok(())
    }

    fn on_error(&mut self, _: &UdpRef, error: io::Error, peer: Option<SocketAddr>) {
        let _ = writeln!(io::stderr(), "after {} datagrams, of {peer:?}: {error}", self.datagrams);
    }
}
