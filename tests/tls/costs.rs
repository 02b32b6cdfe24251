//! Allocations per message, and the memory of idle connections.

use std::io::{Read, Write};

use reveille::testing::Peer;
use reveille::tls::ServerTls;
use reveille::{EventLoop, TcpConnection};
use rustls::server::UnbufferedServerConnection;

use crate::authority::{NAME, client_config, server_config};
use crate::support::counting::counts;
use crate::support::with_loop;
use crate::tls_peer::{TlsPeer, client_session};

fn connect<'a>(event_loop: &'a EventLoop, tls: &ServerTls) -> TlsPeer<'a> {
    let builder = TcpConnection::builder(event_loop).tls(tls).unwrap();
    let handler =
        reveille::codec::Framed::from_fn(reveille::codec::LineCodec::new(1000), |conn, line: &[u8]| {
            conn.send(line)
        });
    let end = Peer::connect_with(builder, |_| handler).unwrap();
    let mut peer = TlsPeer::over(end, client_session(client_config(), NAME));
    peer.turn();
    peer
}

#[test]
fn print_costs() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let before = counts();
        let peer = connect(event_loop, &tls);
        println!("one connection with its peer: {:?}", counts() - before);
        drop(peer);
        let _ = (Read::by_ref(&mut &b""[..]), Write::by_ref(&mut Vec::new()));
        println!("{}", size_of::<UnbufferedServerConnection>());
    });
}
