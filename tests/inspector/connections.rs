//! Servers, connections and descriptors.

use std::io::{Read, Write};
use std::sync::mpsc;

use reveille::net::OverflowPolicy;
use reveille::{Buffer, ConnectionHandler, EventLoop, LoopThread, TcpConnection};

use crate::support::{LIMIT, with_watchdog};
use crate::{Echo, await_body, body, builder, get, value, values};

#[test]
fn the_counters_and_limits_of_a_server_are_shown() {
    with_watchdog(LIMIT, || {
        let echo = Echo::with(|builder| {
            builder.max_connections(2).max_per_address(7).overflow_policy(OverflowPolicy::Reject)
        });
        let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
        let clients = [echo.exchange(1), echo.exchange(1)];
        let mut rejected = echo.connect();
        // An end or a reset, whichever the client sees.
        let _ = rejected.read(&mut [0; 1]);
        let overview = await_body(&inspector, "/api/overview", |json| value(json, "maximum") == "1");
        // The first one is that of the descriptors.
        assert_eq!((values(&overview, "open")[1], value(&overview, "accepted")), ("2", "2"));
        assert_eq!(value(&overview, "connections"), "2");
        assert_eq!(
            (values(&overview, "per_address"), value(&overview, "overflow")),
            (vec!["0", "7"], "reject")
        );
        assert_eq!(value(&overview, "stage"), "serving");
        let text = body(&inspector, "/metrics");
        for line in [
            "reveille_server_connections{server=\"echo\"} 2",
            "reveille_server_max_connections{server=\"echo\"} 2",
            "reveille_server_accepted_total{server=\"echo\"} 2",
            "reveille_server_rejected_total{server=\"echo\",reason=\"maximum\"} 1",
            "reveille_server_accepting{server=\"echo\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
        }
        drop(clients);
        await_body(&inspector, "/metrics", |text| {
            text.contains("reveille_server_connections{server=\"echo\"} 0\n")
        });
        echo.server.pause_accepting();
        assert!(body(&inspector, "/api/overview").contains("\"paused\":true"));
        drop(echo);
        await_body(&inspector, "/api/overview", |json| value(json, "stage") == "stopped");
    });
}

#[test]
fn connections_are_listed_with_their_bytes_in_every_order() {
    with_watchdog(LIMIT, || {
        let echo = Echo::new();
        let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
        let clients = [echo.exchange(300), echo.exchange(100), echo.exchange(200)];
        let peers = clients.each_ref().map(|client| client.local_addr().expect("an address").to_string());
        await_body(&inspector, "/api/connections", |json| value(json, "total") == "3");
        let [first, second, third] = peers.each_ref().map(String::as_str);
        for (query, expected) in [
            ("sort=received", [first, third, second]),
            ("sort=received&order=asc", [second, third, first]),
            ("sort=sent&order=desc", [first, third, second]),
            ("sort=sent&order=asc", [second, third, first]),
            ("sort=age&order=desc", [first, second, third]),
            ("sort=age&order=asc", [third, second, first]),
        ] {
            // A list that is still valid may be older than the last exchange.
            let path = format!("/api/connections?{query}");
            let list = await_body(&inspector, &path, |json| values(json, "peer") == expected);
            let mut bytes = values(&list, "received");
            assert_eq!(bytes, values(&list, "sent"));
            bytes.sort_unstable();
            assert_eq!(bytes, ["100", "200", "300"]);
            assert!(values(&list, "server").iter().all(|server| *server == "echo"));
        }
        let list = body(&inspector, "/api/connections?sort=sent&limit=1");
        assert_eq!((values(&list, "peer"), value(&list, "total")), (vec![first], "3"));
    });
}

#[test]
fn unsent_output_is_shown_and_the_connection_is_first_in_its_order() {
    with_watchdog(LIMIT, || {
        let (sender, server) = mpsc::channel();
        let _thread = LoopThread::spawn_with("server", move |event_loop| {
            let server = reveille::TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| {
                input.clear();
                // More than any kernel buffers for a peer that does not read.
                conn.send_owned(vec![b'x'; 15 << 20]).map_err(|refused| refused.reason())
            })?;
            sender.send(server.handle()).expect("the test waits");
            Ok(server)
        })
        .expect("a server");
        let server = server.recv().expect("a handle");
        let inspector = builder().watch_server("server", &server).start().expect("an inspector");
        let address = server.local_addr().expect("an IP address");
        let connect = || std::net::TcpStream::connect(address).expect("a connection");
        let (_idle, mut silent, _other) = (connect(), connect(), connect());
        silent.write_all(b"x").expect("sent");
        let list = await_body(&inspector, "/api/connections?sort=unsent&limit=2", |json| {
            value(json, "total") == "3" && values(json, "unsent")[0] != "0"
        });
        let peer = silent.local_addr().expect("an address").to_string();
        assert_eq!(values(&list, "peer")[0], peer);
        assert_eq!(values(&list, "unsent")[1], "0");
        let path = values(&list, "path")[0];
        let details = body(&inspector, &format!("/api/connections/{path}"));
        assert_ne!(value(&details, "unsent"), "0");
        assert_ne!(value(&details, "memory"), "0");
    });
}

#[test]
fn details_of_a_connection_come_from_its_loop_and_end_with_it() {
    with_watchdog(LIMIT, || {
        let echo = Echo::new();
        let client = echo.exchange(10);
        let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
        let list = await_body(&inspector, "/api/connections", |json| value(json, "total") == "1");
        let path = format!("/api/connections/{}", value(&list, "path"));
        let details = body(&inspector, &path);
        let (local, peer) =
            (client.peer_addr().expect("an address"), client.local_addr().expect("an address"));
        assert_eq!(
            (value(&details, "local"), value(&details, "peer")),
            (&*local.to_string(), &*peer.to_string())
        );
        assert_eq!((value(&details, "received"), value(&details, "sent")), ("10", "10"));
        assert_eq!((value(&details, "loop"), value(&details, "server")), ("echo", "echo"));
        assert!(value(&details, "handler").starts_with("reveille::"), "{details}");
        assert!(value(&details, "rtt").parse::<f64>().expect("a time") > 0.0);
        assert_eq!(values(&details, "state"), ["open", "Established"]);
        drop(client);
        await_body(&inspector, "/api/connections", |json| value(json, "total") == "0");
        assert_eq!(get(&inspector, &path).0, 404);
    });
}

/// Does nothing.
struct Quiet;

impl ConnectionHandler for Quiet {
    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> std::io::Result<()> {
        input.clear();
        Ok(())
    }
}

#[test]
fn a_scan_in_slices_finds_every_connection() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("pairs").expect("a thread");
        let make = |event_loop: &EventLoop| {
            for _ in 0..1500 {
                TcpConnection::pair(event_loop, |_| Quiet, |_| Quiet).expect("a pair");
            }
        };
        thread.handle().call(make).expect("the loop runs");
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        let list =
            await_body(&inspector, "/api/connections?limit=5000", |json| value(json, "complete") == "true");
        assert_eq!(value(&list, "total"), "3000");
        let mut ids = values(&list, "id");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1000, "the rows");
        assert!(values(&list, "received").iter().all(|bytes| *bytes == "null"), "of a pair in memory");
        assert!(values(&list, "handler").iter().all(|handler| handler.ends_with("Quiet")));
    });
}

#[test]
fn open_descriptors_are_listed() {
    with_watchdog(LIMIT, || {
        let echo = Echo::new();
        let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
        let list = body(&inspector, "/api/descriptors");
        for kind in ["socket", "eventfd", "eventpoll", "timerfd"] {
            assert!(values(&list, "kind").contains(&kind), "no {kind} in {list}");
        }
        assert!(value(&list, "open").parse::<u64>().expect("a number") >= 4);
    });
}
