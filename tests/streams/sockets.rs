//! Sockets as two descriptors, and sockets of other families.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Seen;
use crate::support::alone::skipped;
use crate::support::net::{pattern, turn_until};
use crate::support::{MIB, with_loop};
use reveille::TcpConnection;
use reveille::net::Address;
use socket2::{Domain, SockAddr, Socket, Type};

#[test]
fn a_socket_as_input_and_output_is_half_closed() {
    with_loop(|event_loop| {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let seen = Seen::default();
        let handler = seen.opening(|conn| {
            conn.send("bye").unwrap();
            conn.shutdown();
        });
        let output = socket.try_clone().unwrap();
        TcpConnection::adopt_pipes(event_loop, socket, output, |_| handler).unwrap();
        event_loop.run_ready().unwrap();
        let mut received = String::new();
        peer.read_to_string(&mut received).unwrap();
        assert_eq!(received, "bye");
        peer.write_all(b"well").unwrap();
        drop(peer);
        event_loop.run_until_idle().unwrap();
        assert_eq!((seen.input(), seen.ends()), (b"well".to_vec(), 1));
    });
}

#[test]
fn a_vsock_is_a_connection_with_a_half_close() {
    /// The addresses of all machines, and of this one, and a free port.
    const ANY: u32 = u32::MAX;
    const LOCAL: u32 = 1;

    with_loop(|event_loop| {
        let open = || Socket::new(Domain::VSOCK, Type::STREAM, None);
        let listener = match open() {
            Ok(listener) => listener,
            Err(error) => return skipped(error),
        };
        listener.bind(&SockAddr::vsock(ANY, ANY)).unwrap();
        listener.listen(1).unwrap();
        let (_, port) = listener.local_addr().unwrap().as_vsock_address().unwrap();
        let client = open().unwrap();
        // Without the module for the loopback nothing replies.
        if let Err(error) = client.connect_timeout(&SockAddr::vsock(LOCAL, port), Duration::from_secs(1)) {
            return skipped(error);
        }
        let (mut server, _) = listener.accept().unwrap();
        let seen = Seen::default();
        let sent = pattern(MIB);
        let handler = {
            let sent = sent.clone();
            seen.opening(move |conn| {
                assert_eq!(*conn.peer_address(), Address::Unaddressed);
                conn.send_owned(sent).unwrap();
                conn.shutdown();
            })
        };
        TcpConnection::adopt(event_loop, OwnedFd::from(client), |_| handler).unwrap();
        let echo = std::thread::spawn(move || {
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            server.write_all(&received).unwrap();
        });
        turn_until(event_loop, || seen.is_closed());
        echo.join().unwrap();
        assert!(seen.input() == sent);
    });
}
