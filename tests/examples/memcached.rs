//! The example memcached as a program, and its modules.

#[path = "../../examples/memcached/clock.rs"]
mod clock;
#[path = "../../examples/memcached/commands/mod.rs"]
mod commands;
#[path = "../../examples/memcached/counters.rs"]
mod counters;
#[path = "../../examples/memcached/item.rs"]
mod item;
mod models;
#[path = "../../examples/memcached/numbers.rs"]
mod numbers;
#[path = "../../examples/memcached/protocol/mod.rs"]
mod protocol;
mod requests;
#[path = "../../examples/memcached/shard.rs"]
mod shard;
#[path = "../../examples/memcached/table.rs"]
mod table;

use std::io::Write;
use std::net::Shutdown;
use std::process::Command;

use crate::support::example::{self, Server};
use crate::support::{LIMIT, net, with_watchdog};
use rustix::process::Signal;

fn start(arguments: &[&str]) -> Server {
    let mut command = Command::new(example::program("memcached"));
    let mut server =
        Server::start(command.args(["--listen", "127.0.0.1:0", "--grace", "3600"]).args(arguments));
    assert!(server.line().starts_with("try: memcstat --servers=127.0.0.1:"));
    server
}

/// Sends `bytes`, finishes, and returns everything that the server sends.
fn outcome_of(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut client = net::connect(server.address);
    client.write_all(bytes).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    net::read_to_end(&mut client)
}

#[test]
fn wrong_sizes_are_refused() {
    for (arguments, message) in [
        (["--memory-limit", "0"], "`--memory-limit`: `0` is not a number of MiB from 1"),
        (["--memory-limit", "99999999999999"], "`99999999999999` is too much memory"),
        (["--item-size", "1m"], "`--item-size`: `1m` is not a number of bytes from 1"),
        (["--item-size", "134217729"], "`134217729` is more than 128 MiB"),
        (["--item-size", "67108865"], "`67108865` is more than the limit of memory"),
        (["--threads", "0"], "`--threads`: `0` is not a number of threads from 1"),
    ] {
        let outcome = example::outcome_of("memcached", &arguments);
        let errors = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert_eq!(outcome.status.code(), Some(2), "{errors}");
        assert_eq!(errors.lines().next(), Some(&*format!("memcached: {message}")));
    }
}

#[test]
fn a_stop_sends_the_replies_and_reports_totals() {
    with_watchdog(LIMIT, || {
        for threads in ["1", "3"] {
            let server = start(&["--threads", threads]);
            let commands =
                b"set a 1 0 2\r\nxy\r\nget a none a\r\nadd a 0 0 1 noreply\r\nz\r\nquit\r\nget a\r\n";
            let replies = outcome_of(&server, commands);
            let value = "VALUE a 1 2\r\nxy\r\n";
            assert_eq!(String::from_utf8_lossy(&replies), format!("STORED\r\n{value}{value}END\r\n"));
            // Open connections end too.
            let mut client = net::connect(server.address);
            client.write_all(b"touch a 0\r\n").unwrap();
            assert_eq!(net::read_exact(&mut client, 9), b"TOUCHED\r\n");
            server.signal(Signal::TERM);
            assert_eq!(net::read_to_end(&mut client), b"");
            drop(client);
            let (status, totals) = server.end();
            assert_eq!(status.code(), Some(0));
            assert_eq!(totals, "2 connections, 3 gets, 2 stores, 0 evictions");
        }
    });
}

#[test]
fn a_get_of_many_large_values_waits_for_its_reader() {
    with_watchdog(LIMIT, || {
        let server = start(&["--item-size", "400000"]);
        let value = net::pattern(400_000);
        let mut client = net::connect(server.address);
        client.write_all(b"set big 0 0 400000\r\n").unwrap();
        client.write_all(&[&value[..], b"\r\n"].concat()).unwrap();
        assert_eq!(net::read_exact(&mut client, 8), b"STORED\r\n");
        // Much more than the connection may have unsent.
        let gets = 100;
        client.write_all(&[&b"get"[..], &b" big".repeat(gets), b"\r\nversion\r\n"].concat()).unwrap();
        let reply = [&b"VALUE big 0 400000\r\n"[..], &value, b"\r\n"].concat();
        for _ in 0..gets {
            assert!(net::read_exact(&mut client, reply.len()) == reply);
        }
        assert_eq!(net::read_exact(&mut client, 14), b"END\r\nVERSION 1");
    });
}

#[test]
fn the_first_byte_selects_the_protocol() {
    with_watchdog(LIMIT, || {
        let server = start(&[]);
        let noop = [&[0x80, 0x0a][..], &[0; 22]].concat();
        let reply = [&[0x81, 0x0a][..], &[0; 22]].concat();
        assert_eq!(outcome_of(&server, &noop.repeat(3)), reply.repeat(3));
        assert_eq!(outcome_of(&server, b"verbosity 1\r\n"), b"OK\r\n");
        // The protocol of a connection does not change.
        assert_eq!(outcome_of(&server, &[&noop[..], b"verbosity 1\r\n            "].concat()), reply);
    });
}
