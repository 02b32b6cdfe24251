//! The example balance as a program, and its modules.

#[path = "../../examples/balance/backends.rs"]
mod backends;
#[path = "../../examples/balance/config.rs"]
mod config;
mod headers;
#[path = "../../examples/balance/proxy_header.rs"]
mod proxy_header;
mod selection;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::support::example::{self, Server};
use crate::support::net::{self, pattern};
use crate::support::{LIMIT, MIB, with_watchdog};

fn start(arguments: &[&str]) -> Server {
    let mut command = Command::new(example::program("balance"));
    let mut server =
        Server::start(command.args(["--listen", "127.0.0.1:0", "--check", "3600"]).args(arguments));
    assert!(server.line().starts_with("try: nc 127.0.0.1 "));
    server
}

#[test]
fn a_client_reaches_the_back_end_that_is_left_without_a_loss() {
    with_watchdog(LIMIT, || {
        let echo = Server::start(Command::new(example::program("echo")).args(["--listen", "127.0.0.1:0"]));
        // Bound and not listening: a connect to it is refused.
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let refusing = closed.local_addr().unwrap().as_socket().unwrap().to_string();
        let balance = start(&["--threads", "2", &refusing, &echo.address.to_string()]);
        for _ in 0..3 {
            let bytes = pattern(MIB);
            let mut client = net::connect(balance.address);
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert!(net::read_to_end(&mut client) == bytes, "other bytes arrived");
        }
    });
}

#[test]
fn the_header_precedes_the_first_byte_of_the_client() {
    with_watchdog(LIMIT, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        let balance = start(&["--send-proxy", "v1", &backend.to_string()]);
        // The check at the start states that it is no client.
        let (mut check, _) = listener.accept().unwrap();
        assert_eq!(net::read_to_end(&mut check), b"PROXY UNKNOWN\r\n");
        let mut client = net::connect(balance.address);
        client.write_all(b"hello").unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\nhello", balance.address.port());
        assert_eq!(net::read_exact(&mut accepted, expected.len()), expected.as_bytes());
    });
}

#[test]
fn clients_without_a_header_are_counted_as_refused() {
    with_watchdog(LIMIT, || {
        let echo = Server::start(Command::new(example::program("echo")).args(["--listen", "127.0.0.1:0"]));
        let options = ["--accept-proxy", "127.0.0.0/8", "--timeout", "1", &echo.address.to_string()];
        let balance = start(&options);
        for input in [b"hello".as_slice(), b"PROXY TCP4 "] {
            let mut client = net::connect(balance.address);
            client.write_all(input).unwrap();
            // The second client is closed when its time is over.
            net::wait_for_end(&mut client);
        }
        balance.signal(Signal::TERM);
        let (_, output) = balance.end();
        assert!(output.contains("2 clients, 0 connected, 0 attempts failed, 2 refused"), "{output}");
    });
}
