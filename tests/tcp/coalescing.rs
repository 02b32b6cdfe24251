//! The sends of a callback, which leave together when it returns.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::net::{self, Host, message, pattern, scripted};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::net::SendError;
use reveille::{TcpConnection, TcpServer};

/// A host whose handler sends a reply in two parts, and then calls `end`.
fn host_that_ends(end: fn(&TcpConnection) -> io::Result<()>) -> Host {
    Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
            input.clear();
            conn.send("all ")?;
            conn.send("of it")?;
            end(conn)
        })
    })
}

#[test]
fn accepted_output_is_sent_however_the_callback_ends_the_connection() {
    let ends: [fn(&TcpConnection) -> io::Result<()>; 5] = [
        |conn| {
            conn.close();
            Ok(())
        },
        |conn| {
            conn.shutdown();
            Ok(())
        },
        |conn| {
            conn.close_gracefully(Duration::from_secs(3600));
            Ok(())
        },
        |_| Err(io::Error::other("the handler has failed")),
        |_| panic!("the handler panics"),
    ];
    with_watchdog(LIMIT, move || {
        for (number, end) in ends.into_iter().enumerate() {
            let host = host_that_ends(end);
            let mut client = host.connect();
            client.write_all(b"?").unwrap();
            assert_eq!(net::read_to_end(&mut client), b"all of it", "{number}");
        }
    });
}

#[test]
fn sends_of_all_sizes_and_kinds_keep_their_order() {
    const SIZES: [usize; 9] = [1, 100, 4 * 1024, 4 * 1024 + 1, 3, 70_000, 3000, 60_000, 0];
    with_watchdog(LIMIT, || {
        let expected = pattern(3 * MIB);
        let bytes = expected.clone();
        let (host, _) = scripted(move |script| {
            let bytes = bytes.clone();
            script.on_message(move |conn, input| {
                input.clear();
                let (mut rest, mut number) = (&bytes[..], 0);
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(rest.len().min(SIZES[number % SIZES.len()]));
                    match number % 4 {
                        0 => conn.send(piece).unwrap(),
                        1 => conn.send_owned(piece).unwrap(),
                        2 => conn.send_shared(&piece.into()).unwrap(),
                        _ => {
                            let (one, other) = piece.split_at(piece.len() / 2);
                            conn.send_vectored(&[io::IoSlice::new(one), io::IoSlice::new(other)]).unwrap()
                        }
                    };
                    (rest, number) = (after, number + 1);
                }
                conn.shutdown();
            })
        });
        let mut client = host.connect();
        client.write_all(b"?").unwrap();
        assert!(net::read_to_end(&mut client) == expected, "other bytes arrived");
    });
}

#[test]
fn flush_sends_before_the_callback_returns() {
    with_watchdog(LIMIT, || {
        let (arrived, wait) = mpsc::channel();
        let wait = Cell::new(Some(wait));
        let host = Host::new(move |event_loop| {
            let wait = wait.take().expect("one call");
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                input.clear();
                conn.send("now")?;
                conn.flush()?;
                wait.recv_timeout(LIMIT).map_err(io::Error::other)?;
                conn.send(", later")?;
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"?").unwrap();
        assert_eq!(net::read_exact(&mut client, 3), b"now");
        arrived.send(()).unwrap();
        assert_eq!(net::read_exact(&mut client, 7), b", later");
    });
}

#[test]
fn a_flush_after_a_shutdown_is_an_error() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                assert_eq!(conn.flush(), Ok(()));
                conn.shutdown();
                assert_eq!(conn.flush(), Err(SendError::Closed));
            })
        });
        let mut client = host.connect();
        client.write_all(b"?").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        drop(client);
        assert_eq!(journal.calls_until_close(0)[1], message("?"));
    });
}
