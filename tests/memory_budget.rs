//! A limit for all connections of a server together: past it nobody is read, and below it all go on where they were.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;

use reveille::TcpServer;
use support::net::{self, Host, Journal, loops, pattern};
use support::{KIB, LIMIT, with_watchdog};

const BUDGET: usize = 1024 * KIB;
/// What one message can add, of a loop that has looked at the budget just before.
const A_MESSAGE: usize = 64 * KIB;

fn buffered(host: &Host) -> usize {
    host.ask(|_, server| server.as_ref().expect("a server").buffered())
}

/// That a client is not answered now. It is the first that hears of its connection, so that it may be read.
fn is_kept_waiting(host: &Host, client: &mut TcpStream) -> bool {
    for _ in 0..20 {
        host.ask(|_, _| ());
    }
    client.set_nonblocking(true).unwrap();
    let waits = client.read(&mut [0; 1]).is_err();
    client.set_nonblocking(false).unwrap();
    waits
}

/// Clients that each send so much to an echo and do not read, until the server has had enough of them together.
fn flood(host: &Host, bytes: &Arc<Vec<u8>>) -> (Vec<TcpStream>, Vec<thread::JoinHandle<()>>) {
    let clients: Vec<_> = (0..8).map(|_| net::connect_with_small_packets(host.address())).collect();
    let writers = clients.iter().map(|client| {
        let (mut writer, bytes) = (client.try_clone().unwrap(), Arc::clone(bytes));
        thread::spawn(move || {
            // To a server that resets, in vain.
            let _ = writer.write_all(&bytes);
            let _ = writer.shutdown(Shutdown::Write);
        })
    });
    let writers = writers.collect();
    // The kernel may take a little more for a while, and make room for that much again.
    net::until(|| buffered(host) > BUDGET - BUDGET / 4 && host.turns_at_rest() < 5);
    (clients, writers)
}

fn echo_within_budget() -> Host {
    Host::new(|event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?
            .max_buffered(BUDGET)
            .on_message(|conn, input| conn.send(input.take_all()))
    })
}

#[test]
fn past_the_limit_nobody_is_read_and_below_it_all_go_on() {
    with_watchdog(LIMIT, || {
        let host = echo_within_budget();
        let mut other = host.connect();
        net::assert_echoes(&mut other);
        assert_eq!(buffered(&host), 0, "nothing waits to be sent");
        let bytes = Arc::new(pattern(12 << 20));
        let (clients, writers) = flood(&host, &bytes);
        other.write_all(b"x").unwrap();
        assert!(is_kept_waiting(&host, &mut other));
        let most = buffered(&host);
        assert!(most <= BUDGET + A_MESSAGE, "{most} bytes");

        let readers: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let bytes = Arc::clone(&bytes);
                thread::spawn(move || {
                    assert!(net::read_to_end(&mut client) == *bytes, "other bytes came back")
                })
            })
            .collect();
        assert_eq!(net::read_exact(&mut other, 1), b"x");
        for thread in readers.into_iter().chain(writers) {
            while !thread.is_finished() {
                let now = buffered(&host);
                assert!(now <= BUDGET + A_MESSAGE, "{now} bytes");
            }
            thread.join().unwrap();
        }
        net::until(|| host.open_connections() == 1);
        assert_eq!(buffered(&host), 0);
    });
}

#[test]
fn what_closed_connections_held_is_room_for_the_others() {
    with_watchdog(LIMIT, || {
        let host = echo_within_budget();
        let mut other = host.connect();
        net::assert_echoes(&mut other);
        let (clients, writers) = flood(&host, &Arc::new(pattern(12 << 20)));
        other.write_all(b"x").unwrap();
        assert!(is_kept_waiting(&host, &mut other));
        for client in clients {
            client.shutdown(Shutdown::Both).unwrap();
            net::reset(client);
        }
        assert_eq!(net::read_exact(&mut other, 1), b"x");
        for writer in writers {
            writer.join().unwrap();
        }
        net::until(|| host.open_connections() == 1);
        assert_eq!(buffered(&host), 0);
    });
}

#[test]
fn what_handlers_leave_unread_counts_too() {
    const PIECE: usize = 400 * KIB;
    with_watchdog(LIMIT, || {
        // Messages end with a full stop, and are answered with one.
        let journal = Journal::new();
        let written = journal.clone();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.max_buffered(BUDGET).serve(move |_| {
                written.script().terse().on_message(|conn, input| {
                    if input.readable().ends_with(b".") {
                        input.clear();
                        conn.send(b".").unwrap();
                    }
                })
            })
        });
        let mut clients: Vec<_> = (0..3).map(|_| host.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&vec![b'-'; PIECE]).unwrap();
            net::until(|| buffered(&host) >= (number + 1) * PIECE.min(BUDGET / 3));
        }
        net::until(|| buffered(&host) > BUDGET);
        clients[0].write_all(b".").unwrap();
        assert!(is_kept_waiting(&host, &mut clients[0]), "it is read past the limit");
        // Those that go make room for the rest.
        net::reset(clients.pop().unwrap());
        net::reset(clients.pop().unwrap());
        assert_eq!(net::read_exact(&mut clients[0], 1), b".");
        net::until(|| buffered(&host) == 0);
    });
}

#[test]
fn connections_of_several_loops_share_the_limit() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .max_buffered(BUDGET)
                .threads(loops(3))?
                .on_message(|conn, input| conn.send(input.take_all()))
        });
        let mut others: Vec<_> = (0..3).map(|_| host.connect()).collect();
        others.iter_mut().for_each(net::assert_echoes);
        let bytes = Arc::new(pattern(12 << 20));
        let (clients, writers) = flood(&host, &bytes);
        for other in &mut others {
            other.write_all(b"x").unwrap();
            assert!(is_kept_waiting(&host, other));
        }
        assert!(buffered(&host) <= BUDGET + 3 * A_MESSAGE);
        thread::scope(|scope| {
            for mut client in clients {
                let bytes = &bytes;
                scope.spawn(move || assert!(net::read_to_end(&mut client) == **bytes));
            }
            for other in &mut others {
                assert_eq!(net::read_exact(other, 1), b"x");
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        net::until(|| buffered(&host) == 0);
    });
}
