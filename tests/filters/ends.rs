//! The ends of filtered connections, in both directions.

use std::io::{self, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::samples::{Blocks, Cipher, END, block, cipher, error_of, unblock};
use crate::support::net::{self, End, HandlerCall, scripted_with};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{Filter, FilterContext};
use reveille::{Buffer, TcpConnection};

#[test]
fn truncated_input_closes_the_connection_with_an_error() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(Blocks::default), |script| script);
        for sent in [&b""[..], &block(b"whole"), &[0, 9, b'p', b'a', b'r', b't']] {
            let mut client = host.connect();
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
        }
        for number in 0..3 {
            assert_eq!(error_of(&journal, number), io::ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn bytes_left_at_the_end_are_an_error_by_default() {
    struct KeepsAll;

    impl Filter for KeepsAll {
        fn decode(&mut self, _: &mut FilterContext, _: &mut Buffer, _: &mut Buffer) -> io::Result<()> {
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(|| KeepsAll), |script| script);
        let mut client = host.connect();
        client.write_all(b"undecodable").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(error_of(&journal, 0), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn the_last_bytes_of_a_filter_leave_before_the_fin() {
    let ends: [fn(&TcpConnection); 2] =
        [|conn| conn.shutdown(), |conn| conn.close_gracefully(Duration::from_secs(3600))];
    for end in ends {
        with_watchdog(LIMIT, move || {
            let (host, journal) = scripted_with(
                |builder| builder.filter(Cipher::default).filter(Blocks::default).filter(Cipher::default),
                move |script| {
                    script.on_message(move |conn, input| {
                        input.clear();
                        conn.send(vec![b'x'; 100_000]).unwrap();
                        end(conn);
                    })
                },
            );
            let mut client = host.connect();
            let mut sent = block(b"?");
            cipher(&mut sent, &mut 0);
            client.write_all(&sent).unwrap();
            let mut received = net::read_to_end(&mut client);
            cipher(&mut received, &mut 0);
            let (mut content, has_ended) = unblock(&received);
            cipher(&mut content, &mut 0);
            assert!(content == vec![b'x'; 100_000] && has_ended);
            drop(client);
            journal.end_of(0);
        });
    }
}

#[test]
fn a_shutdown_after_the_peers_end_sends_the_last_bytes() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(Blocks::default), |script| script);
        let mut client = host.connect();
        client.write_all(&[&block(b"echo")[..], &END].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), [&block(b"echo")[..], &END].concat());
        assert_eq!(journal.end_of(0), End::Finished);
        let calls = journal.of(0);
        assert!(calls.contains(&HandlerCall::PeerShutdown), "{calls:?}");
    });
}
