//! Urgent data (tcp(7)): a peer may send an urgent byte at any time. It is not part of the stream,
//! but a read of the stream ends before it, even when more bytes follow.

use std::io::Write;
use std::net::TcpStream;

use crate::support::net::{self, Script, scripted};
use crate::support::{LIMIT, with_watchdog};
use rustix::net::SendFlags;

fn send_urgent(client: &TcpStream) {
    assert_eq!(rustix::net::send(client, b"!", SendFlags::OOB), Ok(1));
}

#[test]
fn bytes_after_an_urgent_byte_are_read_without_waiting() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted(Script::terse);
        let mut client = host.connect();
        for n in 0..50u8 {
            // All bytes have arrived when the loop polls.
            let (client_here, mut sender) = (client.try_clone().unwrap(), client.try_clone().unwrap());
            host.request(move |_, _| {
                sender.write_all(&[n; 3]).unwrap();
                send_urgent(&client_here);
                sender.write_all(&[n; 4]).unwrap();
            });
            assert_eq!(net::read_exact(&mut client, 7), [n; 7]);
        }
    });
}

#[test]
fn an_unread_urgent_byte_does_not_spin_the_loop() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted(Script::terse);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        send_urgent(&client);
        host.assert_idle();
        net::assert_echoes(&mut client);
        host.assert_idle();
    });
}
