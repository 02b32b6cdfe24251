//! Random connections, checked against the invariants of every connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::connection_model::{self, Stream};
use crate::support::alone::alone;
use crate::support::net;

const CONNECTIONS: u64 = 3_000;

impl Stream for TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Read::read(self, bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn into_socket(self) -> TcpStream {
        self
    }
}

#[test]
fn random_connections_report_every_loss_and_every_event() {
    alone(|| {
        connection_model::run(
            0..CONNECTIONS,
            |builder| builder,
            |address, _| {
                let socket = net::connect_with_small_packets(address);
                socket.set_nonblocking(true).unwrap();
                socket
            },
        );
    });
}
