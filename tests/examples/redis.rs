//! The examples redis and redis_client as programs, and their decoders.

#[path = "../../examples/redis/bytes.rs"]
mod bytes;
#[path = "../../examples/redis/commands/mod.rs"]
mod commands;
#[path = "../../examples/redis/database.rs"]
mod database;
mod decoders;
mod executed;
#[path = "../../examples/redis/glob.rs"]
mod glob;
mod limits;
mod models;
#[path = "../../examples/redis/numbers.rs"]
mod numbers;
#[path = "../../examples/redis/protocol.rs"]
mod protocol;
#[path = "../../examples/redis_client/replies.rs"]
mod replies;
#[path = "../../examples/redis/reply.rs"]
mod reply;
#[path = "../../examples/shared/resp.rs"]
mod resp;
#[path = "../../examples/redis/table.rs"]
mod table;
#[path = "../../examples/redis/value.rs"]
mod value;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::support::example::{self, Server};
use crate::support::{LIMIT, net, with_watchdog};
use rustix::process::{Pid, Signal, kill_process};

use replies::encode;

fn start(listen: &str) -> Server {
    let mut command = Command::new(example::program("redis"));
    let mut redis =
        Server::start(command.args(["--listen", listen, "--grace", "3600", "--max-memory", "16"]));
    let (ip, port) = (redis.address.ip(), redis.address.port());
    assert_eq!(redis.line(), format!("try: redis-cli -h {ip} -p {port}"));
    redis
}

/// Sends `bytes`, finishes, and returns everything that the server sends.
fn outcome_of(redis: &Server, bytes: &[u8]) -> String {
    let mut client = net::connect(redis.address);
    client.write_all(bytes).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    String::from_utf8(net::read_to_end(&mut client)).expect("text")
}

/// Encodes commands whose arguments are separated by spaces.
fn pipeline(commands: &[&str]) -> Vec<u8> {
    commands.iter().flat_map(|command| encode(&command.split(' ').collect::<Vec<_>>())).collect()
}

// --- The server ----------------------------------------------------------------------------------

#[test]
fn each_command_gets_its_reply_in_order() {
    with_watchdog(LIMIT, || {
        let redis = start("127.0.0.1:0");
        let exchanges = [
            ("PING", "+PONG\r\n"),
            ("ping text", "$4\r\ntext\r\n"),
            ("ECHO text", "$4\r\ntext\r\n"),
            ("GET key", "$-1\r\n"),
            ("SET key value", "+OK\r\n"),
            ("GET key", "$5\r\nvalue\r\n"),
            ("INCR key", "-ERR value is not an integer or out of range\r\n"),
            ("TTL key", ":-1\r\n"),
            ("EXPIRE key 100", ":1\r\n"),
            ("TTL key", ":100\r\n"),
            ("SET key other", "+OK\r\n"),
            ("TTL key", ":-1\r\n"),
            ("SET key value ex 200", "+OK\r\n"),
            ("TTL key", ":200\r\n"),
            ("SET key value EX 0", "-ERR invalid expire time in 'set' command\r\n"),
            ("SET key value EX 99999999999999999", "-ERR invalid expire time in 'set' command\r\n"),
            ("SET key value PX", "-ERR syntax error\r\n"),
            ("INCR count", ":1\r\n"),
            ("INCR count", ":2\r\n"),
            ("SET count 9223372036854775807", "+OK\r\n"),
            ("INCR count", "-ERR increment or decrement would overflow\r\n"),
            ("EXISTS key count none key", ":3\r\n"),
            ("EXPIRE count 0", ":1\r\n"),
            ("EXPIRE count 10", ":0\r\n"),
            ("TTL count", ":-2\r\n"),
            ("DEL key count none", ":1\r\n"),
            ("COMMAND DOCS", "*0\r\n"),
            ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
            ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
            ("a\nb c", "-ERR unknown command 'a b', with args beginning with: 'c' \r\n"),
            ("WAIT 0 1", ":0\r\n"),
            ("WAIT 1 1", ":0\r\n"),
            ("QUIT", "+OK\r\n"),
            ("PING", ""),
        ];
        let (commands, replies): (Vec<_>, Vec<_>) = exchanges.into_iter().unzip();
        assert_eq!(outcome_of(&redis, &pipeline(&commands)), replies.concat());
        redis.signal(Signal::TERM);
        let (status, totals) = redis.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, format!("1 connections, {} commands", commands.len() - 1));
    });
}

#[test]
fn inline_commands_are_executed_like_others() {
    with_watchdog(LIMIT, || {
        let redis = start("127.0.0.1:0");
        let commands = b"SET key  value\r\n\r\nGET key\nECHO \"a\\x41\\n\" \r\n*1\r\n$4\r\nPING\r\n";
        let replies = "+OK\r\n$5\r\nvalue\r\n$3\r\naA\n\r\n+PONG\r\n";
        assert_eq!(outcome_of(&redis, commands), replies);
    });
}

#[test]
fn a_malformed_command_gets_an_error_and_the_end() {
    with_watchdog(LIMIT, || {
        let redis = start("127.0.0.1:0");
        for (command, error) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*1048577\r\n", "invalid multibulk length"),
            ("*1\r\n+PING\r\n", "expected '$', got '+'"),
            ("*1\r\n\r\n", "expected '$', got ' '"),
            ("ECHO \"a\r\n", "unbalanced quotes in request"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$536870913\r\n", "invalid bulk length"),
            ("*1\r\n$300000000\r\n", "the command is longer than the limit of memory"),
            ("*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
            ("*1\r\n$1\r\nPING\r\n", "a bulk string is longer than its length"),
        ] {
            // The connection ends although this end stays open.
            let mut client = net::connect(redis.address);
            client.write_all(format!("PING\r\n{command}").as_bytes()).unwrap();
            let replies = net::read_to_end(&mut client);
            assert_eq!(
                String::from_utf8_lossy(&replies),
                format!("+PONG\r\n-ERR Protocol error: {error}\r\n")
            );
        }
    });
}

#[test]
fn large_values_are_stored_and_the_peer_that_does_not_read_waits() {
    with_watchdog(LIMIT, || {
        let redis = start("127.0.0.1:0");
        let value = net::pattern(8_000_000);
        let mut client = net::connect(redis.address);
        client.write_all(&encode(&[b"SET", &b"key"[..], &value])).unwrap();
        assert_eq!(net::read_exact(&mut client, 5), b"+OK\r\n");
        let requests = 20;
        client.write_all(&pipeline(&["GET key"]).repeat(requests)).unwrap();
        let reply = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        for _ in 0..requests {
            assert!(net::read_exact(&mut client, reply.len()) == reply);
        }
    });
}

#[test]
fn keys_expire_without_being_accessed() {
    with_watchdog(LIMIT, || {
        let redis = start("127.0.0.1:0");
        let mut client = net::connect(redis.address);
        client
            .write_all(&pipeline(&["SET key value EX 1", "SET other value EX 1", "SET other value"]))
            .unwrap();
        assert_eq!(net::read_exact(&mut client, 15), b"+OK\r\n+OK\r\n+OK\r\n");
        net::until(|| {
            // It counts keys without accessing them.
            client.write_all(&pipeline(&["DBSIZE"])).unwrap();
            net::read_exact(&mut client, 4) == b":1\r\n"
        });
        assert_eq!(outcome_of(&redis, &pipeline(&["GET key", "GET other"])), "$-1\r\n$5\r\nvalue\r\n");
    });
}

// --- The client ----------------------------------------------------------------------------------

fn client(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(example::program("redis_client"));
    command.args(["--connect", &address.to_string()]).args(arguments).stdin(Stdio::null());
    command
}

/// A client that prints the replies to a repeated command.
struct Repeating {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Repeating {
    fn start(address: SocketAddr, options: &[&str]) -> Repeating {
        let mut process = client(address, options).stdout(Stdio::piped()).spawn().expect("the example");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Repeating { process, lines }
    }

    /// Skips lines until this one.
    #[track_caller]
    fn prints(&mut self, expected: &str) {
        let found = self.lines.by_ref().any(|line| line.expect("a line") == expected);
        assert!(found, "the client has ended before it printed `{expected}`");
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_command_line_gets_its_reply_or_its_error() {
    with_watchdog(LIMIT, || {
        let redis = start("127.0.0.1:0");
        for (command, expected, is_success) in [
            ("SET key a\tb", "OK\n", true),
            ("GET key", "\"a\\tb\"\n", true),
            ("GET none", "nil\n", true),
            ("DEL key none", "1\n", true),
            ("CONFIG GET save", "2 values:\n\"save\"\n\"\"\n", true),
            ("GET", "error: ERR wrong number of arguments for 'get' command\n", false),
            ("--repeat 3 --every 1 INCR count", "1\n2\n3\n", true),
        ] {
            let arguments: Vec<&str> = command.split(' ').collect();
            let output = client(redis.address, &arguments).output().expect("the example");
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{command}");
            assert_eq!(output.status.success(), is_success, "{command}");
        }
        let demonstration = client(redis.address, &[]).output().expect("the example");
        assert_eq!(String::from_utf8_lossy(&demonstration.stdout), "OK\n11\n12\n13\n\"13\"\n1\n");
        assert!(demonstration.status.success());
    });
}

#[test]
fn a_client_continues_after_a_restart_of_the_server() {
    with_watchdog(LIMIT, || {
        // No other test uses this address, so its port stays free.
        let redis = start("127.41.0.3:0");
        let address = redis.address;
        let options = ["--retries", "1000000", "--repeat", "1000000", "--every", "1", "INCR", "count"];
        let mut client = Repeating::start(address, &options);
        client.prints("3");
        // The next server starts to count again.
        drop(redis);
        let _redis = start(&address.to_string());
        client.prints("1");
        client.prints("3");
    });
}

#[test]
fn requests_wait_for_a_server_that_starts_later() {
    with_watchdog(LIMIT, || {
        let reserved = start("127.41.0.1:0");
        let address = reserved.address;
        drop(reserved);
        let mut client = Repeating::start(address, &["--retries", "1000000", "PING"]);
        let _redis = start(&address.to_string());
        client.prints("PONG");
        assert!(client.process.wait().expect("a child").success());
    });
}

#[test]
fn all_requests_fail_without_a_server() {
    with_watchdog(LIMIT, || {
        let reserved = start("127.41.0.2:0");
        let address = reserved.address;
        drop(reserved);
        let output = client(address, &["--retries", "1"]).output().expect("the example");
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.starts_with("redis_client: cannot connect to ") && errors.lines().count() == 1,
            "{errors}"
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), "failed: the request was not sent\n".repeat(6));
    });
}

#[test]
fn a_signal_fails_the_requests_without_a_reply() {
    with_watchdog(LIMIT, || {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Repeating::start(server.local_addr().unwrap(), &["PING"]);
        let _connection = receive(&server, &encode(&["PING"]));
        kill_process(Pid::from_child(&client.process), Signal::TERM).expect("a running process");
        client.prints("failed: the event loop has ended");
        assert_eq!(client.process.wait().expect("a child").code(), Some(1));
    });
}

#[test]
fn a_request_whose_connection_is_lost_fails_and_others_follow() {
    with_watchdog(LIMIT, || {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ["--every", "1", "--repeat", "2", "PING"];
        let mut client = Repeating::start(server.local_addr().unwrap(), &options);
        // Both requests are pipelined.
        drop(receive(&server, &encode(&["PING"]).repeat(2)));
        client.prints("failed: both ends have finished");
        client.prints("failed: both ends have finished");

        let options = ["--every", "1", "--repeat", "1000000", "PING"];
        let mut client = Repeating::start(server.local_addr().unwrap(), &options);
        // A reply that nobody has requested, and one that is malformed, end the connection.
        for reply in ["+ONE\r\n+TWO\r\n", "?\r\n"] {
            let mut connection = receive(&server, &encode(&["PING"]));
            connection.write_all(reply.as_bytes()).unwrap();
        }
        let mut connection = receive(&server, &encode(&["PING"]));
        connection.write_all(b"+THREE\r\n").unwrap();
        client.prints("THREE");
    });
}

#[test]
fn a_request_whose_reply_is_late_fails() {
    with_watchdog(LIMIT, || {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ["--timeout", "10", "--retries", "0", "PING"];
        let mut client = Repeating::start(server.local_addr().unwrap(), &options);
        let _connection = receive(&server, &encode(&["PING"]));
        client.prints("failed: the deadline of the connection passed");
        assert_eq!(client.process.wait().expect("a child").code(), Some(1));
    });
}

/// Accepts a connection and reads these bytes from it.
fn receive(server: &TcpListener, bytes: &[u8]) -> TcpStream {
    let (mut connection, _) = server.accept().expect("a client");
    assert_eq!(net::read_exact(&mut connection, bytes.len()), bytes);
    connection
}
