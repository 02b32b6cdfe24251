//! Random connections, checked against the invariants of every connection.

use super::connection_model;
use crate::support::alone::alone;
use crate::support::net;

const CONNECTIONS: u64 = 3_000;

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
