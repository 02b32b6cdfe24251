//! The examples, and what they are visited with.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};

use crate::support::net::{self, connect, read_to_end};

pub(super) struct Example {
    pub(super) name: &'static str,
    pub(super) arguments: &'static [&'static str],
    pub(super) lifetime: Lifetime,
    pub(super) on_closed_output: OnClosedOutput,
    /// For each program that the example starts: the constant beginning of the name of its standard
    /// input. Its other descriptors are the standard output and standard error of the example.
    pub(super) started_inputs: &'static [&'static str],
}

pub(super) enum Lifetime {
    /// Ends by itself.
    Ends,
    /// Connects to the example with this name, and ends by itself.
    Requests { server: &'static str },
    /// Is ready when it has printed the line that begins with `ready`, and ends on a signal.
    /// `visit` gets the addresses from its output, and closes all of its connections.
    Serves { ready: &'static str, visit: fn(&[SocketAddr]) },
}

/// The behaviour of an example whose standard output is a pipe without a reader.
#[derive(PartialEq)]
pub(super) enum OnClosedOutput {
    Continues,
    /// Ends with status 1 and an error message.
    Fails,
}

use Lifetime::{Ends, Requests, Serves};
use OnClosedOutput::{Continues, Fails};

/// All examples of the package. A test checks that the table is complete.
pub(super) const EXAMPLES: &[Example] = &[
    Example {
        name: "async_echo",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves {
            ready: "try: ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "balance",
        // Nothing listens on this port.
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2", "--check", "0", "127.0.0.1:1"],
        lifetime: Serves { ready: "try: ", visit: |_| () },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "call_from_tokio",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "doorbell",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &["socket:"],
    },
    Example {
        name: "echo",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves {
            ready: "try: ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "eventfd",
        arguments: &["--write-every", "1ms", "--read-every", "1ms", "1", "2", "3"],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &["anon_inode:[eventfd]"],
    },
    Example {
        name: "file_server",
        arguments: &["--listen", "127.0.0.1:0", "/etc"],
        lifetime: Serves { ready: "try: ", visit: visit_file_server },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "in_mio",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves { ready: "UDP on ", visit: visit_in_mio },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "in_tokio",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves {
            ready: "echoing on ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "kvm_doorbell",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "memcached",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves { ready: "try: ", visit: visit_memcached },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "offload",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves { ready: "try: ", visit: visit_offload },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "own_ring",
        arguments: &["/etc/passwd"],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "pressure",
        arguments: &[],
        lifetime: Serves { ready: "end with ", visit: |_| () },
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "redis",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves { ready: "try: ", visit: visit_redis },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "redis_client",
        arguments: &[],
        lifetime: Requests { server: "redis" },
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "services",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves { ready: "try: ", visit: visit_services },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "services_client",
        arguments: &["--bytes", "100000", "--timeout", "3600"],
        lifetime: Requests { server: "services" },
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "socket_activation",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves {
            ready: "listening on ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "socks",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves { ready: "try: ", visit: visit_socks },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "terminal",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "udp_echo",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves { ready: "receiving on ", visit: visit_udp_echo },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "uring_cat",
        arguments: &["/etc/passwd", "-", "/etc/group"],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "zlib_tunnel",
        arguments: &["--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1"],
        lifetime: Serves { ready: "try: ", visit: |_| () },
        on_closed_output: Continues,
        started_inputs: &[],
    },
];

fn visit_redis(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(b"PING\r\n").unwrap();
    assert_eq!(net::read_exact(&mut client, 7), b"+PONG\r\n");
}

fn visit_memcached(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(b"set a 0 0 1\r\nx\r\n").unwrap();
    assert_eq!(net::read_exact(&mut client, 8), b"STORED\r\n");
}

/// Nothing listens on the port that the request names.
fn visit_socks(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 1]).unwrap();
    assert_eq!(net::read_exact(&mut client, 12), [5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
}

fn visit_offload(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(b"factor 12\n").unwrap();
    assert_eq!(net::read_exact(&mut client, 17), b"factor 12: 2 2 3\n");
}

fn visit_file_server(addresses: &[SocketAddr]) {
    let passwd = fs::read("/etc/passwd").unwrap();
    let mut client = connect(addresses[0]);
    client.write_all(b"GET passwd\n").unwrap();
    let reply = [format!("OK {}\n", passwd.len()).as_bytes(), &passwd].concat();
    assert_eq!(net::read_exact(&mut client, reply.len()), reply);
}

/// Each service has two addresses: that of TCP, then that of UDP.
fn visit_services(addresses: &[SocketAddr]) {
    let tcp: Vec<SocketAddr> = addresses.iter().copied().step_by(2).collect();
    let [echo, discard, daytime, quote, chargen, time] = tcp[..] else { panic!("{addresses:?}") };
    net::assert_echoes(&mut connect(echo));
    visit_udp_echo(&addresses[1..]);
    connect(discard).write_all(b"nothing").unwrap();
    assert!(read_to_end(&mut connect(daytime)).ends_with(b"UTC\r\n"));
    assert!(read_to_end(&mut connect(quote)).ends_with(b"\r\n"));
    assert_eq!(net::read_exact(&mut connect(chargen), 74)[72..], *b"\r\n");
    assert_eq!(read_to_end(&mut connect(time)).len(), 4);
}

fn visit_in_mio(addresses: &[SocketAddr]) {
    let [stream, datagrams] = addresses else { panic!("not two services: {addresses:?}") };
    net::assert_echoes(&mut connect(*stream));
    visit_udp_echo(&[*datagrams]);
}

fn visit_udp_echo(addresses: &[SocketAddr]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(net::LIMIT)).unwrap();
    socket.send_to(b"who is there?", addresses[0]).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 64]).unwrap(), (13, addresses[0]));
}
