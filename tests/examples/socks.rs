//! The example socks as a program, and its modules.

#[path = "../../examples/shared/network.rs"]
pub(crate) mod network;
#[path = "../../examples/socks/protocol.rs"]
mod protocol;
mod requests;
#[path = "../../examples/socks/rules.rs"]
mod rules;
mod settings;
#[path = "../../examples/socks/users.rs"]
mod users;

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::process::Command;

use crate::support::example::{self, Server};
use crate::support::net::{self, pattern};
use crate::support::{LIMIT, MIB, with_watchdog};

fn start() -> Server {
    let mut command = Command::new(example::program("socks"));
    let mut server = Server::start(command.args(["--listen", "127.0.0.1:0", "--threads", "2"]));
    assert!(server.line().starts_with("try: curl --socks5-hostname 127.0.0.1:"));
    server
}

fn echo() -> Server {
    Server::start(Command::new(example::program("echo")).args(["--listen", "127.0.0.1:0"]))
}

/// A request of version 5 for `to`, behind the greeting.
fn handshake(command: u8, to: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, command, 0];
    bytes.extend_from_slice(&protocol::encode_datagram(to, b"")[3..]);
    bytes
}

#[test]
fn a_connection_through_the_proxy_carries_data_and_the_half_close() {
    with_watchdog(LIMIT, || {
        let (echo, proxy) = (echo(), start());
        let mut client = net::connect(proxy.address);
        client.write_all(&handshake(1, echo.address)).unwrap();
        assert_eq!(net::read_exact(&mut client, 12)[..5], [5, 0, 5, 0, 0]);
        let bytes = pattern(MIB);
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(net::read_to_end(&mut client) == bytes, "other bytes arrived");
    });
}

#[test]
fn a_relay_carries_datagrams_until_its_connection_ends() {
    with_watchdog(LIMIT, || {
        let (peer, proxy) = (UdpSocket::bind("127.0.0.1:0").unwrap(), start());
        let mut control = net::connect(proxy.address);
        control.write_all(&handshake(3, SocketAddr::from(([0; 4], 0)))).unwrap();
        let reply = net::read_exact(&mut control, 12);
        assert_eq!(reply[..6], [5, 0, 5, 0, 0, 1]);
        let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[10], reply[11]])));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(relay).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();

        let sent = protocol::encode_datagram(peer.local_addr().unwrap(), b"to the peer");
        client.send(&sent).unwrap();
        let mut space = [0; 100];
        let (length, from) = peer.recv_from(&mut space).unwrap();
        assert_eq!(&space[..length], b"to the peer");
        peer.send_to(b"to the client", from).unwrap();
        let length = client.recv(&mut space).unwrap();
        let expected = protocol::encode_datagram(peer.local_addr().unwrap(), b"to the client");
        assert_eq!(space[..length], expected);

        drop(control);
        // The kernel reports that nothing is bound to the port of the relay any more.
        client.set_nonblocking(true).unwrap();
        let is_refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
        net::until(|| client.send(&sent).is_err_and(is_refused));
    });
}
