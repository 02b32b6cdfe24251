//! The inspector: what it shows of loops, callbacks, servers and connections, and whom it serves.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod connections;
mod loops;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use reveille::net::{ServerHandle, TcpServerBuilder};
use reveille::observe::{Inspector, InspectorBuilder};
use reveille::{EventLoop, LoopThread, TcpConnection, TcpServer};

use support::LIMIT;

/// An inspector on a free port. No callback is slow.
fn builder() -> InspectorBuilder {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Inspector::builder().listen_tcp(any).slow_callbacks(Duration::from_secs(3600))
}

/// Same, but callbacks are slow from 20 ms on. On a busy machine that may be any callback.
fn strict_builder() -> InspectorBuilder {
    builder().slow_callbacks(Duration::from_millis(20))
}

fn address(inspector: &Inspector) -> SocketAddr {
    inspector.local_address().as_inet().expect("it listens on an IP address")
}

/// An echo server on a thread of its own.
struct Echo {
    thread: LoopThread,
    server: ServerHandle,
}

impl Echo {
    fn new() -> Echo {
        Echo::with(|builder| builder)
    }

    fn with(
        settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
    ) -> Echo {
        let (sender, server) = mpsc::channel();
        let thread = LoopThread::spawn_with("echo", move |event_loop| {
            let builder = settings(TcpServer::bind(event_loop, "127.0.0.1:0")?);
            let server = builder.serve_fn(|conn: &TcpConnection<'_>, input| conn.send(input.take_all()))?;
            sender.send(server.handle()).expect("the test waits");
            Ok(server)
        });
        let thread = thread.expect("a server");
        Echo { thread, server: server.recv().expect("a handle") }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.server.local_addr().expect("an IP address"));
        client.expect("a connection")
    }

    /// Connects, and sends and receives a number of bytes.
    fn exchange(&self, bytes: usize) -> TcpStream {
        let mut client = self.connect();
        client.write_all(&vec![b'x'; bytes]).expect("sent");
        client.read_exact(&mut vec![0; bytes]).expect("received");
        client
    }
}

/// Sends a request and returns the status and the body.
fn request(address: SocketAddr, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(head.as_bytes()).expect("sent");
    response(stream)
}

/// Receives a response, until the end of the connection.
fn response(mut stream: impl Read) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    (status.expect("a status").parse().expect("a number"), body.to_owned())
}

fn get(inspector: &Inspector, path: &str) -> (u16, String) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    request(address(inspector), &head)
}

/// The body of a successful response.
#[track_caller]
fn body(inspector: &Inspector, path: &str) -> String {
    let (status, body) = get(inspector, path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// The values with this key in a JSON text, as they are written; texts without their quotes.
fn values<'a>(json: &'a str, key: &str) -> Vec<&'a str> {
    let key = format!("\"{key}\":");
    let found = json.match_indices(&key).map(|(at, key)| &json[at + key.len()..]);
    let value = |rest: &'a str| match rest.strip_prefix('"') {
        Some(text) => &text[..text.find('"').expect("the end of a text")],
        None => &rest[..rest.find([',', '}', ']']).expect("the end of a value")],
    };
    found.map(value).collect()
}

/// The only value with this key.
#[track_caller]
fn value<'a>(json: &'a str, key: &str) -> &'a str {
    match values(json, key)[..] {
        [value] => value,
        ref values => panic!("{} values of {key} in {json}", values.len()),
    }
}

/// Requests a resource until it is as expected, and returns it.
#[track_caller]
fn await_body(inspector: &Inspector, path: &str, is_expected: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let body = body(inspector, path);
        if is_expected(&body) {
            return body;
        }
        assert!(Instant::now() < end, "{path} stays: {body}");
        thread::yield_now();
    }
}

/// Runs a task that blocks the loop until the returned sender is dropped. It has begun.
fn block(thread: &LoopThread) -> mpsc::Sender<()> {
    let (gate, opened) = mpsc::channel::<()>();
    let (has_begun, begun) = mpsc::channel();
    let blocking = move |_: &EventLoop| {
        let _ = has_begun.send(());
        let _ = opened.recv();
    };
    thread.handle().queue_in_loop(blocking).expect("the loop runs");
    begun.recv().expect("the task");
    gate
}
