//! Many bytes in both directions at once.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use reveille::TcpServer;
use reveille::net::{ConnectionLimits, TcpServerBuilder};
use reveille::tls::ServerTls;

use crate::authority::{NAME, client_config, server_config};
use crate::connection_model::Stream;
use crate::connection_states::TlsStream;
use crate::support::counting::{counts, peak, reset_peak};
use crate::support::net::pattern;
use crate::support::{KIB, LIMIT, MIB, with_loop};
use crate::tls_peer::client_session;

const TOTAL: usize = 64 * MIB;

/// Sends 64 MiB to an echo server as fast as it takes them, reads them slower, and checks them.
/// Returns the most memory that the loop and the server held meanwhile.
fn peak_of_echo<S: Stream>(
    configure: impl FnOnce(TcpServerBuilder<'_>) -> TcpServerBuilder<'_> + Send + 'static,
    connect: impl FnOnce(TcpStream) -> S + Send + 'static,
) -> i64 {
    with_loop(|event_loop| {
        let limits = ConnectionLimits::new().water_marks(MIB, 512 * KIB).max_unsent(4 * MIB);
        let server = configure(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().limits(limits));
        let server = server.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let socket = crate::support::net::connect(server.local_addr().unwrap());
        socket.set_nonblocking(true).unwrap();
        let mut stream = connect(socket);
        // A period that is no power of two, so that no record is equal to another.
        let bytes = pattern(MIB + 13);
        let (mut sent, mut received) = (0, 0);
        let mut read = [0; 20_000];
        let (mut most, mut of_client, before) = (0, 0, counts().held);
        let start = Instant::now();
        while received < TOTAL {
            assert!(start.elapsed() < LIMIT, "{sent} bytes were sent, and {received} received");
            reset_peak();
            event_loop.run_once(Duration::ZERO).unwrap();
            most = most.max(peak() - before - of_client);
            let held = counts().held;
            stream.advance();
            let at = sent % bytes.len();
            let end = bytes.len().min(at + TOTAL - sent);
            sent += stream.write(&bytes[at..end]).unwrap_or(0);
            // An error is that nothing is there.
            let n = stream.read(&mut read).unwrap_or(0);
            let mut rest = &read[..n];
            while !rest.is_empty() {
                let at = received % bytes.len();
                let (part, later) = rest.split_at(rest.len().min(bytes.len() - at));
                assert!(*part == bytes[at..at + part.len()], "wrong bytes after {received}");
                received += part.len();
                rest = later;
            }
            of_client += counts().held - held;
        }
        assert_eq!(sent, TOTAL);
        most
    })
}

#[test]
fn many_bytes_in_both_directions_need_no_more_memory_than_plain_text() {
    let plain = peak_of_echo(|builder| builder, |socket| socket);
    let encrypted = peak_of_echo(
        |builder| builder.tls(ServerTls::new(server_config())),
        |socket| TlsStream::new(socket, client_session(client_config(), NAME)),
    );
    assert!(plain > MIB as i64, "the output was not queued: {plain} bytes");
    // The buffers of the loop and of the connection for records that are incomplete, decoded or
    // encoded.
    assert!(encrypted < plain + MIB as i64, "{encrypted} bytes, and {plain} without TLS");
}
