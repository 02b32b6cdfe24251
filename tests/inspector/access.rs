//! Addresses, hosts, clients, and the end of an inspector.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::{fs, thread};

use reveille::LoopThread;
use reveille::observe::Inspector;

use crate::support::alone::alone;
use crate::support::folder::Folder;
use crate::support::forked::in_child;
use crate::support::{LIMIT, with_watchdog};
use crate::{Echo, address, await_body, body, builder, get, request, response, value};

#[test]
fn only_loopback_addresses_are_accepted_unless_others_are_permitted() {
    with_watchdog(LIMIT, || {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let refused = Inspector::builder().listen_tcp(any).start().expect_err("not a loopback address");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let missing = Inspector::builder().start().expect_err("no address");
        assert_eq!(missing.kind(), ErrorKind::InvalidInput);
        let inspector = Inspector::builder().listen_tcp(any).permit_remote().start().expect("permitted");
        let port = inspector.local_address().as_inet().expect("an IP address").port();
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(request(SocketAddr::from(([127, 0, 0, 1], port)), head).0, 200);
        let taken = Inspector::builder().listen_tcp(([127, 0, 0, 1], port)).start();
        assert_eq!(taken.expect_err("in use").kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn requests_for_other_hosts_are_refused_unless_they_are_allowed() {
    with_watchdog(LIMIT, || {
        let inspector = builder().allow_host("status.example").start().expect("an inspector");
        let status = |host: &str| {
            let head = format!("GET /api/overview HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            request(address(&inspector), &head).0
        };
        for host in ["localhost", "127.0.0.1:80", "[::1]", "status.example:8080"] {
            assert_eq!(status(host), 200, "{host}");
        }
        for host in ["other.example", "localhost.other.example", "10.0.0.1"] {
            assert_eq!(status(host), 421, "{host}");
        }
    });
}

#[test]
fn a_unix_socket_is_for_its_owner_and_needs_no_host() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let path = folder.join("inspector.sock");
        let inspector = Inspector::builder().listen_unix(&path).start().expect("an inspector");
        let mode = fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = UnixStream::connect(&path).expect("a connection");
        client
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
            .expect("sent");
        assert_eq!(response(client).0, 200);
        drop(inspector);
        assert!(!path.exists(), "the path is removed");
    });
}

#[test]
fn a_new_client_replaces_the_one_that_was_silent_longest() {
    with_watchdog(LIMIT, || {
        let inspector = builder().start().expect("an inspector");
        // More than the inspector keeps, and no more than it accepts before it disconnects others.
        let mut silent: Vec<TcpStream> = Vec::new();
        for _ in 0..70 {
            silent.push(TcpStream::connect(address(&inspector)).expect("a connection"));
            // So that they are accepted one by one.
            body(&inspector, "/metrics");
        }
        let first = silent.first_mut().expect("a client");
        assert_eq!(first.read(&mut [0; 1]).expect("an end"), 0);
        let last = silent.last_mut().expect("a client");
        last.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("sent");
        assert_eq!(response(last).0, 200);
    });
}

#[test]
fn requests_on_one_connection_have_replies_in_their_order() {
    with_watchdog(LIMIT, || {
        let echo = Echo::new();
        let _client = echo.exchange(1);
        let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
        let mut client = TcpStream::connect(address(&inspector)).expect("a connection");
        // The list is collected while the other two wait for their places.
        let head = |path: &str, field: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n");
        let heads = [
            head("/api/connections", ""),
            head("/none", ""),
            head("/api/descriptors", "Connection: close\r\n"),
        ];
        client.write_all(heads.concat().as_bytes()).expect("sent");
        let mut text = String::new();
        client.read_to_string(&mut text).expect("three responses");
        let parts: Vec<&str> = text.split("HTTP/1.1 ").skip(1).collect();
        assert_eq!(parts.len(), 3, "{text}");
        assert!(parts[0].starts_with("200") && parts[0].contains("\"total\":1"), "{text}");
        assert!(parts[1].starts_with("404") && parts[2].contains("\"descriptors\":["), "{text}");
    });
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    with_watchdog(LIMIT, || {
        let inspector = builder().start().expect("an inspector");
        let page = body(&inspector, "/");
        assert!(page.starts_with("<!doctype html>"), "{page}");
        for text in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(text), "the page contains {text}");
        }
        let head = "HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(request(address(&inspector), head), (200, String::new()));
        assert_eq!(get(&inspector, "/api/connections?sort=name").0, 400);
    });
}

#[test]
fn a_dropped_inspector_leaves_no_descriptor_and_its_loops_run_on() {
    alone(|| {
        let echo = Echo::new();
        drop(echo.exchange(1));
        let open = || fs::read_dir("/proc/self/fd").expect("a directory").count();
        while echo.server.open_connections() > 0 {
            thread::yield_now();
        }
        let before = open();
        for _ in 0..3 {
            let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
            await_body(&inspector, "/api/overview", |json| value(json, "state") == "running");
            drop(inspector);
            assert_eq!(open(), before);
        }
        drop(echo.exchange(1));
    });
}

#[test]
fn an_inspector_in_a_forked_child_does_nothing() {
    alone(|| {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        body(&inspector, "/api/overview");
        let (handle, inspector) = (thread.handle().clone(), std::cell::Cell::new(Some(inspector)));
        in_child(|| {
            let inspector = inspector.take().expect("a copy");
            inspector.watch_loop(&handle);
            drop(inspector);
        });
        let inspector = inspector.take().expect("the parent's");
        await_body(&inspector, "/api/overview", |json| value(json, "state") == "running");
    });
}
